"""Folds of a validation: data sets inside the given one, each with a window to learn from and one to be asked about.

::

    expanding   learn ────────►│ask│           rolling   learn ─────►│ask│           kfold   ask some users about
                learn ────────────►│ask│                     learn ─────►│ask│               the validation window,
                learn ────────────────►│ask│                     learn ─────►│ask│           learn from the others

The last window in time is the validation window itself, the earlier ones lie inside the training window and are as
long. The test window is in none of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

import polars as pl
import torch

from recsys.columns import TIMESTAMP, USER_ID
from recsys.data.dataset import interaction_log
from recsys.data.log import InteractionLog
from recsys.data.prepared import Prepared
from recsys.data.split import Windows
from recsys.errors import ConfigError, DataError


@dataclass(frozen=True)
class Fold:
    """What one fit learns from, and what it is asked: both as data sets that end with the fold's windows.

    Attributes:
        learned: Its events before ``windows.val_start`` are learned from.
        asked: Users are asked what they take from ``windows.val_start`` to ``windows.test_start``, with the history
            that they have here. For windows in time the same object as ``learned``.
    """

    learned: Prepared
    asked: Prepared

    def logs(self) -> tuple[InteractionLog, InteractionLog]:
        """Return the events of both as rows of their tables; for windows in time the same object twice."""
        learned = interaction_log(self.learned)
        return learned, learned if self.asked is self.learned else interaction_log(self.asked)


def folds(prepared: Prepared, kind: str, count: int, seed: int) -> Iterator[Fold]:
    """Yield the folds of a data set, the earliest first.

    Args:
        prepared: The data set, as prepared: what is fitted on its training window would know later folds.
        kind: ``expanding``, ``rolling`` or ``kfold``.
        count: How many, 2 or more.
        seed: Of who is asked in which fold of ``kfold``.

    Raises:
        ConfigError: More folds than the training window or the users allow.
        DataError: A fold without events to learn from, or to be asked about.
    """
    made = by_user(prepared, count, seed) if kind == "kfold" else in_time(prepared, kind, count)
    for number, fold in enumerate(made):
        _require_events(fold, number, kind)
        yield fold


def in_time(prepared: Prepared, kind: str, count: int) -> Iterator[Fold]:
    """Yield folds whose windows follow one another."""
    for windows in fold_windows(prepared.windows, kind, count):
        part = between(prepared, windows.train_start, windows.end)
        inside = replace(part, windows=windows)
        yield Fold(inside, inside)


def fold_windows(windows: Windows, kind: str, count: int) -> list[Windows]:
    """Return the windows of folds in time; each ends with what it is asked about.

    Raises:
        ConfigError: Less than the length of one validation window would be left to learn from before the first.
    """
    length = windows.test_start - windows.val_start
    cuts = [windows.val_start - back * length for back in reversed(range(count))]
    span = cuts[0] - windows.train_start
    if span < length:
        most = (windows.val_start - windows.train_start) // length
        raise ConfigError(
            f"folds={count}: the training window of {windows.val_start - windows.train_start} holds {most} time(s) the"
            f" validation window of {length}; legal: 2 to {most} folds in time, validation=kfold or holdout."
        )
    starts = [cut - span if kind == "rolling" else windows.train_start for cut in cuts]
    return [Windows(start, cut, cut + length, cut + length) for start, cut in zip(starts, cuts, strict=True)]


def by_user(prepared: Prepared, count: int, seed: int) -> Iterator[Fold]:
    """Yield folds that part the users by chance: each is asked once, by a fit that has never seen an event of theirs.

    Raises:
        ConfigError: Fewer users than folds.
    """
    users = prepared.users[USER_ID]
    if count > len(users):
        raise ConfigError(f"folds={count}: there are {len(users)} users; legal with validation=kfold: 2 to that many.")
    order = torch.randperm(len(users), generator=torch.Generator().manual_seed(seed)).numpy()
    windows = replace(prepared.windows, end=prepared.windows.test_start)
    known = replace(between(prepared, None, windows.end), windows=windows)
    early = pl.col(TIMESTAMP) < windows.val_start
    for number in range(count):
        is_held = pl.col(USER_ID).is_in(users.gather(order[number::count]).implode())
        yield Fold(_where(known, ~is_held), _where(known, early | is_held))


def between(prepared: Prepared, start: datetime | None, end: datetime) -> Prepared:
    """Return a data set with the events and impressions of ``[start, end)`` alone, and all items and users."""
    inside = pl.col(TIMESTAMP) < end
    return _where(prepared, inside if start is None else inside & (pl.col(TIMESTAMP) >= start))


def _where(prepared: Prepared, keep: pl.Expr) -> Prepared:
    events, impressions = prepared.events.filter(keep), prepared.impressions.filter(keep)
    return replace(prepared, event_parts=(events.lazy(),), impression_parts=(impressions.lazy(),))


def _require_events(fold: Fold, number: int, kind: str) -> None:
    windows = fold.learned.windows
    learned = fold.learned.events.filter(pl.col(TIMESTAMP) < windows.val_start).height
    asked = fold.asked.events.filter(pl.col(TIMESTAMP) >= windows.val_start).height
    if not (learned and asked):
        raise DataError(
            f"validation={kind}, fold {number}: {learned:,} events to learn from before"
            f" {windows.val_start.isoformat()}, {asked:,} to be asked about until {windows.test_start.isoformat()};"
            " take fewer folds (folds=2), or a larger data.split.val."
        )
