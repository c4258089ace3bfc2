"""Several processes on one study: trials are shared, a killed worker's trial is done again, a stopped one goes on."""

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import optuna
import pytest

from recsys.tuning.alive import FOLLOWS, standing
from recsys.tuning.study import quiet, storage_at

WORKER = Path(__file__).with_name("a_worker.py")


@pytest.fixture
def start() -> Iterator[Callable[[str, float, int], subprocess.Popen[str]]]:
    """Start a worker on a storage, with trials of so many seconds, for a budget of trials; ended with the test."""
    with ExitStack() as ends:

        def begin(url: str, seconds: float, trials: int) -> subprocess.Popen[str]:
            command = [sys.executable, str(WORKER), url, "shared", str(seconds), str(trials)]
            worker = ends.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            ends.callback(worker.kill)
            return worker

        yield begin


def wait_for_trial(worker: subprocess.Popen[str]) -> int:
    assert worker.stdout is not None
    return int(worker.stdout.readline().split()[1])


def load(url: str) -> list[optuna.trial.FrozenTrial]:
    with quiet(), storage_at(url) as storage:
        study = optuna.load_study(storage=storage, study_name="shared")
        trials = study.get_trials(deepcopy=False)
        repeated = {trial.user_attrs[FOLLOWS] for trial in trials if FOLLOWS in trial.user_attrs}
        assert len(standing(study)) == len(trials) - len(repeated)
    return trials


@pytest.mark.slow
def test_four_workers_share_a_study_and_one_is_killed(
    postgres: Callable[[str], str],
    start: Callable[..., subprocess.Popen[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, seconds, trials = postgres("shared"), 0.6, 16
    workers = [start(url, own, trials) for own in (60.0, seconds, seconds, seconds)]
    for worker in workers:
        wait_for_trial(worker)
    begun = time.monotonic()
    workers[0].kill()  # in the middle of its first trial
    assert [worker.wait(timeout=60) for worker in workers] == [-signal.SIGKILL, 0, 0, 0]
    took = time.monotonic() - begun

    found = load(url)
    states = Counter(trial.state.name for trial in found)
    assert states == {"COMPLETE": trials, "FAIL": 1}
    (failed,) = [trial for trial in found if trial.state.name == "FAIL"]
    (again,) = [trial for trial in found if FOLLOWS in trial.user_attrs]
    assert again.user_attrs[FOLLOWS] == failed.number
    assert again.params == failed.params
    done = [trial for trial in found if trial.state.name == "COMPLETE"]
    assert len({trial.params["x"] for trial in done}) == trials
    assert found[0].params == {"x": 0.5}

    starts = [trial.datetime_start.timestamp() for trial in done if trial.datetime_start]
    ends = [trial.datetime_complete.timestamp() for trial in done if trial.datetime_complete]
    alone = sum(ends) - sum(starts)
    with capsys.disabled():
        together = max(ends) - min(starts)
        print(f"\n{trials} trials: {together:.1f} s with four workers, {alone:.1f} s one after the other")
    assert took < alone


@pytest.mark.parametrize("scheme", ["sqlite", "journal"])
def test_a_stopped_worker_leaves_a_study_that_goes_on(
    scheme: str, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    url = f"{scheme}:///{tmp_path}/study"
    first = start(url, 30.0, 3)
    number = wait_for_trial(first)
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=20) == 128 + signal.SIGTERM
    stopped, queued = load(url)
    assert (stopped.number, stopped.state.name, queued.state.name) == (number, "FAIL", "WAITING")
    assert stopped.user_attrs["reason"] == "interrupted (SystemExit(143))"
    assert queued.params == stopped.params == {"x": 0.5}

    again = start(url, 0.0, 3)
    assert again.wait(timeout=60) == 0
    found = load(url)
    assert [trial.state.name for trial in found] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
