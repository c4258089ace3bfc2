"""Metrics of the second stage, which scores candidates: does it order them well, and are its probabilities true?

Every state is a sum, so that any split of the rows over batches and processes adds up. P stands for pairs of a user
and a candidate.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric

from recsys.errors import RecsysError

CODE_BITS = 20
"""Of a float32's 32, kept by :func:`score_codes`: sign, exponent and 11 binary digits."""
SMALLEST = 2.0**-24
"""Probabilities below it are one for :class:`Calibration`, where they differ by less than any rate can show."""


class AUC(Metric):
    """Area under the ROC curve over all rows: the chance that a positive is scored above a negative, ties by half.

    Scores may be any real numbers. They count as equal where they differ by less than 0.05 % (:func:`score_codes`),
    which bounds the state at 16 MB for any number of rows.

    Args:
        **kwargs: Of ``torchmetrics.Metric``, such as ``sync_on_compute``.
    """

    full_state_update = False
    higher_is_better = True
    counts: Tensor

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.add_state("counts", torch.zeros(2, 2**CODE_BITS, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add rows by score, float ``[P]``, and label, 0 or 1 ``[P]``."""
        _check(scores, labels)
        n = self.counts.shape[1]
        keys = labels.long() * n + score_codes(scores)
        self.counts += torch.bincount(keys, minlength=2 * n).reshape(2, n)

    def compute(self) -> Tensor:
        """Return the area, a float64 scalar; NaN without a positive or without a negative."""
        negatives, positives = self.counts.double()
        below = negatives.cumsum(0) - negatives / 2
        return (positives * below).sum() / (positives.sum() * negatives.sum())


class GAUC(Metric):
    """AUC within each user's rows, averaged with the number of rows as weight (Zhou et al. 2018, DIN, eq. 7).

    Exact. Users with rows of one label only have no AUC and are left out.

    Args:
        **kwargs: Of ``torchmetrics.Metric``.
    """

    full_state_update = False
    higher_is_better = True
    total: Tensor
    rows: Tensor
    users: Tensor

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("users", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, labels: Tensor, users: Tensor) -> None:
        """Add rows by score, label and user, each ``[P]``; all rows of a user must come in the same call."""
        _check(scores, labels, users)
        areas, rows = user_auc(scores, labels, users)
        self.total += (areas * rows).sum()
        self.rows += rows.sum()
        self.users += len(rows)

    def compute(self) -> dict[str, Tensor]:
        """Return ``gauc``, NaN where no user has an AUC, and ``gauc_users``, those who have one."""
        return {"gauc": self.total / self.rows, "gauc_users": self.users}


def user_auc(scores: Tensor, labels: Tensor, users: Tensor) -> tuple[Tensor, Tensor]:
    """Return the exact AUC, float64, and the rows, int64, of each user who has both labels, ascending, ``[U']``.

    Args:
        scores: ``[P]``.
        labels: 0 or 1, ``[P]``.
        users: Any number that stands for the user, int64 ``[P]``, in any order.
    """
    order = scores.argsort(stable=True)
    order = order[users[order].argsort(stable=True)]
    scores, positive, users = scores[order], labels[order].bool(), users[order]
    user_of_row = users.unique_consecutive(return_inverse=True)[1]
    fresh = torch.ones_like(positive)
    fresh[1:] = (users[1:] != users[:-1]) | (scores[1:] != scores[:-1])
    tie = fresh.cumsum(0) - 1
    user = user_of_row[fresh]
    n_ties, n_users = len(user), int(user[-1]) + 1 if len(user) else 0
    pos = torch.bincount(tie[positive], minlength=n_ties)
    neg = torch.bincount(tie[~positive], minlength=n_ties)
    all_pos, all_neg = (torch.zeros(n_users, dtype=torch.int64, device=pos.device) for _ in range(2))
    all_pos.index_add_(0, user, pos)
    all_neg.index_add_(0, user, neg)
    below = neg.cumsum(0) - neg - (all_neg.cumsum(0) - all_neg)[user]
    wins = torch.zeros(n_users, dtype=torch.float64, device=pos.device)
    wins.index_add_(0, user, pos * (below + neg.double() / 2))
    both = (all_pos > 0) & (all_neg > 0)
    return (wins / (all_pos * all_neg))[both], (all_pos + all_neg)[both]


class LogLoss(Metric):
    """Log loss in nats, and normalized entropy NE: log loss over that of always saying the base rate.

    NE is below 1 for a model that knows more than the base rate (He et al. 2014). Probabilities are clamped to
    ``[1e-7, 1 - 1e-7]``.

    Args:
        **kwargs: Of ``torchmetrics.Metric``.
    """

    full_state_update = False
    higher_is_better = False
    sums: Tensor

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.add_state("sums", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add rows by probability, float ``[P]`` in [0, 1], and label, 0 or 1 ``[P]``."""
        _check(probabilities, labels, probability=True)
        p, y = probabilities.double(), labels.double()
        said = torch.where(y > 0, p, 1 - p).clamp(1e-7, 1 - 1e-7)
        rows = p.new_tensor(float(len(p)))
        self.sums += torch.stack((rows, y.sum(), p.sum(), -said.log().sum()))

    def compute(self) -> dict[str, Tensor]:
        """Return ``log_loss``, ``normalized_entropy``, ``base_rate``, ``mean_probability``; NaN without rows.

        NE is NaN, too, where all labels are the same.
        """
        rows, positives, said, loss = self.sums
        rate = positives / rows
        entropy = -(torch.xlogy(rate, rate) + torch.xlogy(1 - rate, 1 - rate))
        return {
            "log_loss": loss / rows,
            "normalized_entropy": loss / rows / entropy if entropy > 0 else rate * torch.nan,
            "base_rate": rate,
            "mean_probability": said / rows,
        }


@dataclass(frozen=True)
class Reliability:
    """What was said against what happened, by bins of equal mass and rising probability.

    Attributes:
        probability: Mean of the bin's probabilities, float64 ``[b]``.
        rate: Share of its rows that are positive, float64 ``[b]``.
        count: Its rows, int64 ``[b]``, none of them 0; empty without rows.
    """

    probability: Tensor
    rate: Tensor
    count: Tensor

    @property
    def error(self) -> Tensor:
        """Expected calibration error, a scalar: the mean over rows of ``|probability - rate|`` of their bin, or NaN."""
        gaps = (self.probability - self.rate).abs() * self.count
        return gaps.sum() / self.count.sum()


class Calibration(Metric):
    """Expected calibration error over bins of equal mass, overall and by segment (Nixon et al. 2019, arXiv 1904.01685).

    Bins of equal width would put nearly all rows of a rare event into the first one. Rows of one probability are in
    one bin; edges of bins are exact to 0.05 % of the probability, their means and rates exact. The state takes
    1.2 MB for each segment.

    Args:
        segments: Names of the segments; none: all rows are one.
        bins: Bins of a curve.
        **kwargs: Of ``torchmetrics.Metric``.
    """

    full_state_update = False
    higher_is_better = False
    sums: Tensor

    def __init__(self, segments: Sequence[str] = (), bins: int = 20, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.segments, self.bins = tuple(segments), bins
        codes = score_codes(torch.tensor([SMALLEST, 1.0]))
        self._lowest, self._width = int(codes[0]), int(codes[1] - codes[0]) + 1
        shape = max(len(self.segments), 1), self._width, 3
        self.add_state("sums", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor, segment: Tensor | None = None) -> None:
        """Add rows.

        Args:
            probabilities: Float ``[P]`` in [0, 1].
            labels: 0 or 1, ``[P]``.
            segment: Place in ``segments`` of each row, int64 ``[P]``; needed where there are segments.

        Raises:
            RecsysError: A probability is not one, or a segment is missing or unknown.
        """
        if segment is None:
            if self.segments:
                raise RecsysError(f"calibration: rows come without a segment; give one of {', '.join(self.segments)}.")
            segment = torch.zeros_like(labels, dtype=torch.int64)
        _check(probabilities, labels, segment, probability=True)
        if len(segment) and not (int(segment.min()) >= 0 and int(segment.max()) < len(self.sums)):
            raise RecsysError(
                f"calibration: segment {int(segment.min())} to {int(segment.max())}, "
                f"legal are 0 to {len(self.sums) - 1}, places in the list of segments."
            )
        keys = segment * self._width + (score_codes(probabilities) - self._lowest).clamp(min=0)
        p = probabilities.double()
        self.sums.view(-1, 3).index_add_(0, keys, torch.stack((torch.ones_like(p), labels.double(), p), dim=1))

    def curves(self) -> dict[str, Reliability]:
        """Return the curve of ``all`` rows and that of each segment, over all processes."""
        with self.sync_context(should_sync=self.sync_on_compute):
            return self._curves()

    def compute(self) -> dict[str, Tensor]:
        """Return ``ece``, and ``<segment>/ece`` for each segment; NaN where there was no row."""
        whole, *parts = self._curves().values()
        named = zip(self.segments, parts, strict=True)
        return {"ece": whole.error} | {f"{name}/ece": curve.error for name, curve in named}

    def _curves(self) -> dict[str, Reliability]:
        parts = zip(self.segments, self.sums, strict=False)
        return {"all": self._curve(self.sums.sum(0))} | {name: self._curve(sums) for name, sums in parts}

    def _curve(self, sums: Tensor) -> Reliability:
        sums = sums[sums[:, 0] > 0]
        middle = sums[:, 0].cumsum(0) - sums[:, 0] / 2
        bin_of = (middle * self.bins / sums[:, 0].sum()).long()
        count, positives, said = sums.new_zeros(self.bins, 3).index_add_(0, bin_of, sums).T
        used = count > 0
        return Reliability((said / count)[used], (positives / count)[used], count[used].long())


def score_codes(scores: Tensor) -> Tensor:
    """Return numbers in ``[0, 2 ** CODE_BITS)`` in the order of the scores, int64 ``[P]``.

    The bits of a float32 without its sign, read as a number, have the order of the floats; the highest of them are
    kept, so that two scores share a code only if they differ by less than one part in 2,048.
    """
    bits = (scores.float() + 0.0).view(torch.int32).long()  # adding 0 makes -0.0 the same as 0.0
    ordered = torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits) + 2**31
    return ordered >> (32 - CODE_BITS)


def _check(scores: Tensor, labels: Tensor, third: Tensor | None = None, probability: bool = False) -> None:
    """Refuse rows that a metric would count in silence as something else."""
    shapes = [tuple(part.shape) for part in (scores, labels, third) if part is not None]
    if len(set(shapes)) > 1 or scores.ndim != 1:
        raise RecsysError(f"ranking metrics: shapes {shapes}; needed is one row [P] for each of them, all of a length.")
    if scores.isnan().any():
        raise RecsysError("ranking metrics: a score is NaN; the training diverged or the features hold NaN.")
    if probability and bool(((scores < 0) | (scores > 1)).any()):
        found = f"{scores.min().item():g} to {scores.max().item():g}"
        raise RecsysError(f"ranking metrics: probabilities from {found}, legal is 0 to 1; give the logits' sigmoid.")
    if bool(((labels != 0) & (labels != 1)).any()):
        raise RecsysError("ranking metrics: a label is neither 0 nor 1; tell which events count as positives.")
