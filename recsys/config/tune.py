"""Configuration of ``recsys tune``: the search space, who proposes, who stops early, and the budget."""

from dataclasses import dataclass, field
from typing import Any

from recsys.config.schema import Config

SAMPLERS = ("tpe", "random", "grid", "cmaes", "gp", "nsga2")
PRUNERS = ("median", "hyperband", "patience", "none")
LATENCY = "milliseconds_a_user"
"""Name of the further objective that is measured on a clock."""


@dataclass
class Distribution:
    """Values that one key may take: from ``low`` to ``high``, or one of ``choices``; whole numbers for whole keys."""

    low: float | None = None  # both ends belong to it
    high: float | None = None  # the largest, at least low
    log: bool = False  # true: equal factors are equally likely, not equal differences
    step: float | None = None  # between values; null: any float, every whole number
    choices: list[Any] | None = None  # instead of low and high; null is a value as well, and so is a list


@dataclass
class SamplerConfig:
    """Who proposes the next trial."""

    name: str = "tpe"  # tpe | random | grid | cmaes | gp | nsga2
    startup: int = 10  # random trials before tpe and gp learn from them
    population: int = 20  # trials of a generation of nsga2


@dataclass
class PrunerConfig:
    """What stops a trial early, by the objective on the validation window after each epoch."""

    name: str = "median"  # median | hyperband | patience | none
    startup: int = 5  # finished trials before median stops any
    warmup: int = 0  # epochs of each trial that median lets pass
    reduction: int = 3  # of hyperband: one in so many goes on
    patience: int = 2  # epochs without a better objective before patience stops a trial


@dataclass
class TuneConfig(Config):
    """``tune``: trials over a search space, each judged on the validation window."""

    study: str = "${data.name}"  # processes with the same study and storage work on it together
    storage: str = "sqlite:///tune.db"  # sqlite:///FILE | journal:///FILE | postgresql://USER@HOST/DATABASE
    search: dict[str, Distribution] = field(default_factory=dict)  # config key -> values it may take
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    pruner: PrunerConfig = field(default_factory=PrunerConfig)
    also: list[str] = field(default_factory=list)  # beside objective: coverage_at_K (more), milliseconds_a_user (less)
    trials: int | None = 20  # of the study, whoever does them; null: minutes alone count
    minutes: float | None = None  # of this process, after which it begins no trial; null: trials alone count
    retries: int = 2  # of a trial whose worker died
    heartbeat_seconds: float = 20.0  # between signs of life of a running trial
    grace_seconds: float = 120.0  # without one after which its worker counts as dead
    final_fit: bool = False  # true: go on with `recsys train` of the best, which opens the test window
