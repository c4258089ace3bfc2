"""Pooling of a history: which of a user's events count how much."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
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

    def forward(self, vectors: Tensor, age: Tensor, repeats: Tensor, visible: Tensor) -> Tensor:
        """Pool the histories of S moments that share a window of W events.

        Args:
            vectors: Encoded items of the windows, ``[G, W, D]``.
            age: Days from event to moment, float32 ``[G, S, W]``.
            repeats: Earlier events of the same user and item, int64 ``[G, W]``.
            visible: Which events are in the moment's history, bool ``[G, S, W]``.

        Returns:
            ``[G, S, H, D]``; zero where nothing is visible.
        """
        bucket = ((age.clamp(min=0.0) + 1.0).log2() * 1.8).long().clamp(max=15)
        logits = F.embedding(bucket, self.recency * self.fast)  # [G, S, W, H]
        per_event = self.item_score(vectors) + F.embedding(repeats.clamp(max=5), self.repetition * self.fast)
        logits = (logits + per_event.unsqueeze(1)).float()
        logits = logits.masked_fill(~visible.unsqueeze(3), -1e9)
        weights = logits.softmax(2) * visible.unsqueeze(3)  # the product empties what has no history
        blocks, slots, events = visible.shape
        flat = weights.to(vectors.dtype).transpose(2, 3).reshape(blocks, slots * self.heads, events)
        return torch.bmm(flat, vectors).view(blocks, slots, self.heads, vectors.size(2))
