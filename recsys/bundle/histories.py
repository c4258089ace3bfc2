"""What each user did: the past that the bundle stores, joined to the fresh events of a request."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.columns import ITEM_ID, USER_ID
from recsys.data.log import DAY

Ints = NDArray[np.int64]
USER_ROW, ITEM_ROW, TIMESTAMP, REPEATS = "user_row", "item_row", "timestamp", "repeats"
PADDED = -1
"""Item row of a position before the first event."""


@dataclass(frozen=True)
class Fresh:
    """Events of one request that the bundle does not know of, sorted by time.

    Attributes:
        items: ``[E]`` item rows; the number of items stands for one that the bundle does not know.
        times: ``[E]`` microseconds since 1970 UTC.
    """

    items: Ints
    times: Ints


NOTHING = Fresh(np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass(frozen=True)
class Gathered:
    """Histories of B requests, newest event last, padded in front to the longest, ``1 <= L``.

    Attributes:
        items: ``[B, L]`` item rows, :data:`PADDED` in front.
        age: ``[B, L]`` float32, days before the request, 0 where padded.
        repeats: ``[B, L]``, how often the user had had the item before, 0 where padded.
    """

    items: Ints
    age: NDArray[np.float32]
    repeats: Ints


@dataclass(frozen=True)
class Histories:
    """Events of every known user before the bundle's cut, sorted by user and time.

    Of each user these are at least the last L events and, older than those, the last event of every item: enough to
    continue ``repeats`` and to know everything the user has had.

    Attributes:
        offsets: ``[U + 1]``; events of user row ``u`` are ``offsets[u]:offsets[u + 1]``.
        items: ``[E]`` item rows.
        times: ``[E]`` microseconds since 1970 UTC.
        repeats: ``[E]``, how often the user had had the item before.
    """

    offsets: Ints
    items: Ints
    times: Ints
    repeats: Ints

    @classmethod
    def load(cls, path: Path, n_users: int) -> "Histories":
        """Read what :func:`stored_histories` made and the export wrote."""
        frame = pl.read_parquet(path)
        counts = np.bincount(frame[USER_ROW].to_numpy(), minlength=n_users)
        return cls(
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            frame[ITEM_ROW].cast(pl.Int64).to_numpy(),
            frame[TIMESTAMP].dt.epoch("us").to_numpy(),
            frame[REPEATS].cast(pl.Int64).to_numpy(),
        )

    def of(self, user: int) -> slice:
        """Return where the events of a user row lie; nowhere for row -1, an unknown user."""
        return slice(int(self.offsets[user]), int(self.offsets[user + 1])) if user >= 0 else slice(0, 0)

    def seen(self, user: int, fresh: Fresh) -> Ints:
        """Return the distinct item rows that a user has had, fresh events included."""
        return np.union1d(self.items[self.of(user)], fresh.items)

    def gather(self, users: Sequence[int], fresh: Sequence[Fresh], now: Sequence[int], length: int) -> Gathered:
        """Return the last events of each request, at most ``length``.

        Args:
            users: User rows; -1 is an unknown user.
            fresh: Events to append, one entry a request.
            now: Time of each request, microseconds since 1970 UTC.
            length: L of the model.
        """
        joined = [self._join(u, f, length) for u, f in zip(users, fresh, strict=True)]
        longest = max([len(items) for items, _, _ in joined], default=0) or 1
        shape = (len(joined), longest)
        out = Gathered(np.full(shape, PADDED, np.int64), np.zeros(shape, np.float32), np.zeros(shape, np.int64))
        for row, (items, times, repeats) in enumerate(joined):
            if len(items):
                out.items[row, -len(items) :] = items
                out.age[row, -len(items) :] = (now[row] - times).astype(np.float32) / np.float32(DAY)
                out.repeats[row, -len(items) :] = repeats
        return out

    def _join(self, user: int, fresh: Fresh, length: int) -> tuple[Ints, Ints, Ints]:
        """Return items, times and repeats of the last ``length`` events, the fresh ones last."""
        place = self.of(user)
        if not len(fresh.items):
            recent = slice(max(place.start, place.stop - length), place.stop)
            return self.items[recent], self.times[recent], self.repeats[recent]
        had = dict(zip(self.items[place].tolist(), (self.repeats[place] + 1).tolist(), strict=True))
        repeats = []
        for item in fresh.items.tolist():
            repeats.append(had.get(item, 0))
            had[item] = repeats[-1] + 1
        columns = (self.items[place], fresh.items), (self.times[place], fresh.times), (self.repeats[place], repeats)
        items, times, counts = (np.concatenate(pair).astype(np.int64) for pair in columns)
        last = np.argsort(times, kind="stable")[-length:]
        return items[last], times[last], counts[last]


def stored_histories(events: pl.DataFrame, length: int | None) -> pl.DataFrame:
    """Reduce the events before the cut to what :class:`Histories` keeps.

    Args:
        events: ``user_row, item_row, timestamp`` in time order within each user, and what else shall be kept.
        length: L of the model; None keeps all events.

    Returns:
        ``user_row, item_row, timestamp, repeats`` and the other columns, sorted by user, then as given.
    """
    pair = [USER_ROW, ITEM_ROW]
    length = len(events) if length is None else length
    return (
        events.with_columns(
            pl.col(USER_ROW).cast(pl.UInt32),
            pl.col(ITEM_ROW).cast(pl.UInt32),
            pl.col(TIMESTAMP).cast(pl.Datetime("us", "UTC")),
        )
        .select(*pair, TIMESTAMP, pl.exclude(*pair, TIMESTAMP, USER_ID, ITEM_ID))
        .sort(USER_ROW, maintain_order=True)
        .with_columns(
            pl.int_range(pl.len(), dtype=pl.UInt32).over(pair).alias(REPEATS),
            pl.int_range(pl.len(), dtype=pl.UInt32).reverse().over(pair).alias("later_of_item"),
            pl.int_range(pl.len(), dtype=pl.UInt32).reverse().over(USER_ROW).alias("later"),
        )
        .filter((pl.col("later") < length) | (pl.col("later_of_item") == 0))
        .drop("later", "later_of_item")
    )
