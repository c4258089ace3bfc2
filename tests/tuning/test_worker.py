"""What one worker does with trials that end well, badly, early or twice, and with its budget."""

import os
import signal
import threading
import time
from typing import Any

import optuna
import pytest
import torch

from recsys.tuning.alive import FOLLOWS
from recsys.tuning.worker import MAX_TWINS, REASON, SAME_AS, Plan, reason_of, spent, why_failed, work

PLAN = Plan(trials=4, minutes=None, retries=2, heartbeat=5.0, grace=60.0)


def run(study: optuna.Study, space: dict[str, Any], objective: Any, plan: Plan = PLAN) -> list[int]:
    told: list[int] = []
    work(study, space, objective, plan, lambda trial: told.append(trial.number))
    return told


def test_trials_until_the_budget_is_spent(study: optuna.Study, space: dict[str, Any]) -> None:
    assert run(study, space, lambda trial: [trial.params["x"]]) == [0, 1, 2, 3]
    assert study.trials[0].params == {"x": 0.5}
    assert [trial.values for trial in study.trials] == [[trial.params["x"]] for trial in study.trials]
    assert run(study, space, lambda trial: [0.0]) == []


def test_minutes_end_it_before_the_next_trial(study: optuna.Study, space: dict[str, Any]) -> None:
    def slow(trial: optuna.Trial) -> list[float]:
        time.sleep(0.1)
        return [0.0]

    told = run(study, space, slow, Plan(None, 0.25 / 60, 2, 5.0, 60.0))
    assert 1 <= len(told) <= 3
    assert all(trial.state.is_finished() for trial in study.trials)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no such width\nmore"), "ValueError: no such width"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory: CUDA out of memory."),
        (MemoryError(), "out of memory: MemoryError"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory: DefaultCPUAllocator"),
    ],
)
def test_a_failed_trial_says_why_and_the_study_goes_on(
    error: Exception, reason: str, study: optuna.Study, space: dict[str, Any]
) -> None:
    def fails_once(trial: optuna.Trial) -> list[float]:
        if trial.number == 1:
            raise error
        return [1.0]

    assert run(study, space, fails_once) == [0, 1, 2, 3]
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[1].user_attrs[REASON].startswith(reason)


def test_a_value_that_is_no_number_is_a_failure(study: optuna.Study, space: dict[str, Any]) -> None:
    run(study, space, lambda trial: [float("nan")])
    assert {why_failed(trial) for trial in study.trials} == {"ValueError: the objective is [nan]"}


def test_pruned_trials_keep_their_last_value(study: optuna.Study, space: dict[str, Any]) -> None:
    def pruned(trial: optuna.Trial) -> list[float]:
        trial.report(0.25, 0)
        raise optuna.TrialPruned

    run(study, space, pruned)
    assert {(trial.state.name, trial.value) for trial in study.trials} == {("PRUNED", 0.25)}


def test_parameters_that_have_been_tried_are_not_fitted_again(study: optuna.Study) -> None:
    fitted: list[float] = []

    def objective(trial: optuna.Trial) -> list[float]:
        fitted.append(trial.params["x"])
        return [trial.params["x"]]

    space: dict[str, Any] = {"x": optuna.distributions.FloatDistribution(0.0, 1.0, step=0.5)}
    run(study, space, objective, Plan(None, 1.0, 2, 5.0, 60.0))  # ends because the space is used up
    assert sorted(fitted) == [0.0, 0.5, 1.0]
    twins = [trial for trial in study.trials if SAME_AS in trial.user_attrs]
    assert len(twins) >= MAX_TWINS
    assert all(trial.params == study.trials[trial.user_attrs[SAME_AS]].params for trial in twins)


def test_the_last_place_goes_to_the_lower_number(study: optuna.Study, space: dict[str, Any]) -> None:
    for _ in range(3):
        study.ask(space)
    assert [spent(study, 2, before=number) for number in range(3)] == [False, False, True]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_trial_and_queues_it_again(number: int, study: optuna.Study, space: dict[str, Any]) -> None:
    def interrupted(trial: optuna.Trial) -> list[float]:
        if trial.number == 1:
            os.kill(os.getpid(), number)
            time.sleep(5)
        return [1.0]

    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        run(study, space, interrupted)
    assert ended.value.code == 128 + number
    assert signal.getsignal(number) is before
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "WAITING"]
    assert study.trials[2].user_attrs[FOLLOWS] == 1

    run(study, space, lambda trial: [0.0])
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert study.trials[2].params == study.trials[1].params


def test_a_signal_between_trials_waits_for_the_end_of_telling(study: optuna.Study, space: dict[str, Any]) -> None:
    def told(trial: optuna.trial.FrozenTrial) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        work(study, space, lambda trial: [1.0], PLAN, told)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"]


def test_it_waits_for_the_trials_of_others_and_takes_those_of_the_dead(
    study: optuna.Study, space: dict[str, Any]
) -> None:
    other = study.ask(space)  # and then its worker dies
    told = run(study, space, lambda trial: [1.0], Plan(1, None, 2, 0.1, 0.3))
    assert told == [1]
    assert study.trials[1].params == other.params
    assert why_failed(study.trials[0]) == "its worker died"


def test_a_worker_taken_for_dead_does_not_overwrite(study: optuna.Study, space: dict[str, Any]) -> None:
    def given_up(trial: optuna.Trial) -> list[float]:
        if trial.number == 0:
            study.tell(0, state=optuna.trial.TrialState.FAIL)
        return [1.0]

    run(study, space, given_up, Plan(2, None, 0, 5.0, 60.0))
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]


def test_outside_of_the_main_thread_signals_are_left_alone(study: optuna.Study, space: dict[str, Any]) -> None:
    thread = threading.Thread(target=run, args=(study, space, lambda trial: [1.0]))
    thread.start()
    thread.join()
    assert len(study.trials) == 4


def test_reasons_are_one_line() -> None:
    assert reason_of(KeyError("x" * 1000)).startswith("KeyError: 'xxx")
    assert len(reason_of(KeyError("x" * 1000))) < 320
