"""Candidates: the few hundred items a request that the ranker orders, the union of what the sources name."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.data.topk import NONE

TURN = 10
"""Places that are dealt at a time when shares are learned."""


@dataclass(frozen=True)
class Candidates:
    """P pairs of B requests, sorted by request, and within one in the order in which the union took them.

    Attributes:
        query: Which request, int64 ``[P]``.
        item: Item row, int64 ``[P]``, distinct within a request.
        rank: Source to the place in its list, int32 ``[P]``: 1 is its first, 0 means that it does not have the item.
    """

    query: Tensor
    item: Tensor
    rank: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.query)


def union(lists: Mapping[str, Tensor], limit: int, shares: Mapping[str, float] | None = None) -> Candidates:
    """Merge the sources' lists into at most ``limit`` distinct items a request.

    Places are dealt out in turns: the r-th item of a source is due at ``r / share``, and the earliest due are taken,
    at equal times those of the source that stands first. So a source always gets its first
    ``limit * share / sum of shares`` items in, and what others leave free, because their lists are short or name the
    same items, is dealt out further in the same way.

    Args:
        lists: Source to item rows ``[B, k]``, -1 where it has fewer; the k may differ.
        limit: The most items of a request.
        shares: Source to its share, above 0; 1 where it has none.
    """
    shares = shares or {}
    due = [torch.arange(1, rows.shape[1] + 1).double() / shares.get(name, 1.0) for name, rows in lists.items()]
    items = torch.cat(list(lists.values()), 1)[:, torch.cat(due).argsort(stable=True)]
    span = int(items.max()) + 1 if items.numel() else 1

    new = (items != NONE) & _first_in_row(items)
    taken = new & (new.cumsum(1) <= limit)
    query, place = taken.nonzero(as_tuple=True)
    item = items[query, place]
    keys, order = (query * span + item).sort()
    rank = {}
    for name, rows in lists.items():
        row, column = (rows != NONE).nonzero(as_tuple=True)
        wanted = row * span + rows[row, column]
        found = torch.searchsorted(keys, wanted).clamp(max=max(len(keys) - 1, 0))
        hit = keys[found] == wanted if len(keys) else torch.zeros_like(wanted, dtype=torch.bool)
        rank[name] = torch.zeros(len(keys), dtype=torch.int32)
        rank[name][order[found[hit]]] = column[hit].int() + 1
    return Candidates(query, item, rank)


def learn_shares(
    lists: Mapping[str, Tensor], wanted: Tensor, n_items: int, limit: int, given: Mapping[str, float]
) -> dict[str, float]:
    """Deal out the places that are not given, ten at a time, to the source that finds most with them.

    The sources with a given share have their places first. Then each turn is that of the source whose next ten items
    hold most of the truth for each place that they take, until the requests are full; all requests count alike.

    Args:
        lists: Source to item rows ``[B, k]``, -1 where it has fewer; the k may differ.
        wanted: Truth as ``request * N + item``, int64 ``[T]``, distinct.
        n_items: N.
        limit: The most items of a request.
        given: Source to its share in percent: below 100 in all, or there is one for each source.

    Returns:
        Source to share as :func:`union` takes them.
    """
    free = [name for name in lists if name not in given]
    if not free:
        return dict(given)
    n_requests = len(lists[free[0]])
    request = torch.arange(n_requests)[:, None]
    keys = {name: torch.where(rows == NONE, NONE, request * n_items + rows) for name, rows in lists.items()}
    known = torch.cat([torch.tensor([NONE]), *(some.flatten() for some in keys.values())]).unique()
    pairs = {name: torch.searchsorted(known, some) for name, some in keys.items()}
    truths = torch.bincount(wanted // n_items, minlength=max(n_requests, 1)).clamp(min=1)
    worth = torch.isin(known, wanted) / truths[known // n_items]
    taken = known == NONE  # what is no item needs no place
    size = torch.zeros(n_requests, dtype=torch.int64)

    def take(block: Tensor) -> None:
        size.add_((~taken[block]).sum(1))
        taken[block] = True

    for name in lists.keys() & given.keys():
        take(pairs[name][:, : int(limit * given[name] / 100)])
    turns = dict.fromkeys(free, 0)
    left = {name: list(pairs[name].split(TURN, 1)) for name in free}
    while True:
        found = {}
        for name, blocks in left.items():
            while blocks and name not in found:
                new = ~taken[blocks[0]] & (size < limit)[:, None]
                if new.any():
                    found[name] = float(worth[blocks[0][new]].sum()) / int(new.sum())
                else:
                    blocks.pop(0)
        if not found:
            break
        best = max(found, key=found.__getitem__)
        take(torch.where((size < limit)[:, None], left[best].pop(0), 0))  # the first pair is none
        turns[best] += 1
    rest, dealt = 100.0 - sum(given.values()), sum(max(n, 1) for n in turns.values())
    return dict(given) | {name: rest * max(n, 1) / dealt for name, n in turns.items()}


def with_pairs(found: Candidates, query: Tensor, item: Tensor) -> Candidates:
    """Add pairs that no source named, such as what was shown; those that are there already stay as they are.

    Args:
        found: Candidates of B requests.
        query: Requests of the further pairs, int64 ``[E]`` in [0, B).
        item: Their items, int64 ``[E]``; the pairs are distinct.
    """
    span = int(torch.cat([found.item, item]).max()) + 1 if len(found) + len(item) else 1
    further = ~torch.isin(query * span + item, found.query * span + found.item)
    joined = torch.cat([found.query, query[further]])
    order = joined.argsort(stable=True)
    nowhere = torch.zeros(int(further.sum()), dtype=torch.int32)
    return Candidates(
        joined[order],
        torch.cat([found.item, item[further]])[order],
        {name: torch.cat([rank, nowhere])[order] for name, rank in found.rank.items()},
    )


def _first_in_row(items: Tensor) -> Tensor:
    """Mark where a value stands for the first time in its row of ``[B, T]``."""
    ordered, place = items.sort(dim=1, stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return torch.zeros_like(first).scatter(1, place, first)
