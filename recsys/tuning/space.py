"""The search space as Optuna knows it, and back to values of the configuration."""

import json
from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

from recsys.config.check_tune import grid_values
from recsys.config.schema import Config
from recsys.config.search import kind_at, text_of, value_at
from recsys.config.tune import Distribution

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def distributions(cfg: Config, search: Mapping[str, Distribution]) -> "dict[str, BaseDistribution]":
    """Return config key to Optuna's distribution; the space has been checked with the configuration."""
    return {key: _distribution(kind_at(cfg, key), spread) for key, spread in search.items()}


def _distribution(kind: type, spread: Distribution) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if spread.choices is not None:
        return CategoricalDistribution([text_of(choice) for choice in spread.choices])
    if spread.low is None or spread.high is None:
        raise AssertionError("a range without ends passed the check")
    if kind is int:
        return IntDistribution(int(spread.low), int(spread.high), spread.log, int(spread.step or 1))
    return FloatDistribution(spread.low, spread.high, spread.log, spread.step)


def configured(cfg: Config, search: Mapping[str, Distribution]) -> dict[str, Any]:
    """Return the parameters of the first trial: what the configuration says at the keys that are searched."""
    return {key: text_of(value_at(cfg, key)) for key in search}


def values_of(params: Mapping[str, Any], search: Mapping[str, Distribution]) -> dict[str, Any]:
    """Return the values that a trial's parameters stand for: lists and maps are no longer text."""
    return {key: _choice(value, search[key].choices) for key, value in params.items()}


def _choice(value: Any, choices: list[Any] | None) -> Any:
    as_it_is = not isinstance(value, str) or value in (choices or ())
    return value if as_it_is else json.loads(value)


def grid(cfg: Config, search: Mapping[str, Distribution]) -> list[dict[str, Any]]:
    """Return the parameters of every point of the grid but that of the first trial, in order."""
    axes = []
    for key, spread in search.items():
        whole = spread.choices is None and kind_at(cfg, key) is int
        axes.append([int(value) if whole else text_of(value) for value in grid_values(spread)])
    points = [dict(zip(search, point, strict=True)) for point in product(*axes)]
    first = configured(cfg, search)
    return [point for point in points if point != first]
