"""Pooling of a history: which of a user's events count how much."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

AGE_BUCKETS = 16
REPEAT_BUCKETS = 6
FAST = 10.0
"""A few scalars steer everything (decay, repetition, gain); stored divided by this, they learn so much faster."""


class HistoryAttention(nn.Module):
    """Weights of the events of a history: H learned mixtures of recency, repetition and what the item is.

    The weight of an event is a softmax over the history of ``item score + recency bias + repeat bias``. Recency
    starts as a power law of the age in months (Anderson and Schooler 1991), with one exponent a head.
    """

    def __init__(self, width: int, exponents: Sequence[float]) -> None:
        super().__init__()
        self.heads = len(exponents)
        months = (2.0 ** (torch.arange(AGE_BUCKETS) / 1.8) - 1.0) / 30.0
        self.recency = nn.Parameter(-months.log1p()[:, None] * torch.tensor(list(exponents)) / FAST)
        self.repetition = nn.Parameter(torch.zeros(REPEAT_BUCKETS, self.heads))
        self.item_score = nn.Linear(width, self.heads)
        nn.init.zeros_(self.item_score.weight)
        self.fast = FAST

    def forward(self, vectors: Tensor, scores: Tensor, age: Tensor, repeats: Tensor, visible: Tensor) -> Tensor:
        """Pool the histories of S moments that share a window of W events.

        Args:
            vectors: Encoded items of the windows, ``[G, W, D]``.
            scores: ``item_score`` of these, ``[G, W, H]``: cheaper of distinct items than of all events.
            age: Days from event to moment, float32 ``[G, S, W]``.
            repeats: Earlier events of the same user and item, int64 ``[G, W]``.
            visible: Which events are in the moment's history, bool ``[G, S, W]``.

        Returns:
            ``[G, S, H, D]``; zero where nothing is visible.
        """
        per_event = scores.transpose(1, 2) + by_head(self.repetition * self.fast, repeats.clamp(max=5))  # [G, H, W]
        logits = (by_head(self.recency * self.fast, age_bucket(age)) + per_event.unsqueeze(1)).float()  # [G, S, H, W]
        logits = logits.masked_fill(~visible.unsqueeze(2), -1e9)
        weights = logits.softmax(3) * visible.unsqueeze(2)  # the product empties what has no history
        blocks, slots, _ = visible.shape
        pooled = torch.bmm(weights.to(vectors.dtype).flatten(1, 2), vectors)
        return pooled.view(blocks, slots, self.heads, vectors.size(2))


def age_bucket(age: Tensor) -> Tensor:
    """Return which of the AGE_BUCKETS ages in days belong to, int64: 1.8 buckets for each doubling."""
    return ((age.clamp(min=0.0) + 1.0).log2() * 1.8).long().clamp(max=15)


def by_head(table: Tensor, rows: Tensor) -> Tensor:
    """Look up rows ``[..., W]`` of a small table ``[n, H]``; returns ``[..., H, W]``.

    As numbers of one long vector: the gradient of an embedding takes many times as long for rows so short.
    """
    first = torch.arange(table.size(1), device=rows.device) * table.size(0)
    places = rows.unsqueeze(-2) + first.unsqueeze(1)
    return table.t().flatten().index_select(0, places.flatten()).view(places.shape)
