"""The rules of ``recsys tune`` that types cannot say."""

import re
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

from recsys.config.schema import Config
from recsys.config.search import kind_at, search_problems
from recsys.config.tune import LATENCY, PRUNERS, SAMPLERS, Distribution, TuneConfig
from recsys.errors import did_you_mean

SEVERAL = ("tpe", "random", "grid", "gp", "nsga2")
"""Samplers that know what to do with several objectives."""
MAX_GRID = 10_000
STORAGE = r"(sqlite|journal):///.+|postgresql(\+\w+)?://.+"


def tune_problems(cfg: TuneConfig, rules: Callable[[Config], Iterator[str]]) -> Iterator[str]:
    """Yield a message for every broken rule of ``recsys tune``.

    Args:
        cfg: With the search space.
        rules: Yields a message for every rule that a configuration breaks, whichever verb it is for.
    """
    found = list(search_problems(cfg, cfg.search, rules))
    yield from found
    for key, value, legal in (("sampler", cfg.sampler.name, SAMPLERS), ("pruner", cfg.pruner.name, PRUNERS)):
        if value not in legal:
            yield f"{key}.name: '{value}' is not one of {', '.join(legal)}.{did_you_mean(value, legal)}"
    yield from _numbers(cfg)
    yield from _several(cfg)
    yield from _storage(cfg)
    if cfg.sampler.name == "grid" and not found:
        yield from _grid(cfg)
    if not cfg.ranker.enabled and any(key.startswith("ranker.") for key in cfg.search):
        yield "ranker.enabled=false: the search has keys of the ranker; leave out ranker=none."
    if cfg.ckpt_path is not None:
        yield f"ckpt_path={cfg.ckpt_path}: a trial begins from nothing; leave it out."
    if cfg.trainer.get("devices", 1) not in (1, "1") or cfg.trainer.get("num_nodes", 1) != 1:
        yield (
            f"trainer.devices={cfg.trainer.get('devices')}: a trial has one device; with trainer=gpu start as many "
            "`recsys tune` as there are devices, each takes one of its own."
        )


def grid_values(spread: Distribution) -> list[Any]:
    """Return the values of a distribution with choices or steps, in order; a whole key has steps of 1 by itself."""
    if spread.choices is not None:
        return list(spread.choices)
    low, high, step = spread.low or 0.0, spread.high or 0.0, spread.step or 1.0
    return [round(low + place * step, 12) for place in range(round((high - low) / step) + 1)]


def _numbers(cfg: TuneConfig) -> Iterator[str]:
    if cfg.trials is None and cfg.minutes is None:
        yield "trials and minutes: give at least one, or the study never ends."
    if cfg.trials is not None and cfg.trials < 1:
        yield f"trials={cfg.trials}: must be 1 or more, or null."
    if cfg.minutes is not None and not cfg.minutes > 0:
        yield f"minutes={cfg.minutes}: must be above 0, or null."
    for key, least in (("sampler.startup", 1), ("sampler.population", 2), ("pruner.startup", 0), ("pruner.warmup", 0)):
        group, _, name = key.partition(".")
        value = getattr(getattr(cfg, group), name)
        if value < least:
            yield f"{key}={value}: must be {least} or more."
    for key, value, least in (
        ("pruner.reduction", cfg.pruner.reduction, 2),
        ("pruner.patience", cfg.pruner.patience, 0),
        ("retries", cfg.retries, 0),
    ):
        if value < least:
            yield f"{key}={value}: must be {least} or more."
    if not cfg.heartbeat_seconds > 0 or cfg.grace_seconds < 2 * cfg.heartbeat_seconds:
        yield (
            f"grace_seconds={cfg.grace_seconds}: must be twice heartbeat_seconds={cfg.heartbeat_seconds} or more, "
            "and both above 0."
        )


def _several(cfg: TuneConfig) -> Iterator[str]:
    """Objectives beside the first."""
    legal = [*(f"coverage_at_{k}" for k in cfg.evaluation.ks), LATENCY]
    for name in cfg.also:
        if name not in legal:
            yield f"also: '{name}' is not one of {', '.join(legal)}.{did_you_mean(name, legal)}"
    if cfg.also and cfg.sampler.name not in SEVERAL:
        yield f"sampler.name={cfg.sampler.name}: knows one objective; with also={cfg.also} take {', '.join(SEVERAL)}."
    if cfg.also and cfg.pruner.name != "none":
        yield f"pruner.name={cfg.pruner.name}: judges one objective; with also={cfg.also} set pruner.name=none."


def _storage(cfg: TuneConfig) -> Iterator[str]:
    if not cfg.study:
        yield "study: must have a name."
    shown = re.sub(r":[^:/@]*@", ":...@", cfg.storage)
    if not re.fullmatch(STORAGE, cfg.storage):
        yield (
            f"storage: '{shown}' must be sqlite:///FILE or journal:///FILE on one machine, or "
            "postgresql://USER@HOST/DATABASE for many."
        )
    elif shown != cfg.storage:
        yield (
            f"storage: '{shown}' holds a password, and the configuration is written down; leave it out and set the "
            "environment variable PGPASSWORD, or write it into ~/.pgpass."
        )


def _grid(cfg: TuneConfig) -> Iterator[str]:
    for key, spread in cfg.search.items():
        if spread.choices is None and spread.step is None and (spread.log or kind_at(cfg, key) is not int):
            yield f"search.{key}: sampler.name=grid needs a step, or choices."
            return
    size = prod(len(grid_values(spread)) for spread in cfg.search.values())
    if size > MAX_GRID:
        yield f"sampler.name=grid: the grid has {size:,} points, at most {MAX_GRID:,} are legal; take larger steps."
