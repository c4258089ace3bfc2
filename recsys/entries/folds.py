"""What a choice is made on: the validation window, or the folds that the configuration asks for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recsys.config.schema import HOLDOUT, Config, ObjectiveConfig

if TYPE_CHECKING:
    from recsys.data.dataset import FittedData
    from recsys.data.log import InteractionLog
    from recsys.data.prepared import Prepared
    from recsys.training.epochs import Fitted

SPREAD = "_spread"
"""Ending of the metric that says how far the folds are apart: the standard deviation of the objective."""


@dataclass(frozen=True)
class FoldData:
    """One fold: what is learned from, and what is asked; the same objects, unless users are parted.

    Attributes:
        learned: Data set whose events before ``windows.val_start`` may be learned from.
        learned_log: Its events.
        asked: Data set with the history of those who are asked, and with what they took until ``windows.test_start``.
        asked_log: Its events.
    """

    learned: "Prepared"
    learned_log: "InteractionLog"
    asked: "Prepared"
    asked_log: "InteractionLog"

    def fit(self) -> "FittedData":
        """Fit vocabularies and scales on what is learned from."""
        from recsys.data.dataset import fit_data

        return fit_data(self.learned, self.learned_log, self.learned.windows.val_start)

    def as_asked(self, data: "FittedData") -> "FittedData":
        """Return what is known of those who are asked, encoded by vocabularies fitted on what is learned from."""
        from recsys.data.dataset import with_log

        return data if self.asked is self.learned else with_log(data, self.asked, self.asked_log)


def holdout(prepared: "Prepared", log: "InteractionLog") -> FoldData:
    """Return the one fold that is the training window with the validation window."""
    return FoldData(prepared, log, prepared, log)


def make_folds(
    cfg: Config, plain: "Prepared", prepared: "Prepared", log: "InteractionLog"
) -> tuple[FoldData, list[FoldData]]:
    """Return the training window with the validation window, and the folds of ``validation``, the earliest first.

    Of ``holdout`` that window is the only fold. Segments are fitted on what each fold learns from.

    Args:
        cfg: With ``validation`` and ``folds``.
        plain: The data set, without what is fitted on its training window.
        prepared: The same with it.
        log: Its events.

    Raises:
        ConfigError: More folds than the training window or the users allow.
        DataError: A fold without events.
    """
    from recsys.data.folds import folds
    from recsys.segments.features import with_segments

    main = holdout(prepared, log)
    if cfg.validation == HOLDOUT:
        return main, [main]
    made = []
    for fold in folds(plain, cfg.validation, cfg.folds, cfg.seed):
        learned_log, asked_log = fold.logs()
        learned, _ = with_segments(fold.learned, cfg.segments, cfg.seed)
        asked = learned if fold.asked is fold.learned else fold.asked  # users are only parted without segments
        made.append(FoldData(learned, learned_log, asked, asked_log))
    return main, made


def average(found: Sequence[Sequence[dict[str, float]]], objective: ObjectiveConfig) -> list[dict[str, float]]:
    """Return the mean over folds of each metric after each epoch that all of them reached.

    Args:
        found: Fold to what validation found after each epoch.
        objective: Whose standard deviation over the folds, if there are several, is added with the ending
            :data:`SPREAD`.
    """
    from statistics import fmean, stdev

    means = []
    for epoch in zip(*found, strict=False):
        of_all = {key: fmean(metrics[key] for metrics in epoch) for key in epoch[0] if all(key in m for m in epoch)}
        if len(found) > 1:
            of_all[objective.metric + SPREAD] = stdev(metrics[objective.metric] for metrics in epoch)
        means.append(of_all)
    return means


def best_epoch(means: Sequence[dict[str, float]], objective: ObjectiveConfig) -> int:
    """Return the number of epochs, counted from 1, with the best mean objective; the fewest of equals."""
    return 1 + max(range(len(means)), key=lambda number: (means[number][objective.metric], -number))


def said(fitted: "Fitted[Any]", objective: ObjectiveConfig) -> str:
    """Return what was chosen, in one line; over several folds with the standard deviation."""
    spread = fitted.metrics.get(objective.metric + SPREAD)
    apart = "" if spread is None else f" ± {spread:.4f}"
    return f"best of {len(fitted.results)} epochs: {fitted.epochs}, {objective.metric} {fitted.best:.4f}{apart}"
