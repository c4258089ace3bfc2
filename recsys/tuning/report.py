"""What a study found: the best trial beside the first, what mattered, a table of all trials and pictures."""

import io
import json
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.errors import DataError
from recsys.files import write_whole
from recsys.tuning.alive import FOLLOWS, standing
from recsys.tuning.study import quiet
from recsys.tuning.worker import REASON, SAME_AS, SPARE, why_failed

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial
    from rich.table import Table


def best_of(study: "Study") -> "FrozenTrial":
    """Return the trial that is best by the first objective among those that no other beats on all.

    Raises:
        DataError: No trial came to its end, with the reasons.
    """
    from optuna.study import StudyDirection

    if not any(trial.state.name == "COMPLETE" for trial in study.trials):
        reasons = Counter(why_failed(trial) for trial in study.trials if trial.state.name == "FAIL")
        told = "; ".join(f"{reason} ({count} trials)" for reason, count in reasons.most_common(3))
        raise DataError(
            f"study '{study.study_name}': no trial came to its end: {told or 'none was begun'}. "
            "See whether recsys train runs with the same settings."
        )
    sign = -1 if study.directions[0] == StudyDirection.MAXIMIZE else 1
    return min(study.best_trials, key=lambda trial: (sign * trial.values[0], trial.number))


def summarise(study: "Study", objectives: Sequence[str]) -> dict[str, Any]:
    """Return the study as JSON data.

    Args:
        study: With at least one finished trial.
        objectives: Names of its values.
    """
    best, trials = best_of(study), told_trials(study)
    first = min(trials, key=lambda trial: begun_as(study, trial))
    return {
        "study": study.study_name,
        "objectives": list(objectives),
        "trials": dict(Counter(trial.state.name.lower() for trial in trials)),
        "tried_again": len(study.trials) - len(standing(study)),
        "first": _plain(first),
        "best": _plain(best),
        "front": [_plain(trial) for trial in study.best_trials] if len(objectives) > 1 else [],
        "importance": importance(study),
        "failures": {str(trial.number): why_failed(trial) for trial in trials if trial.state.name == "FAIL"},
    }


def told_trials(study: "Study") -> "list[FrozenTrial]":
    """Return the trials that count: no repeated ones, and none that was begun for a budget already spent."""
    return [trial for trial in standing(study) if not trial.user_attrs.get(SPARE)]


def begun_as(study: "Study", trial: "FrozenTrial") -> int:
    """Return the number that a trial had when it was tried for the first time."""
    trials = study.get_trials(deepcopy=False)
    while (before := trial.user_attrs.get(FOLLOWS)) is not None:
        trial = trials[before]
    return trial.number


def _plain(trial: "FrozenTrial") -> dict[str, Any]:
    return {"number": trial.number, "values": trial.values, "params": trial.params}


def importance(study: "Study") -> dict[str, float]:
    """Return parameter to the share of the first objective's variance that it explains; empty with too few of them."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    if len({trial.values[0] for trial in study.trials if trial.state.name == "COMPLETE"}) < 2:
        return {}
    with quiet():
        try:
            judge = FanovaImportanceEvaluator(seed=0)
            return dict(get_param_importances(study, evaluator=judge, target=lambda trial: trial.values[0]))
        except (ValueError, RuntimeError):  # parameters that trials do not share
            return {}


def rows_of(study: "Study", objectives: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row for each trial that counts: number, state, seconds, values, parameters, why it failed."""
    rows = []
    for trial in told_trials(study):
        values = trial.values or [None] * len(objectives)
        row = {"trial": trial.number, "state": trial.state.name.lower()}
        row |= {"seconds": trial.duration.total_seconds() if trial.duration else None}
        row |= dict(zip(objectives, values, strict=False)) | trial.params
        reason = why_failed(trial) if trial.state.name == "FAIL" else trial.user_attrs.get(REASON)
        row |= {"same_as": trial.user_attrs.get(SAME_AS), "reason": reason}
        rows.append(row)
    return rows


def save(study: "Study", objectives: Sequence[str], folder: Path) -> list[Path]:
    """Write ``summary.json``, ``trials.csv`` and pictures into a folder; return their paths.

    Raises:
        DataError: No trial came to its end, or the folder cannot be written.
    """
    import polars as pl

    buffer = io.BytesIO()
    pl.DataFrame(rows_of(study, objectives), infer_schema_length=None, strict=False).write_csv(buffer)
    written = [
        write_whole(folder / "summary.json", json.dumps(summarise(study, objectives), indent=1).encode()),
        write_whole(folder / "trials.csv", buffer.getvalue()),
    ]
    for name, picture in pictures(study, objectives).items():
        written.append(write_whole(folder / f"{name}.png", picture))
    return written


def pictures(study: "Study", objectives: Sequence[str]) -> dict[str, bytes]:
    """Draw history, importance, parallel coordinates and slices by the first objective, and the front of several.

    Returns:
        Name to PNG; what needs more finished trials than there are is left out.
    """
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.visualization import matplotlib as draw

    of_first: dict[str, Any] = {"target": lambda trial: trial.values[0], "target_name": objectives[0]}
    wanted: dict[str, Callable[[], Any]] = {
        "history": lambda: draw.plot_optimization_history(study, **of_first),
        "importance": lambda: draw.plot_param_importances(study, FanovaImportanceEvaluator(seed=0), **of_first),
        "parallel_coordinates": lambda: draw.plot_parallel_coordinate(study, **of_first),
        "slices": lambda: draw.plot_slice(study, **of_first),
    }
    if len(objectives) in (2, 3):
        wanted["front"] = lambda: draw.plot_pareto_front(study, target_names=list(objectives))
    if not importance(study):
        del wanted["importance"]
    return {name: _png(make) for name, make in wanted.items()}


def _png(make: Callable[[], Any]) -> bytes:
    import matplotlib.pyplot as plt
    import numpy as np

    before = plt.get_backend()
    plt.switch_backend("Agg")  # no window, whatever this machine has
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of layouts, which nobody can act on
            axes = make()
            figure = np.atleast_1d(axes).flat[0].figure
            figure.set_size_inches(max(8.0, 2.6 * np.size(axes)), 5.0)
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight")
            plt.close("all")
    finally:
        plt.switch_backend(before)
    return buffer.getvalue()


def table(study: "Study", objectives: Sequence[str]) -> "Table":
    """Return the best trial beside the first, by objective and parameter, with what each parameter mattered."""
    from rich.table import Table

    found = summarise(study, objectives)
    best, first = found["best"], found["first"]
    shown = Table(title=f"study {study.study_name}")
    for title in ("", f"first, trial {first['number']}", f"best, trial {best['number']}", "importance"):
        shown.add_column(title, justify="left" if not title else "right", overflow="fold")
    for place, name in enumerate(objectives):
        values = [_short(trial["values"][place] if trial["values"] else None) for trial in (first, best)]
        shown.add_row(name, *values, "", style="bold")
    for name, value in best["params"].items():
        worth = found["importance"].get(name)
        shown.add_row(name, _short(first["params"].get(name)), _short(value), "" if worth is None else f"{worth:.2f}")
    counts = ", ".join(f"{count} {state}" for state, count in found["trials"].items())
    shown.caption = f"{counts}; {found['tried_again']} tried again"
    return shown


def _short(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
