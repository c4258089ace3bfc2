"""Candidates: the few hundred items a request that the ranker orders, the union of what the sources name."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.data.topk import NONE


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
