"""One worker of a study: asks for a trial, runs it, tells what came out, until the budget is spent."""

import gc
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recsys.stop import Stop
from recsys.tuning.alive import Vigil, beating, bury, standing, try_again
from recsys.tuning.study import quiet

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial

log = logging.getLogger(__name__)

REASON, SAME_AS, SPARE = "reason", "same_as", "spare"
"""Attributes of a trial: why it failed, whose values it has, and that it was begun when the budget was spent."""
LOOK_SECONDS = 1.0
"""Between looks at the trials of others, when there is nothing else to do."""
MAX_TWINS = 50
"""Trials in a row that had been there before, after which a space counts as used up."""

Objective = Callable[["Trial"], Sequence[float]]
"""Runs a trial and returns its values, one for each direction; raises TrialPruned where it is not worth its end."""


@dataclass(frozen=True)
class Plan:
    """How a worker works.

    Attributes:
        trials: Of the study, whoever does them; None: no bound.
        minutes: Of this worker, after which it begins no trial; None: no bound.
        retries: Of a trial whose worker died.
        heartbeat: Seconds between signs of life.
        grace: Seconds without one after which a worker counts as dead.
    """

    trials: int | None
    minutes: float | None
    retries: int
    heartbeat: float
    grace: float


def work(
    study: "Study",
    space: "Mapping[str, BaseDistribution]",
    objective: Objective,
    plan: Plan,
    told: "Callable[[FrozenTrial], None]",
) -> None:
    """Do trials until the budget is spent, then wait for those of other workers, should one of them die.

    A trial that fails is told as such, with its reason, and the study goes on.

    Args:
        study: With its first trials queued.
        space: Parameter name to distribution.
        objective: Runs one trial.
        plan: Budget, retries, signs of life.
        told: Called with each trial that this worker has ended.

    Raises:
        SystemExit: Ctrl-C or SIGTERM; the running trial has been queued again.
    """
    start, vigil, stop, twins = time.monotonic(), Vigil(plan.grace), Stop(), 0
    with quiet(), stop.listening():
        while twins < MAX_TWINS:
            stop.check()
            bury(study, vigil, plan.retries)
            if plan.minutes is not None and time.monotonic() - start >= 60 * plan.minutes:
                return
            if spent(study, plan.trials):
                if not running(study):
                    return
                time.sleep(LOOK_SECONDS)
                continue
            trial = study.ask(dict(space))
            if spent(study, plan.trials, before=trial.number):
                _discard(study, trial)
                continue
            twin = twin_of(study, trial)
            if twin is None:
                twins = 0
                _run(study, trial, objective, plan.heartbeat, stop)
            else:
                twins += 1
                trial.set_user_attr(SAME_AS, twin.number)
                study.tell(trial, twin.values)
            told(study.trials[trial.number])
    log.warning("study '%s': the last %d proposals had all been tried; the space is used up", study.study_name, twins)


def spent(study: "Study", trials: int | None, before: int | None = None) -> bool:
    """Tell whether so many trials have been begun, or have been before the one of a number."""
    from optuna.trial import TrialState

    begun = [t for t in standing(study) if t.state != TrialState.WAITING and not t.user_attrs.get(SPARE)]
    return trials is not None and sum(before is None or t.number < before for t in begun) >= trials


def running(study: "Study") -> bool:
    """Tell whether any worker is at a trial."""
    from optuna.trial import TrialState

    return bool(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))


def twin_of(study: "Study", trial: "Trial") -> "FrozenTrial | None":
    """Return a finished trial with the same parameters: it would come out the same, since the seed is."""
    from optuna.trial import TrialState

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return next((other for other in done if other.params == trial.params), None)


def _discard(study: "Study", trial: "Trial") -> None:
    """End a trial that two workers began at once for the last place."""
    from optuna.trial import TrialState

    trial.set_user_attr(SPARE, True)
    study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)


def _run(study: "Study", trial: "Trial", objective: Objective, heartbeat: float, stop: Stop) -> None:
    from optuna import TrialPruned
    from optuna.trial import TrialState

    try:
        with beating(trial, heartbeat), stop.armed():
            values = [float(value) for value in objective(trial)]
        if any(math.isnan(value) for value in values):
            raise ValueError(f"the objective is {values}")
    except TrialPruned:
        study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
    except Exception as error:  # of whatever kind: it is this trial's, and others may do better
        _fail(study, trial, reason_of(error))
        log.warning("trial %d failed: %s", trial.number, reason_of(error), exc_info=log.isEnabledFor(logging.DEBUG))
        release_memory()
    except BaseException as error:
        _fail(study, trial, f"interrupted ({error!r})")
        frozen = study.trials[trial.number]
        try_again(study, frozen, frozen.user_attrs.get("deaths", 0))
        raise
    else:
        study.tell(trial, values, skip_if_finished=True)


def _fail(study: "Study", trial: "Trial", reason: str) -> None:
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    try:
        trial.set_user_attr(REASON, reason)
        study.tell(trial, state=TrialState.FAIL)
    except (ValueError, UpdateFinishedTrialError):  # given up by another process in between
        log.warning("trial %d had been given up by another process", trial.number)


def reason_of(error: Exception) -> str:
    """Return what went wrong in one line; an exhausted memory, of whichever device, by that name."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    is_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    is_memory = is_memory or "out of memory" in text.lower() or "can't allocate memory" in text.lower()
    return f"out of memory: {text}" if is_memory else f"{type(error).__name__}: {text}"


def release_memory() -> None:
    """Give back what a trial has left: a Trainer and its task refer to each other, and CUDA keeps what it had."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def why_failed(trial: "FrozenTrial") -> str:
    """Return why a failed trial failed; one whose worker died could not say so itself."""
    reason: Any = trial.user_attrs.get(REASON)
    return str(reason or "its worker died")
