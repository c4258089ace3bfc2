"""Moments: what the two-tower model is asked in training.

A *moment* is one user's basket, session or timestamp: one query whose positives are all its relevant items.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.data.log import InteractionLog, first_after


@dataclass(frozen=True)
class Moments:
    """Training queries, sorted by user and time.

    Attributes:
        user: User row, int64 ``[M]``.
        time: Time of the moment's first event, microseconds, int64 ``[M]``.
        event: Position in the log of that first event, int64 ``[M]``.
        history_end: End of the history in the log, int64 ``[M]``; it starts at ``log.offsets[user]``.
            Every event of the history is earlier than ``time``.
        items: Distinct relevant item rows, moment after moment, int64 ``[P]``.
        offsets: Where each moment's items begin in ``items``, int64 ``[M + 1]``.
        weight: What each of the items counts, float32 ``[P]``: its heaviest event of the moment; None: all alike.
    """

    user: Tensor
    time: Tensor
    event: Tensor
    history_end: Tensor
    items: Tensor
    offsets: Tensor
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.user)


def moments_since(moments: Moments, start: int) -> Moments:
    """Return the moments at or after ``start`` (microseconds); their histories go back as far as before."""
    keep = moments.time >= start
    count = moments.offsets.diff()
    of_kept = torch.repeat_interleave(keep, count)
    offsets = torch.zeros(int(keep.sum()) + 1, dtype=torch.int64, device=keep.device)
    offsets[1:] = count[keep].cumsum(0)
    return Moments(
        user=moments.user[keep],
        time=moments.time[keep],
        event=moments.event[keep],
        history_end=moments.history_end[keep],
        items=moments.items[of_kept],
        offsets=offsets,
        weight=None if moments.weight is None else moments.weight[of_kept],
    )


def moments_of(log: InteractionLog) -> Moments:
    """Group the relevant events of a log by basket; a basket's history ends before its first event."""
    parts = [_of_piece(log, piece) for piece in log.pieces()] or [_of_piece(log, slice(0, 0))]
    if len(parts) == 1 and log.keep is None:
        return parts[0]
    count = torch.cat([part.offsets.diff() for part in parts])
    offsets = torch.cat([count.new_zeros(1), count.cumsum(0)])
    columns = [log.kept(torch.cat(column)) for column in zip(*map(_columns, parts), strict=True)]
    user, time, event, history_end, items, *weight = columns
    return Moments(user, time, event, history_end, items, log.kept(offsets), *weight)


def _columns(moments: Moments) -> list[Tensor]:
    columns = [moments.user, moments.time, moments.event, moments.history_end, moments.items]
    return columns if moments.weight is None else [*columns, moments.weight]


def _of_piece(log: InteractionLog, piece: slice) -> Moments:
    """Return the moments of the users whose events are all those of a piece of the log."""
    device, relevant = log.user.device, log.relevant[piece]
    basket = log.basket[piece]
    basket = basket - basket.min() if len(basket) else basket
    n_baskets = int(basket.max()) + 1 if len(basket) else 0
    position = torch.arange(len(basket), device=device)
    # The log is in time order within a user, and a basket has one user: its first position is its start.
    first = torch.full((n_baskets,), len(basket), device=device).scatter_reduce(0, basket, position, "amin")
    pairs, place = (basket * log.n_items + log.item[piece])[relevant].unique(return_inverse=True)
    owner, item = pairs // log.n_items, pairs % log.n_items
    baskets, count = owner.unique_consecutive(return_counts=True)
    order = torch.argsort(first[baskets])
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=device))
    by_moment = torch.argsort(torch.repeat_interleave(rank, count), stable=True)
    event = first[baskets[order]] + piece.start
    user, time = log.user[event], log.time[event]
    offsets = torch.zeros(len(order) + 1, dtype=torch.int64, device=device)
    offsets[1:] = count[order].cumsum(0)
    weight = None
    if log.weight is not None:
        own = log.weight[piece][relevant]
        heaviest = own.new_zeros(len(pairs)).scatter_reduce(0, place, own, "amax")
        weight = heaviest[by_moment]
    return Moments(user, time, event, first_after(log, user, time), item[by_moment], offsets, weight)
