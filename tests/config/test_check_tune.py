"""The rules of a study across its keys."""

from copy import deepcopy
from typing import Any

import pytest

from recsys.config.check import config_problems
from recsys.config.check_tune import grid_values, tune_problems
from recsys.config.compose import compose
from recsys.config.tune import Distribution, TuneConfig


@pytest.fixture(scope="module")
def cfg() -> TuneConfig:
    cfg = compose("tune")
    assert isinstance(cfg, TuneConfig)
    return cfg


def problems(cfg: TuneConfig, **changes: Any) -> str:
    changed = deepcopy(cfg)
    for key, value in changes.items():
        group, _, name = key.partition("__")
        if name:
            setattr(getattr(changed, group), name, value)
        else:
            setattr(changed, key, value)
    return "\n".join(tune_problems(changed, config_problems))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"trials": None}, "trials and minutes: give at least one"),
        ({"trials": 0}, "trials=0: must be 1 or more"),
        ({"minutes": 0.0}, "minutes=0.0: must be above 0"),
        ({"sampler__name": "tpee"}, "is not one of tpe, random, grid, cmaes, gp, nsga2. Did you mean 'tpe'?"),
        ({"pruner__name": "mean"}, "pruner.name: 'mean' is not one of median, hyperband, patience, none."),
        ({"sampler__population": 1}, "sampler.population=1: must be 2 or more"),
        ({"pruner__reduction": 1}, "pruner.reduction=1: must be 2 or more"),
        ({"retries": -1}, "retries=-1: must be 0 or more"),
        ({"grace_seconds": 30.0}, "grace_seconds=30.0: must be twice heartbeat_seconds=20.0"),
        ({"also": ["coverage_at_7"]}, "also: 'coverage_at_7' is not one of coverage_at_10"),
        ({"also": ["coverage_at_20"]}, "pruner.name=median: judges one objective"),
        ({"also": ["coverage_at_20"], "sampler__name": "cmaes"}, "sampler.name=cmaes: knows one objective"),
        ({"storage": "tune.db"}, "storage: 'tune.db' must be sqlite:///FILE"),
        ({"storage": "postgresql://me:secret@host/db"}, "holds a password"),
        ({"sampler__name": "grid"}, "sampler.name=grid needs a step, or choices"),
        ({"ckpt_path": "last"}, "ckpt_path=last: a trial begins from nothing"),
        ({"trainer": {"devices": -1}}, "trainer.devices=-1: a trial has one device"),
        ({"study": ""}, "study: must have a name"),
    ],
)
def test_what_a_study_may_not_say(changes: dict[str, Any], expected: str, cfg: TuneConfig) -> None:
    found = problems(cfg, **changes)
    assert expected in found
    assert "secret" not in found


def test_the_ranker_must_be_there_to_be_searched(cfg: TuneConfig) -> None:
    search = {"ranker.dropout": Distribution(low=0.0, high=0.5)}
    assert problems(cfg, search=search) == ""
    assert "the search has keys of the ranker" in problems(cfg, search=search, ranker__enabled=False)


def test_a_grid_has_a_bound(cfg: TuneConfig) -> None:
    wide = {"model.history": Distribution(low=1, high=1024), "model.width": Distribution(low=1, high=128)}
    assert "131,072 points, at most 10,000" in problems(cfg, search=wide, sampler__name="grid")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"storage": "postgresql://me@host/db"},
        {"storage": "journal:///study.log", "trials": None, "minutes": 5.0},
        {"sampler__name": "nsga2", "pruner__name": "none", "also": ["coverage_at_20", "milliseconds_a_user"]},
    ],
)
def test_what_it_may_say(changes: dict[str, Any], cfg: TuneConfig) -> None:
    assert problems(cfg, **changes) == ""


def test_values_of_a_grid() -> None:
    assert grid_values(Distribution(low=0.1, high=0.3, step=0.1)) == [0.1, 0.2, 0.3]
    assert grid_values(Distribution(low=2, high=4)) == [2, 3, 4]
    assert grid_values(Distribution(choices=[None, "a"])) == [None, "a"]
