"""Blocks of moments, what batches are cut from, and the stream of items that they bring with them."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """Consecutive moments of one user: ``start <= moment < start + size``; both int64 ``[G]``.

    ``period`` numbers the stretch of time in which the first moment lies, int64 ``[G]``.
    """

    start: Tensor
    size: Tensor
    period: Tensor

    def take(self, which: Tensor | slice) -> "Block":
        """Return some of the blocks."""
        return Block(self.start[which], self.size[which], self.period[which])

    def into(self, batches: int) -> "Block":
        """Return these blocks, or their moments one by one if a batch could stay empty otherwise."""
        if int(self.size.max()) <= int(self.size.sum()) // batches:
            return self
        place = torch.repeat_interleave(self.size)
        nth = torch.arange(len(place)) - (self.size.cumsum(0) - self.size)[place]
        return Block(self.start[place] + nth, torch.ones_like(place), self.period[place])

    def edges(self, batches: int) -> list[int]:
        """Return where the batches begin, and where the last one ends."""
        total = self.size.cumsum(0)
        ends = torch.arange(1, batches + 1) * total[-1] // batches
        return [0, *(torch.searchsorted(total, ends) + 1).tolist()]


@dataclass(frozen=True)
class Stream:
    """In how many blocks of a period each item is a positive: what in-batch negatives are drawn from.

    Attributes:
        key: ``period * n_items + item``, ascending, int64.
        count: Blocks, int64, aligned with ``key``.
        blocks: Blocks of each period, int64.
        n_items: N.
    """

    key: Tensor
    count: Tensor
    blocks: Tensor
    n_items: int

    def share(self, period: int, items: Tensor) -> Tensor:
        """Return the share of the period's blocks that each item is in, float32 ``[n]``."""
        wanted = period * self.n_items + items
        place = torch.searchsorted(self.key, wanted).clamp(max=len(self.key) - 1)
        return torch.where(self.key[place] == wanted, self.count[place], 0) / self.blocks[period]
