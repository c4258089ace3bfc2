"""Bootstrap intervals over users (Efron 1979): how far the numbers would move with other users of the same kind."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LEVEL = 0.95
"""Coverage of every interval."""
CHUNK = 2**22
"""Most draws held at a time (32 MB of indices)."""
FEWEST = 10
"""Users that bounds need: of 10 they are a fifth closer than Student's, of 2 nine tenths, of 1 they are the mean."""


@dataclass(frozen=True)
class Interval:
    """A mean and the percentile interval of its bootstrap distribution; of few users from -inf to inf."""

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

    @property
    def is_bounded(self) -> bool:
        """Whether there were users enough for bounds."""
        return math.isfinite(self.high - self.low)

    def to_plain(self) -> dict[str, float | None]:
        """Return it as JSON takes it, with null for bounds that are not there."""
        low, high = (self.low, self.high) if self.is_bounded else (None, None)
        return {"mean": self.mean, "low": low, "high": high}


def mean_interval(values: Tensor, resamples: int = 1000, seed: int = 0) -> Interval:
    """Return the mean of per-user values with its percentile bootstrap interval.

    Args:
        values: One number for each user, ``[U]``, ``U >= 1``; of fewer than :data:`FEWEST` there are no bounds.
        resamples: Bootstrap samples of U users with replacement.
        seed: Of the draws; the same seed and U draw the same users.
    """
    values = values.double().cpu()
    generator = torch.Generator().manual_seed(seed)
    n = len(values)
    if n < FEWEST:
        return Interval(values.mean().item(), -math.inf, math.inf)
    means = []
    for batch in torch.arange(resamples).split(max(CHUNK // n, 1)):
        draws = torch.randint(n, (len(batch), n), generator=generator)
        means.append(values[draws].mean(1))
    tail = (1 - LEVEL) / 2
    low, high = torch.quantile(torch.cat(means), torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(values.mean().item(), low, high)


def paired_difference(first: Tensor, second: Tensor, resamples: int = 1000, seed: int = 0) -> Interval:
    """Return mean of ``first - second`` over the same users with its interval; both ``[U]`` in the same order.

    Raises:
        ValueError: The two do not have one value for each user alike.
    """
    if first.shape != second.shape:
        raise ValueError(f"paired values need the same users: {tuple(first.shape)} against {tuple(second.shape)}.")
    return mean_interval(first.double() - second.double(), resamples, seed)
