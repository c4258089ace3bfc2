"""The interaction log: every event once, columnar, sorted so that a history is a slice.

::

    user   0 0 0 0 0 | 1 1 1 | 2 ...         offsets = [0, 5, 8, ...]
    time   3 3 7 7 9 | 2 4 4 | ...           within a user: ascending
    item   8 2 8 5 1 | 2 2 9 | ...

Users and items are *rows* of the prepared tables, not vocabulary ids, so that nothing here depends on
what a vocabulary has seen.
"""

from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor

DAY = 86_400_000_000
"""Microseconds in a day."""


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
    """

    user: Tensor
    item: Tensor
    time: Tensor
    basket: Tensor
    relevant: Tensor
    n_users: int
    n_items: int

    def __len__(self) -> int:
        return len(self.user)

    @cached_property
    def offsets(self) -> Tensor:
        """Where each user's events begin, int64 ``[U + 1]``: user u has ``offsets[u]:offsets[u + 1]``."""
        return torch.searchsorted(self.user, torch.arange(self.n_users + 1, device=self.user.device))

    @cached_property
    def repeats(self) -> Tensor:
        """How often the user had met the item before this event, int64 ``[E]``; 0 at the first time."""
        key = self.user * self.n_items + self.item
        order = torch.argsort(key, stable=True)
        sorted_key = key[order]
        position = torch.arange(len(key), device=key.device)
        is_first = torch.ones_like(sorted_key, dtype=torch.bool)
        is_first[1:] = sorted_key[1:] != sorted_key[:-1]
        run_start = torch.where(is_first, position, torch.zeros_like(position)).cummax(0).values
        return torch.empty_like(position).scatter_(0, order, position - run_start)

    def between(self, start: int | None, end: int | None) -> "InteractionLog":
        """Return the events with ``start <= time < end`` (microseconds; None is open)."""
        keep = torch.ones_like(self.relevant)
        if start is not None:
            keep &= self.time >= start
        if end is not None:
            keep &= self.time < end
        return self._where(keep)

    def only_relevant(self) -> "InteractionLog":
        """Return the events that count as positives."""
        return self._where(self.relevant)

    def _where(self, keep: Tensor) -> "InteractionLog":
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        return InteractionLog(**{k: v[keep] if isinstance(v, Tensor) else v for k, v in columns.items()})

    def to(self, device: torch.device | str) -> "InteractionLog":
        """Return the log on another device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v.to(device) for k, v in moved.items() if isinstance(v, Tensor)})


def first_after(log: InteractionLog, user: Tensor, time: Tensor) -> Tensor:
    """Return the position of each user's first event at or after ``time``, int64 ``[M]``.

    The user's history as of that time is therefore ``log.offsets[user] : first_after(log, user, time)``.
    """
    base = int(log.time.min()) if len(log) else 0
    last = max(int(log.time.max()) if len(log) else 0, int(time.max()) if len(time) else 0)
    span = last - base + 2
    if span > 2**62 // max(log.n_users, 1):
        raise OverflowError("users x time span do not fit 63 bits; use coarser timestamps")
    key = log.user * span + (log.time - base)
    wanted = user * span + (time - base).clamp(min=0)
    return torch.searchsorted(key, wanted)
