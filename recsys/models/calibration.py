"""Scores become probabilities."""

from collections.abc import Sequence
from typing import Dict

import torch
from torch import Tensor, nn

from recsys.errors import DataError

STEEPEST = 4.0
"""The largest slope of a fitted scale: that of logits which hardly differ would be far larger, and would multiply
whatever lies between the ranker that it was fitted for and the same one fitted again on more data."""


class PlattScale(nn.Module):
    """``sigmoid(slope * logit + bias)`` (Platt 1999); with bias 0 it is temperature scaling (Guo et al. 2017)."""

    slope: Tensor
    bias: Tensor

    def __init__(self, slope: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("slope", torch.tensor(slope))
        self.register_buffer("bias", torch.tensor(bias))

    def forward(self, logits: Tensor) -> Tensor:
        """Map logits to probabilities, same shape."""
        return torch.sigmoid(self.slope * logits + self.bias)


class IsotonicScale(nn.Module):
    """A rising piecewise linear function of the logit, constant beyond its ends.

    Args:
        logits: Knots, strictly rising, at least one.
        probabilities: At the knots, rising, in [0, 1].
    """

    logits: Tensor
    probabilities: Tensor

    def __init__(self, logits: Sequence[float], probabilities: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("logits", torch.tensor(list(logits)))
        self.register_buffer("probabilities", torch.tensor(list(probabilities)))

    def forward(self, logits: Tensor) -> Tensor:
        """Map logits to probabilities, same shape."""
        x, y = self.logits, self.probabilities
        inside = torch.minimum(torch.maximum(logits.contiguous(), x[0]), x[-1])
        below = (torch.searchsorted(x, inside, right=True) - 1).clamp(min=0)
        above = (below + 1).clamp(max=x.size(0) - 1)
        way = ((inside - x[below]) / (x[above] - x[below]).clamp(min=1e-12)).clamp(0.0, 1.0)
        return torch.lerp(y[below], y[above], way)


class CalibratedRanker(nn.Module):
    """A ranker that says how probable a pair is, beside the logit that orders pairs.

    Args:
        ranker: Raw features to logits, ``[P]`` or ``[P, T]``; the first task counts.
        scale: Logits to probabilities.
    """

    def __init__(self, ranker: nn.Module, scale: nn.Module) -> None:
        super().__init__()
        self.ranker = ranker
        self.scale = scale

    def forward(self, features: Dict[str, Tensor]) -> Tensor:
        """Return logit and probability of P pairs, float32 ``[P, 2]``."""
        logits = self.ranker(features)
        if logits.dim() == 2:
            logits = logits[:, 0]
        return torch.stack([logits, self.scale(logits)], 1)


def fit_platt(logits: Tensor, labels: Tensor, use_bias: bool = True) -> PlattScale:
    """Fit slope and bias, or with ``use_bias=False`` a temperature alone, by maximum likelihood.

    Labels are smoothed as in Platt 1999, so that separable data have a finite answer. The slope stays above 0,
    for calibration never turns an order round, and at or below :data:`STEEPEST`.

    Args:
        logits: ``[n]``.
        labels: 0 or 1, ``[n]``; both occur.
        use_bias: Whether the bias is fitted.

    Raises:
        DataError: The labels are all 0 or all 1.
    """
    x, y = _rows(logits, labels)
    positives, negatives = float(y.sum()), float((1 - y).sum())
    target = torch.where(y > 0, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    theta = torch.zeros(2, dtype=torch.float64)  # log of the slope, bias
    theta.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [theta], max_iter=200, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        optimizer.zero_grad()
        scaled = theta[0].clamp(-10, 10).exp() * x + theta[1] * use_bias
        value = torch.nn.functional.binary_cross_entropy_with_logits(scaled, target)
        value.backward()
        return float(value.detach())

    optimizer.step(loss)
    slope, bias = float(theta[0].detach().clamp(-10, 10).exp()), float(theta[1].detach()) * use_bias
    if slope > STEEPEST:
        slope, bias = STEEPEST, fit_bias(STEEPEST * x, target) if use_bias else 0.0
    return PlattScale(slope, bias)


def fit_bias(logits: Tensor, target: Tensor) -> float:
    """Return what added to logits makes their mean probability that of the targets: of all biases the likeliest.

    Args:
        logits: ``[n]``.
        target: In (0, 1), ``[n]``.
    """
    from scipy.optimize import brentq

    most = float(logits.abs().max()) + 50.0  # beyond any target's own logit
    return float(brentq(lambda bias: float((torch.sigmoid(logits + bias) - target).mean()), -most, most))


def fit_isotonic(logits: Tensor, labels: Tensor) -> IsotonicScale:
    """Fit the rising function that is nearest to the labels (Zadrozny and Elkan 2002).

    Probabilities stay as far from 0 and 1 as half a pair more of the other label would keep them: a log loss is finite.

    Args:
        logits: ``[n]``.
        labels: 0 or 1, ``[n]``; both occur.

    Raises:
        DataError: The labels are all 0 or all 1.
    """
    from sklearn.isotonic import IsotonicRegression

    x, y = _rows(logits, labels)
    least = 0.5 / (len(y) + 1)
    found = IsotonicRegression(y_min=least, y_max=1 - least).fit(x.numpy(), y.numpy())
    knots = torch.from_numpy(found.X_thresholds_).float()
    at = torch.from_numpy(found.y_thresholds_).float()
    last = torch.cat([knots[1:] > knots[:-1], torch.ones(1, dtype=torch.bool)])  # some meet in float32
    return IsotonicScale(knots[last].tolist(), at[last].tolist())


def _rows(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return everything as float64 on the CPU, the labels checked to be of both kinds."""
    x, y = logits.detach().cpu().double(), labels.detach().cpu().double()
    positives = int((y > 0).sum())
    if positives in (0, len(y)):
        raise DataError(
            f"calibration: {positives} of {len(y)} labels are positive; probabilities need both kinds: use a longer "
            "window to calibrate on."
        )
    return x, y
