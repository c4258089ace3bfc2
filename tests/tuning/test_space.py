"""From the configuration to Optuna's distributions, and from a trial's parameters back."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from recsys.config.compose import compose
from recsys.config.schema import Config
from recsys.config.tune import Distribution
from recsys.tuning.space import configured, distributions, grid, values_of

SEARCH = {
    "model.width": Distribution(low=32, high=96, step=32),
    "training.learning_rate": Distribution(low=1e-4, high=1e-2, log=True),
    "ranker.hidden": Distribution(choices=[[256, 128], [64]]),
    "ranker.norm": Distribution(choices=["layer", "none"]),
    "ranker.training.stride_days": Distribution(choices=[None, 7.0]),
}


@pytest.fixture(scope="module")
def cfg() -> Config:
    cfg = compose("train")
    assert isinstance(cfg, Config)
    return cfg


def test_kinds_follow_the_schema(cfg: Config) -> None:
    assert distributions(cfg, SEARCH) == {
        "model.width": IntDistribution(32, 96, step=32),
        "training.learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        "ranker.hidden": CategoricalDistribution(["[256, 128]", "[64]"]),
        "ranker.norm": CategoricalDistribution(["layer", "none"]),
        "ranker.training.stride_days": CategoricalDistribution([None, 7.0]),
    }


def test_the_first_trial_is_what_is_configured(cfg: Config) -> None:
    first = configured(cfg, SEARCH)
    assert first["ranker.hidden"] == "[256, 128]"
    values = values_of(first, SEARCH)
    assert values == {
        "model.width": 64,
        "training.learning_rate": 1e-3,
        "ranker.hidden": [256, 128],
        "ranker.norm": "layer",
        "ranker.training.stride_days": None,
    }


def test_a_grid_is_every_point_but_the_first_trial(cfg: Config) -> None:
    search = {"model.width": SEARCH["model.width"], "ranker.hidden": SEARCH["ranker.hidden"]}
    points = grid(cfg, search)
    assert len(points) == 5
    assert configured(cfg, search) not in points
    assert {type(point["model.width"]) for point in points} == {int}
    assert len({tuple(point.values()) for point in points}) == 5
