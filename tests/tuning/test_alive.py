"""Signs of life, by each watcher's own clock."""

import time
from typing import Any

import optuna
import pytest

from recsys.tuning import alive
from recsys.tuning.alive import BEAT, DEATHS, FOLLOWS, Vigil, beating, bury, standing, try_again


def test_a_running_trial_gives_signs(study: optuna.Study, space: dict[str, Any]) -> None:
    trial = study.ask(space)
    with beating(trial, 0.02):
        time.sleep(0.3)
    count = study.trials[0].user_attrs[BEAT]
    assert count > 2
    time.sleep(0.1)
    assert study.trials[0].user_attrs[BEAT] == count


def test_a_storage_that_is_away_does_not_end_the_trial(
    study: optuna.Study, space: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(key: str, value: object) -> None:
        raise ConnectionError("no route")

    trial = study.ask(space)
    monkeypatch.setattr(trial, "set_user_attr", away)
    with beating(trial, 0.02):
        time.sleep(0.1)
    assert "no sign of life could be stored (no route)" in caplog.text


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The watcher's clock; element 0 is the time."""
    now = [0.0]
    monkeypatch.setattr(alive.time, "monotonic", lambda: now[0])
    return now


def test_silence_counts_from_the_first_look(study: optuna.Study, space: dict[str, Any], clock: list[float]) -> None:
    vigil, trial = Vigil(10.0), study.ask(space)
    assert vigil.dead(study) == []
    clock[0] = 9.0
    trial.set_user_attr(BEAT, 1)
    assert vigil.dead(study) == []
    clock[0] = 18.0
    assert vigil.dead(study) == []
    clock[0] = 19.5
    assert [dead.number for dead in vigil.dead(study)] == [0]


def test_a_dead_workers_trial_is_tried_again_so_often(
    study: optuna.Study, space: dict[str, Any], clock: list[float]
) -> None:
    vigil = Vigil(10.0)
    for deaths in (0, 1, 2):
        trial = study.ask(space)
        assert trial.params == {"x": 0.5}
        assert trial.user_attrs.get(DEATHS, 0) == deaths
        bury(study, vigil, retries=2)
        clock[0] += 11.0
        bury(study, vigil, retries=2)
    assert [t.state.name for t in study.trials] == ["FAIL"] * 3
    assert [t.user_attrs.get(FOLLOWS) for t in study.trials] == [None, 0, 1]
    assert [t.number for t in standing(study)] == [2]


def test_two_watchers_bury_once(study: optuna.Study, space: dict[str, Any], clock: list[float]) -> None:
    vigils = [Vigil(10.0), Vigil(10.0)]
    study.ask(space)
    for vigil in vigils:
        vigil.dead(study)
    clock[0] = 11.0
    stale = vigils[1].dead(study)
    bury(study, vigils[0], retries=2)
    vigils[1].dead = lambda study: stale  # type: ignore[method-assign]
    bury(study, vigils[1], retries=2)
    assert [t.state.name for t in study.trials] == ["FAIL", "WAITING"]


def test_a_trial_without_all_parameters_gets_the_rest(study: optuna.Study) -> None:
    space: dict[str, Any] = {name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in "xy"}
    trial = study.ask({"x": space["x"]})
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    try_again(study, study.trials[0], 1)
    assert set(study.ask(space).params) == {"x", "y"}
