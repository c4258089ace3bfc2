"""The search space against the schema: does a key exist, which kind is it, may it take these values."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recsys.config.schema import Config
from recsys.config.tune import Distribution
from recsys.errors import did_you_mean

TUNABLE = ("model", "training", "ranker", "segments", "trainer")
"""Groups whose keys may be searched: the others say what is measured, on which data, or where things lie."""

Any_Config = TypeVar("Any_Config", bound=Config)


def value_at(cfg: Any, key: str) -> Any:
    """Return what a configuration says at a dotted key.

    Raises:
        KeyError: There is no such key; its text is the part that is missing.
    """
    for name in key.split("."):
        inside = {f.name for f in fields(cfg)} if is_dataclass(cfg) else cfg if isinstance(cfg, dict) else {}
        if name not in inside:
            raise KeyError(name)
        cfg = getattr(cfg, name) if is_dataclass(cfg) else cfg[name]
    return cfg


def kind_at(cfg: Config, key: str) -> type:
    """Return ``int``, ``float``, ``bool``, ``str``, ``list`` ... of a key: by the schema, else by its present value."""
    parent, _, name = key.rpartition(".")
    owner = value_at(cfg, parent)
    if not is_dataclass(owner):
        return type(owner[name])
    hint = get_type_hints(type(owner))[name]
    if get_origin(hint) in (Union, UnionType):
        (hint, *_) = [part for part in get_args(hint) if part is not NoneType]
    return get_origin(hint) or hint


def with_values(cfg: Any_Config, values: Mapping[str, Any]) -> Any_Config:
    """Return a copy of a configuration with other values at dotted keys, each of the type that the schema gives.

    Raises:
        OmegaConfBaseException: A value has another type.
    """
    changed = deepcopy(cfg)
    for key, value in values.items():
        parent, _, name = key.rpartition(".")
        owner = value_at(changed, parent)
        if is_dataclass(owner):
            node = OmegaConf.structured(type(owner))
            node[name] = value
            setattr(owner, name, OmegaConf.to_object(node[name]) if isinstance(value, list | dict) else node[name])
        else:
            owner[name] = value
    return changed


def paths(cfg: Any, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key below which nothing lies."""
    inside = {f.name: getattr(cfg, f.name) for f in fields(cfg)} if is_dataclass(cfg) else cfg
    for name, value in inside.items():
        if is_dataclass(value) or (isinstance(value, dict) and value):
            yield from paths(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def text_of(value: Any) -> Any:
    """Return a choice as a study stores it: lists and maps as JSON text, all else as it is."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def search_problems(
    cfg: Config, search: Mapping[str, Distribution], rules: Callable[[Config], Iterator[str]]
) -> Iterator[str]:
    """Yield a message for every key and value of the search space that the schema or a rule refuses.

    Args:
        cfg: What the trials are made from; its own values are those of the first trial.
        search: Config key to distribution.
        rules: Yields a message for every rule that a configuration breaks.
    """
    if not search:
        yield "search has no key; take search=two_tower, search=ranker or a file of your own in DIR/search/."
    known = [path for path in paths(cfg) if path.partition(".")[0] in TUNABLE]
    broken = set(rules(cfg))
    for key, spread in search.items():
        try:
            value_at(cfg, key)
        except KeyError:
            yield f"search.{key}: no such key.{did_you_mean(key, known)}"
            continue
        if key not in known:
            yield f"search.{key}: cannot be searched; keys of {', '.join(TUNABLE)} can.{did_you_mean(key, known)}"
            continue
        found = list(_shape(key, spread, kind_at(cfg, key)))
        if not found:
            found = [*_values(cfg, key, spread, rules, broken), *_first(cfg, key, spread)]
        yield from found


def _shape(key: str, spread: Distribution, kind: type) -> Iterator[str]:
    """A distribution by itself: choices, or a range of numbers that fits the kind of the key."""
    place = f"search.{key}"
    if spread.choices is not None:
        if spread.low is not None or spread.high is not None or spread.step is not None or spread.log:
            yield f"{place}: choices stand alone; leave out low, high, step and log."
        if len({json.dumps(choice, default=str) for choice in spread.choices}) < max(1, len(spread.choices)):
            yield f"{place}.choices={spread.choices}: must be one or more different values."
        return
    if kind not in (int, float):
        yield f"{place}: is no number but {kind.__name__}; give choices: [...]."
        return
    if spread.low is None or spread.high is None or not -math.inf < spread.low < spread.high < math.inf:
        yield f"{place}: low={spread.low} and high={spread.high} must be two numbers, low below high; or give choices."
        return
    if kind is int and any(x is not None and x != int(x) for x in (spread.low, spread.high, spread.step)):
        yield f"{place}: is a whole number; low={spread.low}, high={spread.high} and step={spread.step} must be, too."
    if spread.log and (spread.low <= 0 or spread.step is not None):
        yield f"{place}.log=true: needs low={spread.low} above 0, and no step={spread.step}."
    elif spread.step is not None and not (spread.step > 0 and _on_grid(spread.high, spread)):
        yield f"{place}.step={spread.step}: must be above 0 and lead from low={spread.low} to high={spread.high}."


def _on_grid(value: float, spread: Distribution) -> bool:
    if spread.step is None or spread.low is None:
        return True
    steps = (value - spread.low) / spread.step
    return abs(steps - round(steps)) < 1e-8


def _values(
    cfg: Config, key: str, spread: Distribution, rules: Callable[[Config], Iterator[str]], broken: set[str]
) -> Iterator[str]:
    """The ends of a range, or every choice, put into the configuration: types and rules as for any other value."""
    kind = kind_at(cfg, key)
    ends = [("low", spread.low), ("high", spread.high)]
    given = ends if spread.choices is None else [("choices", choice) for choice in spread.choices]
    for name, value in given:
        try:
            changed = with_values(cfg, {key: int(value) if kind is int and name != "choices" else value})  # type: ignore[arg-type]
        except OmegaConfBaseException:
            yield f"search.{key}.{name}: '{value}' is not of the key's type, {kind.__name__}."
            continue
        yield from (f"search.{key}.{name}: {problem}" for problem in rules(changed) if problem not in broken)


def _first(cfg: Config, key: str, spread: Distribution) -> Iterator[str]:
    """The first trial has the configured values, so they must be part of the space."""
    value = value_at(cfg, key)
    if spread.choices is not None:
        inside = text_of(value) in [text_of(choice) for choice in spread.choices]
    else:
        low, high = spread.low or 0.0, spread.high or 0.0
        inside = isinstance(value, int | float) and low <= value <= high and _on_grid(value, spread)
    if not inside:
        yield (
            f"search.{key}: the configured value {value} is that of the first trial, and not among the values to "
            f"search; widen them, or set {key}."
        )
