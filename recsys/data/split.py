"""Temporal split: three half-open windows in UTC, cut at a time, so that events sharing one never part."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl

from recsys.columns import TIMESTAMP
from recsys.config.data import SplitConfig
from recsys.errors import ConfigError, DataError

NAMES = ("train", "val", "test")
_START = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Windows:
    """``train_start <= train < val_start <= val < test_start <= test < end``; all aware, in UTC."""

    train_start: datetime
    val_start: datetime
    test_start: datetime
    end: datetime

    def bounds(self) -> dict[str, tuple[datetime, datetime]]:
        """Return name -> (first moment inside, first moment after)."""
        cuts = (self.train_start, self.val_start, self.test_start, self.end)
        return dict(zip(NAMES, pairwise(cuts), strict=True))


def before_end(events: pl.DataFrame, cfg: SplitConfig) -> pl.DataFrame:
    """Return the events before ``data.split.end``; all of them when it is not set."""
    return events if cfg.end is None else events.filter(pl.col(TIMESTAMP) < _time("end", cfg.end))


@dataclass(frozen=True)
class Times:
    """The times of all events, microseconds since 1970 UTC; each part is ascending, int64, and may lie on a disk."""

    parts: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, events: pl.DataFrame) -> "Times":
        """Return those of a table."""
        return cls((np.sort(events[TIMESTAMP].dt.epoch("us").to_numpy()),))

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, position: int) -> datetime:
        """Return the time at a position in the order of time, counted from 0."""
        low, high = (int(f(t[e] for t in self.parts if len(t))) for f, e in ((min, 0), (max, -1)))
        while low < high:
            middle = (low + high) // 2
            if self._until(middle) > position:
                high = middle
            else:
                low = middle + 1
        return _START + timedelta(microseconds=low)

    def before(self, time: datetime) -> int:
        """Return how many are before a time."""
        return self._until((time - _START) // timedelta(microseconds=1) - 1)

    def n_unique(self) -> int:
        """Return how many different times there are."""
        return len(np.unique(np.concatenate([np.unique(t) for t in self.parts])))

    def _until(self, time: int) -> int:
        return sum(int(np.searchsorted(t, time, side="right")) for t in self.parts)


def find_windows(times: Times, users: int, items: int, cfg: SplitConfig) -> Windows:
    """Cut the events into windows, by share of the events or at the times of the config.

    By share, a cut is the time of the event at position ``int(n * share)`` in time order, and whatever happened at
    that very time belongs to the later window. The order of rows plays no part.

    Args:
        times: Of the events.
        users: That have any.
        items: Likewise.
        cfg: Where to cut.

    Raises:
        ConfigError: Shares or times that make no three windows.
        DataError: An empty window, or fewer than two users or items, with the numbers.
    """
    if users < 2 or items < 2:
        raise DataError(
            f"{len(times):,} usable events of {users} user(s) and {items} item(s); at least 2 users and 2 items are"
            " needed. Check data.columns, data.split.end and data.privacy."
        )
    end = _time("end", cfg.end) if cfg.end is not None else times[len(times) - 1] + timedelta(microseconds=1)
    if cfg.val_start is not None and cfg.test_start is not None:
        val_start, test_start = _time("val_start", cfg.val_start), _time("test_start", cfg.test_start)
        if not val_start < test_start < end:
            raise ConfigError(
                f"data.split: val_start={cfg.val_start} < test_start={cfg.test_start} < end={end.isoformat()} does not"
                " hold; put the three times in this order."
            )
    elif cfg.val_start is not None or cfg.test_start is not None:
        raise ConfigError("data.split: val_start and test_start go together; give both, or neither to cut by share.")
    else:
        if not (cfg.val > 0 and cfg.test > 0 and cfg.val + cfg.test < 1):
            raise ConfigError(
                f"data.split: val={cfg.val} and test={cfg.test} must be above 0 and leave a share for training."
            )
        # A billionth of an event against 1 - 0.15 - 0.15 = 0.7 - 1e-17 falling one event short.
        val_start, test_start = (
            times[int(len(times) * share + 1e-9)] for share in (1 - cfg.val - cfg.test, 1 - cfg.test)
        )
    windows = Windows(min(times[0], val_start), val_start, test_start, end)
    require_events(times, windows)
    return windows


def require_events(times: Times, windows: Windows) -> None:
    """Check that every window has events.

    Raises:
        DataError: One has none, with the numbers.
    """
    counts = count_by_window(times, windows)
    if not all(counts.values()):
        span = f" from {times[0].isoformat()} to {times[len(times) - 1].isoformat()}" if len(times) else ""
        raise DataError(
            "empty window after the split: "
            + ", ".join(
                f"{name} [{a.isoformat()}, {b.isoformat()}) has {counts[name]:,} events"
                for name, (a, b) in windows.bounds().items()
            )
            + f"; {times.n_unique():,} distinct times{span}."
            " Give more events, other shares (data.split.val, data.split.test) or times (data.split.val_start,"
            " data.split.test_start)."
        )


def window_index(windows: Windows, time: str = TIMESTAMP) -> pl.Expr:
    """Return the number of the window that a column of times falls into: 0 train, 1 val, 2 test."""
    times = pl.col(time)
    return (times >= windows.val_start).cast(pl.Int8) + (times >= windows.test_start).cast(pl.Int8)


def count_by_window(times: Times, windows: Windows) -> dict[str, int]:
    """Return the number of events of every window."""
    return {name: times.before(b) - times.before(a) for name, (a, b) in windows.bounds().items()}


def _time(key: str, text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"data.split.{key}={text!r} is not an ISO time; write for example 2024-03-01 or 2024-03-01T12:00:00Z."
        ) from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
