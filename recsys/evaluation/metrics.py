"""Ranking and catalogue metrics with sum states, so that any split of the users over processes adds up."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

FAMILIES = ("ndcg", "recall", "hit_rate", "mrr")
"""The first axis of :func:`ranking_values`."""


def metric_keys(ks: Sequence[int]) -> list[str]:
    """Return ``ndcg_at_10``, ... in the order of :func:`ranking_values` flattened over its first two axes."""
    return [f"{family}_at_{k}" for family in FAMILIES for k in ks]


def ranking_values(hits: Tensor, n_relevant: Tensor, ks: Sequence[int]) -> Tensor:
    """Score ranked lists, one value for each metric family, cut-off and user.

    With ``r`` the rank from 1 of a hit, ``R`` the number of relevant items and all sums over the first K ranks:
    NDCG ``sum 1 / log2(1 + r)`` over the same sum for ``min(K, R)`` hits at the top (Järvelin & Kekäläinen 2002,
    binary gains); Recall ``hits / R``; HitRate 1 if there is a hit; MRR one over the rank of the first hit.

    Args:
        hits: Whether the item at each rank is relevant, bool ``[B, K]``; lists shorter than a cut-off end in misses.
        n_relevant: Relevant items of each user, int64 ``[B]``; 0 gives zeros.
        ks: Cut-offs.

    Returns:
        float64 ``[4, len(ks), B]``, the families in the order of :data:`FAMILIES`.
    """
    depth = max(ks)
    ranks = torch.arange(1, depth + 1, dtype=torch.float64, device=hits.device)
    discounts = torch.log2(ranks + 1).reciprocal()
    ideal = torch.cat((discounts.new_ones(1), discounts.cumsum(0)))  # a user without relevant items divides by 1
    gains = hits.double()
    out = gains.new_zeros(len(FAMILIES), len(ks), len(hits))
    for column, k in enumerate(ks):
        top = gains[:, :k]
        width = top.shape[1]
        out[0, column] = top @ discounts[:width] / ideal[n_relevant.clamp(max=k)]
        out[1, column] = top.sum(1) / n_relevant.clamp(min=1)
        if width:
            out[2, column] = top.amax(1)
            out[3, column] = (top / ranks[:width]).amax(1)
    return out


class RankingMetrics(Metric):
    """NDCG, Recall, HitRate and MRR at several cut-offs: means over the users who have a relevant item.

    Args:
        ks: Cut-offs.
        **kwargs: Of ``torchmetrics.Metric``, such as ``sync_on_compute``.
    """

    full_state_update = False
    higher_is_better = True
    total: Tensor
    users: Tensor

    def __init__(self, ks: Sequence[int], **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.ks = tuple(ks)
        shape = len(FAMILIES), len(self.ks)
        self.add_state("total", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("users", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Add users who have a relevant item by their values ``[4, len(ks), B]`` of :func:`ranking_values`."""
        self.total += values.sum(-1)
        self.users += values.shape[-1]

    def compute(self) -> dict[str, Tensor]:
        """Return ``ndcg_at_10`` ... and ``users``; NaN where there was no user."""
        means = (self.total / self.users).flatten()
        return dict(zip(metric_keys(self.ks), means, strict=True)) | {"users": self.users}


class CatalogueMetrics(Metric):
    """How much of the catalogue the lists show: coverage, novelty and Gini index at several cut-offs.

    Coverage is the number of distinct items shown over the number of items with an event before the cut; above 1
    is possible where many cold items are shown. Novelty is the mean of ``-log2(share)`` over all places shown,
    with ``share`` the part of the history's users who have the item (Zhou et al. 2010, self-information); an item
    that nobody has counts as one that a single user has. Gini is the index of the exposure over all eligible
    items: 0 shows all alike, 1 only one.

    Args:
        ks: Cut-offs.
        item_users: Users who have the item in their history, int64 ``[N]``.
        n_users: Users who have any history.
        eligible: Items that may be recommended, bool ``[N]``.
        **kwargs: Of ``torchmetrics.Metric``.
    """

    full_state_update = False
    exposure: Tensor

    def __init__(self, ks: Sequence[int], item_users: Tensor, n_users: int, eligible: Tensor, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.ks = tuple(sorted(ks))
        self.item_users, self.n_users, self.eligible = item_users, n_users, eligible
        shape = len(self.ks), len(item_users)
        self.add_state("exposure", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, items: Tensor, shown: Tensor) -> None:
        """Add lists of item rows ``[B, K]``; ``shown [B, K]`` is False where a list has ended."""
        start = 0
        for row, k in enumerate(self.ks):  # each row holds the ranks that the cut-off before it did not reach
            band = items[:, start:k][shown[:, start:k]]
            self.exposure[row] += torch.bincount(band, minlength=self.exposure.shape[1])
            start = k

    def compute(self) -> dict[str, Tensor]:
        """Return ``coverage_at_10``, ``novelty_at_10``, ``gini_at_10`` ..."""
        surprise = -torch.log2(self.item_users.clamp(min=1).double() / max(self.n_users, 1))
        n_sold = max(int((self.item_users > 0).sum()), 1)
        out = {}
        for k, counts in zip(self.ks, self.exposure.cumsum(0), strict=True):
            places = counts.sum().clamp(min=1)
            out[f"coverage_at_{k}"] = (counts > 0).sum() / n_sold
            out[f"novelty_at_{k}"] = (counts * surprise.to(counts.device)).sum() / places
            out[f"gini_at_{k}"] = gini(counts[self.eligible.to(counts.device)])
        return out


def gini(counts: Tensor) -> Tensor:
    """Return the Gini index of non-negative counts ``[N]``, ``sum (2i - N - 1) x_i / (N sum x)`` over sorted ``x_i``.

    0 for equal counts, ``(N - 1) / N`` when one item has all, 0 when nothing was counted.
    """
    ordered = counts.double().sort().values
    n = len(ordered)
    ranks = torch.arange(1, n + 1, dtype=torch.float64, device=counts.device)
    return ((2 * ranks - n - 1) * ordered).sum() / (n * ordered.sum()).clamp(min=1)
