"""The best K of a row of scores, the same on every machine."""

import torch
from torch import Tensor

from recsys.errors import RecsysError

NONE = -1
"""Stands for no item in lists of item rows, and for no group in codes."""


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k highest scores of each row and where they stand; among equal scores the lower position wins.

    ``torch.topk`` leaves the order of ties to the device; here it is part of the result, also across the edge of
    the list. Masked places (``-inf``) may fill the end of a list in any order.

    Args:
        scores: ``[B, N]``, ``-inf`` where masked.
        k: Length of the lists.

    Returns:
        Values and positions int64, both ``[B, min(k, N)]``, best first.

    Raises:
        RecsysError: A score among the best is NaN.
    """
    n = scores.shape[1]
    k = min(k, n)
    values, items = scores.topk(min(k + 1, n), dim=1)  # one more, to see a tie across the edge
    if values.isnan().any():
        raise RecsysError("a model returned NaN scores; its training diverged or its features hold NaN.")
    if n > k > 0:
        tied = (values[:, k - 1] == values[:, k]) & values[:, k].isfinite()
        values, items = values[:, :k], items[:, :k].contiguous()
        if tied.any():
            items[tied] = _lowest_at_edge(scores[tied], values[tied], items[tied])
    items, order = items.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values, items.gather(1, order)


def _lowest_at_edge(scores: Tensor, values: Tensor, items: Tensor) -> Tensor:
    """Replace the items that share the last value of the list by the lowest positions that have it."""
    edge = values[:, -1:]
    slots = values == edge
    equal = scores == edge
    first = equal & (equal.cumsum(1, dtype=torch.int32) <= slots.sum(1, keepdim=True))
    items = items.clone()
    items[slots] = first.nonzero()[:, 1]  # both row by row, and as many of each in every row
    return items


def top_rows(scores: Tensor, k: int) -> Tensor:
    """Return where the k highest scores of each row stand, best first, -1 where fewer are above ``-inf``.

    Args:
        scores: ``[B, N]``, ``-inf`` where masked.
        k: Length of the lists, also where it exceeds N.

    Returns:
        int64 ``[B, k]``.

    Raises:
        RecsysError: A score among the best is NaN.
    """
    values, items = top_k(scores, k)
    out = torch.full((len(scores), k), NONE)
    out[:, : items.shape[1]] = items.masked_fill(values == -torch.inf, NONE)
    return out
