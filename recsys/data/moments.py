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
    n_baskets = int(log.basket.max()) + 1 if len(log) else 0
    position = torch.arange(len(log), device=log.user.device)
    # The log is in time order within a user, and a basket has one user: its first position is its start.
    first = torch.full((n_baskets,), len(log), device=position.device).scatter_reduce(0, log.basket, position, "amin")
    pairs, place = (log.basket * log.n_items + log.item)[log.relevant].unique(return_inverse=True)
    basket, item = pairs // log.n_items, pairs % log.n_items
    baskets, count = basket.unique_consecutive(return_counts=True)
    order = torch.argsort(first[baskets])
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    by_moment = torch.argsort(torch.repeat_interleave(rank, count), stable=True)
    event = first[baskets[order]]
    user, time = log.user[event], log.time[event]
    offsets = torch.zeros(len(order) + 1, dtype=torch.int64, device=order.device)
    offsets[1:] = count[order].cumsum(0)
    weight = None
    if log.weight is not None:
        heaviest = log.weight.new_zeros(len(pairs)).scatter_reduce(0, place, log.weight[log.relevant], "amax")
        weight = heaviest[by_moment]
    return Moments(user, time, event, first_after(log, user, time), item[by_moment], offsets, weight)
