"""Picking an answer from candidates: the best first, by caps and diversity.

What a cap or diversity passes over takes no place: it is made up for by what comes next.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from recsys.bundle.filters import Filters, ItemFacts
from recsys.data.topk import NONE


@dataclass(frozen=True)
class Picked:
    """What has been picked for B requests.

    Attributes:
        items: Item rows ``[B, K]``, -1 at the end where there are fewer.
        scores: Of these, float32 ``[B, K]``, -inf there.
    """

    items: Tensor
    scores: Tensor

    @property
    def count(self) -> Tensor:
        """Items of each request, int64 ``[B]``."""
        return (self.items != NONE).sum(1)

    @classmethod
    def nothing(cls, requests: int, k: int) -> "Picked":
        """Return what has been picked before anything was."""
        return cls(torch.full((requests, k), NONE), torch.full((requests, k), -torch.inf))


def full_values(filters: Filters, facts: ItemFacts, picked: Picked) -> Tensor:
    """Return the items that a cap keeps out of what is picked next, bool ``[B, N]``."""
    full = torch.zeros(len(picked.items), len(facts.codes(next(iter(filters.caps)))), dtype=torch.bool)
    for attribute, most in filters.caps.items():
        codes = facts.codes(attribute)
        of_picked = torch.where(picked.items != NONE, codes[picked.items], NONE)
        counts = torch.zeros(len(full), int(codes.max()) + 2, dtype=torch.int64)
        counts.scatter_add_(1, of_picked + 1, torch.ones_like(of_picked))
        counts[:, 0] = 0  # items without a value are not counted
        full |= (counts >= most)[:, codes + 1]
    return full


def pick(
    items: Tensor,
    scores: Tensor,
    shown: Tensor,
    ks: Tensor,
    filters: Filters,
    facts: ItemFacts,
    vectors: Tensor,
    before: Picked | None = None,
) -> Picked:
    """Pick the best of each request's candidates, one after the other, by caps and diversity.

    Args:
        items: Candidates, int64 ``[B, P]``, distinct, -1 for none; allowed and not picked before.
        scores: Of these, ``[B, P]``, higher is better; of equal ones the first in the row is taken.
        shown: What the answer says of them, ``[B, P]``, such as probabilities.
        ks: The most items of each request, int64 ``[B]``.
        filters: Of the touchpoint.
        facts: Of the items.
        vectors: Of the items, ``[N, D]``; read for diversity alone.
        before: What was picked before; the new items come after it.

    Returns:
        What was picked before, and after.
    """
    before = before or Picked.nothing(len(items), int(ks.max()))
    out, values = before.items.clone(), before.scores.clone()
    scores = scores.masked_fill(items == NONE, -torch.inf)
    free = items != NONE
    relevance = _scaled(scores, free)
    mixed = filters.diversity < 1.0 and items.shape[1] > 0
    nearest = torch.zeros_like(relevance)
    if mixed:
        own = normalize(vectors[items.clamp(min=0)], dim=2)
        for earlier in out.T:
            nearest = _nearer(nearest, own, vectors, earlier)
    caps = [(facts.codes(attribute), most) for attribute, most in filters.caps.items()]
    codes = [torch.where(free, of[items], NONE) for of, _ in caps]
    counts = [_counted(of, out, mine) for (of, _), mine in zip(caps, codes, strict=True)]
    place = before.count
    rows = torch.arange(len(items))
    while items.shape[1] and bool((open_rows := (place < ks) & free.any(1)).any()):
        for (_, most), count in zip(caps, counts, strict=True):
            free &= count < most
        value = filters.diversity * relevance - (1 - filters.diversity) * nearest if mixed else relevance
        column = value.masked_fill(~free, -torch.inf).argmax(1)
        taken = open_rows & free[rows, column]
        if not taken.any():
            break
        some, its = rows[taken], column[taken]
        out[some, place[taken]] = items[some, its]
        values[some, place[taken]] = shown[some, its].float()
        free[some, its] = False
        place = place + taken
        for mine, count in zip(codes, counts, strict=True):
            value_of = mine[rows, column]
            count += ((mine == value_of[:, None]) & (mine != NONE)) & taken[:, None]
        if mixed:
            nearest = _nearer(nearest, own, vectors, torch.where(taken, items[rows, column], NONE))
    return Picked(out, values)


def _scaled(scores: Tensor, free: Tensor) -> Tensor:
    """Scale the scores of each request to 0 to 1, ``[B, P]``; 1 where all are equal."""
    if scores.shape[1] == 0:
        return scores
    low = scores.masked_fill(~free, torch.inf).amin(1, keepdim=True)
    spread = scores.masked_fill(~free, -torch.inf).amax(1, keepdim=True) - low
    return torch.where(free & (spread > 0), (scores - low) / spread, free.to(scores.dtype))


def _nearer(nearest: Tensor, own: Tensor, vectors: Tensor, picked: Tensor) -> Tensor:
    """Return the similarity of candidates ``[B, P, D]`` to the nearest item picked, after one more, ``[B]``."""
    one = normalize(vectors[picked.clamp(min=0)], dim=1).masked_fill((picked == NONE)[:, None], 0.0)
    return torch.maximum(nearest, torch.einsum("bpd,bd->bp", own, one))


def _counted(codes: Tensor, picked: Tensor, mine: Tensor) -> Tensor:
    """Return how many items that were picked share the value of each candidate, int64 ``[B, P]``."""
    theirs = torch.where(picked != NONE, codes[picked], NONE)
    return ((mine[:, :, None] == theirs[:, None, :]) & (mine != NONE)[:, :, None]).sum(2)
