"""The interaction log: every event once, columnar, sorted so that a history is a slice.

::

    user   0 0 0 0 0 | 1 1 1 | 2 ...         offsets = [0, 5, 8, ...]
    time   3 3 7 7 9 | 2 4 4 | ...           within a user: ascending
    item   8 2 8 5 1 | 2 2 9 | ...

Users and items are *rows* of the prepared tables, not vocabulary ids, so that nothing here depends on
what a vocabulary has seen.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property

import torch
from torch import Tensor

DAY = 86_400_000_000
"""Microseconds in a day."""
POPULARITY_DAYS = 28.0
"""Over how many days popularity is counted; over fewer where items come and go within days."""
PIECE = 2**23
"""Events, of whole users, that are sorted at a time: bounds memory."""


def as_time(time: int) -> datetime:
    """Return microseconds since 1970 as a UTC time, exactly."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time)


@dataclass(frozen=True)
class InteractionLog:
    """Events sorted by user, time and item.

    Attributes:
        user: Row of the users table, int64 ``[E]``.
        item: Row of the items table, int64 ``[E]``.
        time: Microseconds since 1970 UTC, int64 ``[E]``.
        basket: Number of the (user, basket) or, without baskets, of the (user, timestamp), int64 ``[E]``.
        relevant: Whether the event counts as a positive, bool ``[E]``.
        n_users: U, rows of the users table.
        n_items: N, rows of the items table.
        weight: What each event counts in training, float32 ``[E]``, above 0; None: all alike.
        keep: Takes an array ``[E]`` out of memory, as :meth:`recsys.data.spill.Spill.keep` does; what the log makes of
            itself goes there, too. None: all is in memory.
    """

    user: Tensor
    item: Tensor
    time: Tensor
    basket: Tensor
    relevant: Tensor
    n_users: int
    n_items: int
    weight: Tensor | None = None
    keep: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.user)

    def kept(self, values: Tensor) -> Tensor:
        """Return values of the log's size where the log itself is: in memory, or in a file."""
        return values if self.keep is None else self.keep(values)

    def pieces(self) -> Iterator[slice]:
        """Yield where about :data:`PIECE` events of some users lie, one piece after the other."""
        start = 0
        while start < len(self):
            last = min(start + PIECE, len(self)) - 1
            end = int(self.offsets[int(self.user[last]) + 1])
            yield slice(start, end)
            start = end

    @cached_property
    def offsets(self) -> Tensor:
        """Where each user's events begin, int64 ``[U + 1]``: user u has ``offsets[u]:offsets[u + 1]``."""
        return torch.searchsorted(self.user, torch.arange(self.n_users + 1, device=self.user.device))

    @cached_property
    def repeats(self) -> Tensor:
        """How often the user had met the item before this event, int64 ``[E]``; 0 at the first time."""
        repeats = self.kept(torch.zeros_like(self.user))
        for piece in self.pieces():
            key = self.user[piece] * self.n_items + self.item[piece]
            order = torch.argsort(key, stable=True)
            sorted_key = key[order]
            position = torch.arange(len(key), device=key.device)
            is_first = torch.ones_like(sorted_key, dtype=torch.bool)
            is_first[1:] = sorted_key[1:] != sorted_key[:-1]
            run_start = torch.where(is_first, position, torch.zeros_like(position)).cummax(0).values
            repeats[piece] = torch.empty_like(position).scatter_(0, order, position - run_start)
        return repeats

    @cached_property
    def sorted_times(self) -> Tensor:
        """Times of all events, ascending, int64 ``[E]``; a time's place in it orders times without a large number."""
        return self.kept(self.time.sort().values)

    @cached_property
    def clock_keys(self) -> Tensor:
        """User and time of each event as one number, ascending, int64 ``[E]``: see :func:`first_after`."""
        return self.kept(self.user * (len(self) + 1) + torch.searchsorted(self.sorted_times, self.time))

    def between(self, start: int | None, end: int | None) -> "InteractionLog":
        """Return the events with ``start <= time < end`` (microseconds; None is open)."""
        keep = torch.ones_like(self.relevant)
        if start is not None:
            keep &= self.time >= start
        if end is not None:
            keep &= self.time < end
        return self._each(lambda column: self.kept(column[keep]))

    def only_relevant(self) -> "InteractionLog":
        """Return the events that count as positives."""
        return self._each(lambda column: self.kept(column[self.relevant]))

    def to(self, device: torch.device | str) -> "InteractionLog":
        """Return the log on another device, all of it in its memory."""
        there = torch.device(device)
        return self if there == self.user.device else replace(self._each(lambda column: column.to(there)), keep=None)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "InteractionLog":
        columns = (self.user, self.item, self.time, self.basket, self.relevant)
        user, item, time, basket, relevant = map(change, columns)
        weight = None if self.weight is None else change(self.weight)
        return InteractionLog(user, item, time, basket, relevant, self.n_users, self.n_items, weight, self.keep)


def first_after(log: InteractionLog, user: Tensor, time: Tensor) -> Tensor:
    """Return the position of each user's first event at or after ``time``, int64 ``[M]``.

    The user's history as of that time is therefore ``log.offsets[user] : first_after(log, user, time)``.
    """
    wanted = user * (len(log) + 1) + torch.searchsorted(log.sorted_times, time)
    return torch.searchsorted(log.clock_keys, wanted)
