"""Dropout that is cheap on a CPU, too."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 256
"""Values of a random byte: what shares to drop are rounded to."""
LOWEST = -(2**63)
"""Of the numbers of 64 bits."""


class Dropout(nn.Module):
    """:class:`torch.nn.Dropout` (Srivastava et al. 2014), which draws a random byte for a number on a CPU, not a float.

    The share is rounded to the nearest 256th, and what is kept is scaled by the rounded one: the mean stays.

    Args:
        share: Of the numbers to drop, in [0, 1).
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.dropped = min(round(share * LEVELS), LEVELS - 1)
        self.scale = LEVELS / (LEVELS - self.dropped)

    def forward(self, x: Tensor) -> Tensor:
        """Drop numbers of any shape in training; return them as they are else."""
        return self.drop(x) if self.training and self.share > 0.0 else x

    @torch.jit.unused
    def drop(self, x: Tensor) -> Tensor:
        """Drop numbers of any shape; what is scripted answers and does not learn, so it has no need of it."""
        if x.device.type != "cpu":
            return F.dropout(x, self.share)
        drawn = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(LOWEST, None)
        kept = drawn.view(torch.uint8)[: x.numel()].view(x.shape).ge_(self.dropped)
        return x * kept.to(x.dtype).mul_(self.scale)
