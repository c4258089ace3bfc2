"""A study in memory, and its space."""

from collections.abc import Iterator
from typing import Any

import optuna
import pytest

from recsys.tuning.study import begin, quiet


@pytest.fixture
def study() -> Iterator[optuna.Study]:
    """A study in memory, to be maximised, with x = 0.5 queued as its first trial."""
    with quiet():
        made = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
        begin(made, [{"x": 0.5}])
        yield made


@pytest.fixture
def space() -> dict[str, Any]:
    return {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}
