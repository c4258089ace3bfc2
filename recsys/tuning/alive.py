"""Signs of life: a running trial gives them, and the one that stops is tried again by whoever notices."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

log = logging.getLogger(__name__)

BEAT, DEATHS, FOLLOWS = "beat", "deaths", "follows"
"""Attributes of a trial: a number that grows while it runs, how many workers died of it, and which it repeats."""


@contextmanager
def beating(trial: "Trial", seconds: float) -> Iterator[None]:
    """Within it, the trial gives a sign of life every so many seconds; a storage that is away for a while is forgiven.

    Args:
        trial: That this process works on.
        seconds: Between signs.
    """
    from optuna.exceptions import UpdateFinishedTrialError

    over = Event()

    def beat() -> None:
        number = 0
        while not over.wait(seconds if number else 0):
            number += 1
            try:
                trial.set_user_attr(BEAT, number)
            except UpdateFinishedTrialError:
                log.warning("trial %d was given up by another process, which took this one for dead", trial.number)
                return
            except Exception as error:  # the next sign may reach it, and the work is worth more than one sign
                log.warning("trial %d: no sign of life could be stored (%s)", trial.number, error)

    thread = Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Vigil:
    """Watches the running trials of a study by a clock of its own, so that those of machines may differ.

    Args:
        grace: Seconds without a sign of life after which a worker counts as dead.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._seen: dict[int, tuple[Any, float]] = {}

    def dead(self, study: "Study") -> "list[FrozenTrial]":
        """Return running trials whose sign of life is the one of a look long ago."""
        from optuna.trial import TrialState

        now, found = time.monotonic(), []
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            beat = trial.user_attrs.get(BEAT)
            before, since = self._seen.setdefault(trial.number, (beat, now))
            if before != beat:
                self._seen[trial.number] = (beat, now)
            elif now - since > self._grace:
                found.append(trial)
        return found


def bury(study: "Study", vigil: Vigil, retries: int) -> None:
    """Fail the trials of dead workers and queue them again, each by one process alone.

    Args:
        study: Shared by all workers.
        vigil: What this process has seen of them.
        retries: How often a trial is tried again.
    """
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    for trial in vigil.dead(study):
        try:
            study.tell(trial.number, state=TrialState.FAIL)
        except (ValueError, UpdateFinishedTrialError):  # another process was first, or its worker is not dead
            continue
        deaths = trial.user_attrs.get(DEATHS, 0) + 1
        log.warning("trial %d: its worker gives no sign of life", trial.number)
        if deaths <= retries:
            try_again(study, trial, deaths)


def try_again(study: "Study", trial: "FrozenTrial", deaths: int) -> None:
    """Queue a trial with the same parameters, for any worker.

    Args:
        study: Of the trial.
        trial: That came to no end.
        deaths: How many workers have died of it.
    """
    from optuna.trial import TrialState, create_trial

    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={DEATHS: deaths, FOLLOWS: trial.number},
            system_attrs={"fixed_params": trial.params},
        )
    )


def standing(study: "Study") -> "list[FrozenTrial]":
    """Return the trials of a study but those that others repeat."""
    trials = study.get_trials(deepcopy=False)
    repeated = {trial.user_attrs.get(FOLLOWS) for trial in trials}
    return [trial for trial in trials if trial.number not in repeated]
