"""The interaction log in files: put together part by part, so that it may be larger than memory."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from recsys.data.log import InteractionLog
from recsys.data.spill import Spill

COLUMNS = ("user", "item", "time", "basket", "relevant", "weight")


def mapped_log(parts: Sequence[Callable[[], InteractionLog]], spill: Spill) -> InteractionLog:
    """Return the log of all events, as it would be in memory, from files.

    Args:
        parts: Each makes the log of some users, all of their events, with the rows of all users and items; they are
            made twice, one after the other.
        spill: Where the columns go.

    Raises:
        DataError: The disk is full, or the folder cannot be written to.
    """
    first = parts[0]()
    n_users, n_items = first.n_users, first.n_items
    events, baskets = (torch.zeros(n_users, dtype=torch.int64) for _ in range(2))
    for number, make in enumerate(parts):
        part = make() if number else first
        events += torch.bincount(part.user, minlength=n_users)
        baskets += _baskets(part)
    offsets, base = (torch.cat([counts.new_zeros(1), counts.cumsum(0)]) for counts in (events, baskets))
    total = int(offsets[-1])
    there = [name for name in COLUMNS if getattr(first, name) is not None]
    columns = {name: spill.empty(total, getattr(first, name).dtype) for name in there}
    del first
    for make in parts:
        part = make()
        place = places_of(offsets, part.user)
        for name in there:
            columns[name][place] = getattr(part, name)
        # In the whole log those of a user follow on those of the users before.
        own = _baskets(part)
        shift = base[:-1] - (own.cumsum(0) - own)
        columns["basket"][place] = part.basket + shift[part.user]
    user, item, time, basket, relevant = (columns[name] for name in COLUMNS[:5])
    return InteractionLog(user, item, time, basket, relevant, n_users, n_items, columns.get("weight"), spill.keep)


def places_of(offsets: Tensor, user: Tensor) -> Tensor:
    """Return where events stand in a log, int64 ``[E]``.

    Args:
        offsets: Of the log, ``[U + 1]``.
        user: Of the events, ascending, int64 ``[E]``; all of a user, in the order of the log.
    """
    return offsets[user] + torch.arange(len(user)) - torch.searchsorted(user, user)


def _baskets(part: InteractionLog) -> Tensor:
    """Count the baskets of each user, int64 ``[U]``; they are numbered user by user."""
    counts = torch.zeros(part.n_users, dtype=torch.int64)
    if len(part):
        owner = torch.zeros(int(part.basket.max()) + 1, dtype=torch.int64).scatter_(0, part.basket, part.user)
        counts += torch.bincount(owner, minlength=part.n_users)
    return counts
