"""Raw numbers become model input inside the model, so that serving passes what the tables hold.

A feature is described once, from a sample, by its knots: about equally many values lie between two neighbours, and a
value that many rows share has a knot of its own. Everything else reads the place of a value among the knots: the wide
part which bin it is in, the deep part where between two knots it lies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Dict, List, Tuple

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError, did_you_mean

FORMS = ("quantile", "normal", "piecewise", "log")
"""What a number may look like to the deep part; see :class:`NumericTransform`."""


@dataclass(frozen=True)
class NumericFit:
    """What is known of a numeric feature from a sample.

    Attributes:
        name: Key of the raw numbers.
        knots: Strictly rising values, at least one.
        levels: Share of the sample below each knot plus half of the share at it, in (0, 1), strictly rising.
        center: Median of the signed logarithm.
        spread: Robust standard deviation of the signed logarithm, above 0.
        missing: Whether the sample had missing values: what was never missing has no input that says so, because
            nothing would have trained its weight.
    """

    name: str
    knots: tuple[float, ...]
    levels: tuple[float, ...]
    center: float
    spread: float
    missing: bool


def fit_numeric(name: str, values: Tensor, knots: int = 32, sample: int = 200_000) -> NumericFit:
    """Describe a feature.

    Args:
        name: Of the feature.
        values: ``[n]``, any number type; NaN is missing, and an infinite value moves no knot.
        knots: Most knots, at least 2.
        sample: Most values that are read, evenly spread over the rows.
    """
    every = max(-(-len(values) // sample), 1)
    some = values[::every].detach().cpu().float()
    missing = bool(torch.isnan(some).any()) or len(some) == 0
    ordered = some[torch.isfinite(some)].sort().values
    if len(ordered) == 0:
        return NumericFit(name, (0.0,), (0.5,), 0.0, 1.0, missing)
    at = _knots(ordered, knots)
    apart = at.diff() >= torch.finfo(torch.float32).tiny  # closer ones have no finite slope between them
    at = at[torch.cat([torch.ones(1, dtype=torch.bool), apart])]
    below = torch.searchsorted(ordered, at)
    up_to = torch.searchsorted(ordered, at, right=True)
    levels = (below + up_to).double() / (2 * len(ordered))
    logs = signed_log(ordered)
    low, center, high = (float(logs[int(q * (len(logs) - 1))]) for q in (0.25, 0.5, 0.75))
    spread = (high - low) / 1.349 or float(logs.std(correction=0)) or 1.0
    return NumericFit(name, tuple(at.tolist()), tuple(levels.tolist()), center, spread, missing)


def _knots(ordered: Tensor, most: int) -> Tensor:
    """Choose knots among sorted finite values ``[n]``: every frequent one, and quantiles of the others."""
    distinct, count = torch.unique_consecutive(ordered, return_counts=True)
    if len(distinct) <= most:
        return distinct
    frequent = count > len(ordered) / most  # fewer than `most` can be
    rest = ordered[~frequent.repeat_interleave(count)]
    # Not up to the extremes: one wild value would stretch its interval over everything.
    levels = torch.linspace(0.005, 0.995, most - int(frequent.sum()), dtype=torch.float64)
    quantiles = rest[(levels * (len(rest) - 1)).round().long()]
    return torch.cat([distinct[frequent], quantiles]).unique()


def signed_log(values: Tensor) -> Tensor:
    """Return ``sign(x) log(1 + |x|)``, same shape."""
    return values.sign() * values.abs().log1p()


class NumericTransform(nn.Module):
    """Numbers of F features, in three steps: raw -> what can be kept for a training set -> input of the deep part.

    The forms of a number, concatenated over ``forms``; each is 0 where the number is missing:

    - ``quantile``: its level, piecewise linear between the knots, scaled to (-1, 1).
    - ``normal``: the normal score of its level, about (-2.6, 2.6), piecewise linear as well.
    - ``piecewise``: one input an interval of knots, from -1/2 below it to 1/2 above it (piecewise linear encoding,
      Gorishniy et al. 2022): a linear layer makes any piecewise linear function of it.
    - ``log``: the signed logarithm, centred, scaled and clamped to [-4, 4]; the only one that goes on beyond the knots.

    A feature that had missing values in the sample adds an input that is 1 where it is missing.

    Attributes:
        width: Inputs of the deep part that :meth:`deep` makes.
        bin_counts: Bins of each feature, that of missing values included.
    """

    knots: Tensor
    inverse_width: Tensor
    last: Tensor
    scores: Tensor
    center: Tensor
    spread: Tensor
    flagged: Tensor
    owner: Tensor
    step: Tensor
    names: List[str]  # TorchScript cannot infer the type of an empty list
    bin_counts: List[int]

    def __init__(self, fits: Sequence[NumericFit], forms: Sequence[str] = ("normal", "log")) -> None:
        """Store the fits.

        Raises:
            ConfigError: A form is none of :data:`FORMS`.
        """
        super().__init__()
        for form in forms:
            if form not in FORMS:
                raise ConfigError(
                    f"numeric form '{form}' is not one of {', '.join(FORMS)}." + did_you_mean(form, FORMS)
                )
        self.names = [fit.name for fit in fits]
        self.bin_counts = [len(fit.knots) + 1 for fit in fits]
        self.use_piecewise, self.use_log = "piecewise" in forms, "log" in forms
        size, features = max(self.bin_counts, default=2) - 1, len(fits)
        knots = torch.full((features, size), torch.inf)
        inverse_width = torch.zeros(features, size)
        levels = torch.zeros(features, size, dtype=torch.float64)
        for i, fit in enumerate(fits):
            n = len(fit.knots)
            knots[i, :n] = torch.tensor(fit.knots)
            inverse_width[i, : n - 1] = 1.0 / knots[i, :n].diff()
            levels[i] = torch.tensor(fit.levels + fit.levels[-1:] * (size - n), dtype=torch.float64)
        tables = {"quantile": 2 * levels - 1, "normal": torch.special.ndtri(levels)}
        chosen = [table.float() for form, table in tables.items() if form in forms]
        counts = torch.tensor(self.bin_counts, dtype=torch.int64) - 1
        self.register_buffer("knots", knots)
        self.register_buffer("inverse_width", inverse_width)
        self.register_buffer("last", (counts - 1).unsqueeze(1))
        self.register_buffer("scores", torch.stack(chosen) if chosen else torch.zeros(0, features, size))
        self.register_buffer("center", torch.tensor([fit.center for fit in fits]).unsqueeze(1))
        self.register_buffer("spread", torch.tensor([fit.spread for fit in fits]).unsqueeze(1))
        self.register_buffer("flagged", torch.tensor([i for i, f in enumerate(fits) if f.missing], dtype=torch.int64))
        real = torch.arange(size - 1) < (counts - 1).unsqueeze(1)  # [F, size - 1]
        owner, step = real.nonzero(as_tuple=True)
        self.register_buffer("owner", owner)
        self.register_buffer("step", step.float().unsqueeze(1))
        self.width = len(self.flagged) + features * (len(chosen) + self.use_log)
        self.width += len(owner) * self.use_piecewise

    def forward(self, features: Dict[str, Tensor]) -> Tuple[Tensor, Tensor, Tensor]:
        """Find the place of every number among the knots of its feature; nothing here is learned.

        Args:
            features: Name -> raw numbers ``[P]``, NaN where missing; at least one feature.

        Returns:
            bins: int32 ``[P, F]``, the interval that a number is in; the last bin of a feature is for missing ones.
            position: float32 ``[P, F]``, number of the knot below plus the way to the next in [0, 1]; NaN if missing.
            logs: float32 ``[P, F]``, NaN if missing.
        """
        values = torch.stack([features[name].float() for name in self.names])  # [F, P]
        missing = torch.isnan(values)
        logs = (signed_log(values) - self.center) / self.spread
        top = self.knots.gather(1, self.last)
        inside = torch.maximum(torch.minimum(values, top), self.knots[:, :1])
        passed = torch.zeros(inside.shape, dtype=torch.int32, device=inside.device)
        for place in range(1, self.knots.size(1)):  # of a few knots faster than to search among them
            passed += inside >= self.knots[:, place : place + 1]
        knot = passed.long()
        way = (inside - self.knots.gather(1, knot)) * self.inverse_width.gather(1, knot)
        position = knot.float() + way.clamp(0.0, 1.0)
        bins = torch.where(missing, (self.last + 1).int(), passed)
        # Rows of pairs lie together: a training set is read in slices of them.
        return bins.t().contiguous(), position.t().contiguous(), logs.clamp(-4.0, 4.0).t().contiguous()

    def deep(self, position: Tensor, logs: Tensor) -> Tensor:
        """Turn what :meth:`forward` returned, ``[P, F]`` each, into inputs ``[P, width]``, all of them finite.

        The pairs of an input lie side by side, as those of a number do here: rows are copied as a whole, several times
        faster than columns.
        """
        place = position.t().contiguous()  # [F, P]
        missing = torch.isnan(place)
        parts = [missing.index_select(0, self.flagged).float()]
        if self.scores.size(0) > 0:
            known = torch.nan_to_num(place, 0.0)
            knot = known.long()
            way = known - knot.float()
            after = (knot + 1).clamp(max=self.knots.size(1) - 1)
            for form in range(self.scores.size(0)):
                low, high = self.scores[form].gather(1, knot), self.scores[form].gather(1, after)
                parts.append((low + way * (high - low)).masked_fill(missing, 0.0))
        if self.use_piecewise:  # in place, and of the intervals that there are: it is wider than all the rest together
            within = place.index_select(0, self.owner).sub_(self.step).clamp_(0.0, 1.0).sub_(0.5)
            parts.append(within.nan_to_num_(0.0))
        if self.use_log:
            parts.append(torch.nan_to_num(logs.t(), 0.0))
        return torch.cat(parts, 0).t()
