"""Scores become probabilities, and a guard that these are about what they should be."""

from collections.abc import Sequence
from typing import Dict

import torch
from torch import Tensor, nn

from recsys.errors import DataError


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


def fit_platt(logits: Tensor, labels: Tensor, weights: Tensor | None = None, use_bias: bool = True) -> PlattScale:
    """Fit slope and bias, or with ``use_bias=False`` a temperature alone, by maximum likelihood.

    Labels are smoothed as in Platt 1999, so that separable data have a finite answer. The slope stays above 0:
    calibration never turns an order round.

    Args:
        logits: ``[n]``.
        labels: 0 or 1, ``[n]``; both occur.
        weights: How many pairs each row stands for, ``[n]``.
        use_bias: Whether the bias is fitted.

    Raises:
        DataError: The labels are all 0 or all 1.
    """
    x, y, w = _rows(logits, labels, weights)
    positives, negatives = float((w * y).sum()), float((w * (1 - y)).sum())
    target = torch.where(y > 0, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    theta = torch.zeros(2, dtype=torch.float64)  # log of the slope, bias
    theta.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [theta], max_iter=200, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        optimizer.zero_grad()
        scaled = theta[0].clamp(-10, 10).exp() * x + theta[1] * use_bias
        losses = torch.nn.functional.binary_cross_entropy_with_logits(scaled, target, reduction="none")
        value = (losses * w).sum() / w.sum()
        value.backward()
        return float(value.detach())

    optimizer.step(loss)
    slope, bias = float(theta[0].detach().clamp(-10, 10).exp()), float(theta[1].detach()) * use_bias
    return PlattScale(slope, bias)


def fit_isotonic(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> IsotonicScale:
    """Fit the rising function that is nearest to the labels (Zadrozny and Elkan 2002).

    Probabilities stay as far from 0 and 1 as half a pair more of the other label would keep them: a log loss is finite.

    Args:
        logits: ``[n]``.
        labels: 0 or 1, ``[n]``; both occur.
        weights: How many pairs each row stands for, ``[n]``.

    Raises:
        DataError: The labels are all 0 or all 1.
    """
    from sklearn.isotonic import IsotonicRegression

    x, y, w = _rows(logits, labels, weights)
    least = 0.5 / (float(w.sum()) + 1)
    found = IsotonicRegression(y_min=least, y_max=1 - least).fit(x.numpy(), y.numpy(), w.numpy())
    knots = torch.from_numpy(found.X_thresholds_).float()
    at = torch.from_numpy(found.y_thresholds_).float()
    last = torch.cat([knots[1:] > knots[:-1], torch.ones(1, dtype=torch.bool)])  # some meet in float32
    return IsotonicScale(knots[last].tolist(), at[last].tolist())


def check_mean_prediction(
    probabilities: Tensor, base_rate: float, *, weights: Tensor | None = None, tolerance: float = 0.2, place: str
) -> float:
    """Compare the mean prediction with the base rate that a model was fitted to; a guard of its input.

    A model that reads a feature in other codes than it was trained on predicts for other pairs than those it is
    given, and on average something else.

    Args:
        probabilities: Predictions for pairs as they come, ``[n]``.
        base_rate: Share of positives among such pairs, in (0, 1).
        weights: How many pairs each row stands for, ``[n]``.
        tolerance: Legal distance as a share of the base rate; three standard errors of a share of n rows are
            granted on top, so that few rows raise no alarm.
        place: What was predicted, for the message.

    Returns:
        The mean prediction.

    Raises:
        DataError: It is further off than legal, or no number, or there are no rows.
    """
    p = probabilities.detach().double()
    w = torch.ones_like(p) if weights is None else weights.detach().double().to(p.device)
    if len(p) == 0:
        raise DataError(f"{place}: no rows, so that predictions cannot be compared with the base rate.")
    mean = float((p * w).sum() / w.sum())
    rows = float(w.sum().square() / w.square().sum())  # that weigh alike and tell as much
    allowed = tolerance * base_rate + 3 * (base_rate * (1 - base_rate) / rows) ** 0.5
    if not abs(mean - base_rate) <= allowed:
        raise DataError(
            f"{place}: the mean prediction over {len(p)} rows is {mean:.4g}, the base rate of the fit is "
            f"{base_rate:.4g}; at most {allowed:.2g} apart is legal. Are the features encoded with the vocabularies "
            "that the model was trained with, and are these pairs drawn as those of the fit?"
        )
    return mean


def _rows(logits: Tensor, labels: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return everything as float64 on the CPU, the labels checked to be of both kinds."""
    x, y = logits.detach().cpu().double(), labels.detach().cpu().double()
    w = torch.ones_like(x) if weights is None else weights.detach().cpu().double()
    positives = int((y > 0).sum())
    if positives in (0, len(y)):
        raise DataError(
            f"calibration: {positives} of {len(y)} labels are positive; probabilities need both kinds: use a longer "
            "window to calibrate on."
        )
    return x, y, w
