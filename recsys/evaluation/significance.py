"""Bootstrap intervals over users (Efron 1979): how far the numbers would move with other users of the same kind."""

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 2**22
"""Most draws held at a time (32 MB of indices)."""


@dataclass(frozen=True)
class Interval:
    """A mean and the percentile interval of its bootstrap distribution."""

    mean: float
    low: float
    high: float

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.low > 0

    @property
    def below_zero(self) -> bool:
        """Whether the whole interval lies below 0."""
        return self.high < 0


def mean_interval(values: Tensor, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> Interval:
    """Return the mean of per-user values with its percentile bootstrap interval.

    Args:
        values: One number for each user, ``[U]``, ``U >= 1``.
        resamples: Bootstrap samples of U users with replacement.
        level: Coverage of the interval, in (0, 1).
        seed: Of the draws; the same seed and U draw the same users.
    """
    values = values.double().cpu()
    generator = torch.Generator().manual_seed(seed)
    n = len(values)
    means = []
    for batch in torch.arange(resamples).split(max(CHUNK // n, 1)):
        draws = torch.randint(n, (len(batch), n), generator=generator)
        means.append(values[draws].mean(1))
    tail = (1 - level) / 2
    low, high = torch.quantile(torch.cat(means), torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(values.mean().item(), low, high)


def paired_difference(
    first: Tensor, second: Tensor, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return mean of ``first - second`` over the same users with its interval; both ``[U]`` in the same order.

    Raises:
        ValueError: The two do not have one value for each user alike.
    """
    if first.shape != second.shape:
        raise ValueError(f"paired values need the same users: {tuple(first.shape)} against {tuple(second.shape)}.")
    return mean_interval(first.double() - second.double(), resamples, level, seed)
