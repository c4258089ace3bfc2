"""What each user did: the past that the bundle stores, joined to the fresh events of a request."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.columns import EVENT_TYPE, ITEM_ID, USER_ID
from recsys.data.log import DAY

Ints = NDArray[np.int64]
USER_ROW, ITEM_ROW, TIMESTAMP, REPEATS, TAKEN = "user_row", "item_row", "timestamp", "repeats", "taken"
PADDED = -1
"""Item row of a position before the first event."""


@dataclass(frozen=True)
class Fresh:
    """Events of one request that the bundle does not know of, sorted by time.

    Attributes:
        items: ``[E]`` item rows; the number of items stands for one that the bundle does not know.
        times: ``[E]`` microseconds since 1970 UTC.
        types: ``[E]`` event types, None for one that counts; None: all count.
        relevant: The types that count, those that are recommended for; empty: all.
    """

    items: Ints
    times: Ints
    types: Sequence[str | None] | None = None
    relevant: tuple[str, ...] = ()

    @property
    def counts(self) -> NDArray[np.bool_]:
        """Which events are of a type that is recommended for, bool ``[E]``; the others are history alone."""
        if self.types is None or not self.relevant:
            return np.ones(len(self.items), bool)
        return np.array([name is None or name in self.relevant for name in self.types], bool)

    def named(self, name: str | None) -> list[str | None]:
        """Return the types, and a name for those that have none."""
        return [name] * len(self.items) if self.types is None else [own or name for own in self.types]


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
        repeats: ``[E]``, how often the user had had the item before, by events of any type.
        taken: ``[E]``, whether the user had taken the item by then, this event included: by one that counts.
    """

    offsets: Ints
    items: Ints
    times: Ints
    repeats: Ints
    taken: NDArray[np.bool_]

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
            frame[TAKEN].to_numpy(),
        )

    def of(self, user: int) -> slice:
        """Return where the events of a user row lie; nowhere for row -1, an unknown user."""
        return slice(int(self.offsets[user]), int(self.offsets[user + 1])) if user >= 0 else slice(0, 0)

    def seen(self, user: int, fresh: Fresh) -> Ints:
        """Return the distinct item rows that a user has taken, fresh events included; what was looked at is none."""
        place = self.of(user)
        return np.union1d(self.items[place][self.taken[place]], fresh.items[fresh.counts])

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


def stored_histories(events: pl.DataFrame, length: int | None, relevant: Sequence[str] = ()) -> pl.DataFrame:
    """Reduce the events before the cut to what :class:`Histories` keeps.

    Args:
        events: ``user_row, item_row, timestamp`` in time order within each user, and what else shall be kept.
        length: L of the model; None keeps all events.
        relevant: Values of ``event_type`` that count; empty: all.

    Returns:
        ``user_row, item_row, timestamp, repeats, taken`` and the other columns, sorted by user, then as given.
    """
    pair, taken = [USER_ROW, ITEM_ROW], pl.lit(True)
    if relevant:
        counts = pl.col(EVENT_TYPE).is_in(list(relevant)).fill_null(False)
        taken = counts.cast(pl.UInt8).cum_max().over(pair).cast(pl.Boolean)
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
            taken.alias(TAKEN),
            pl.int_range(pl.len(), dtype=pl.UInt32).reverse().over(pair).alias("later_of_item"),
            pl.int_range(pl.len(), dtype=pl.UInt32).reverse().over(USER_ROW).alias("later"),
        )
        .filter((pl.col("later") < length) | (pl.col("later_of_item") == 0))
        .drop("later", "later_of_item")
    )
