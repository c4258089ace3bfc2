"""Losses of the ranker: of a pair, of a list, and of two pairs of a list.

A list is what one user could have been shown at one moment; lists are ragged, a group number for each of P pairs.
Everything is computed in float32, also under autocast.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def weighted_bce(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted mean of the binary cross entropies; several tasks are averaged; scalar.

    Args:
        logits: ``[P]`` or ``[P, T]``.
        labels: Same shape, in [0, 1].
        weights: How many pairs each one stands for, ``[P]``, at least 0; None weighs all alike. With one over the
            probability that a pair was drawn, the loss of a sample estimates that of all pairs without bias, and the
            model predicts probabilities among all of them (Horvitz and Thompson 1952).
    """
    logits, labels = logits.float(), labels.float()
    losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").view(logits.size(0), -1).mean(1)
    if weights is None:
        return losses.mean()
    weights = weights.float()
    return (losses * weights).sum() / weights.sum().clamp(min=1e-12)


def listwise_softmax(
    logits: Tensor, labels: Tensor, group: Tensor, n_groups: int, weights: Tensor | None = None
) -> Tensor:
    """Cross entropy between a list's labels, as shares, and the softmax of its scores (ListNet, Cao et al. 2007).

    Mean over the groups with a positive; 0, with a gradient of zeros, if none has one.

    Args:
        logits: ``[P]``.
        labels: Gains, ``[P]``, at least 0.
        group: int64 ``[P]`` in [0, n_groups), in any order.
        n_groups: G.
        weights: How many candidates each pair stands for in the sum of its softmax, ``[P]`` above 0.

    Returns:
        Scalar.
    """
    logits, labels = logits.float(), labels.float()
    terms = logits if weights is None else logits + weights.float().log()
    total = logits.new_zeros(n_groups).index_add(0, group, labels)
    has_positive = total > 0
    share = labels / total.clamp(min=1e-12)[group]
    losses = logits.new_zeros(n_groups).index_add(
        0, group, share * (segment_logsumexp(terms, group, n_groups)[group] - logits)
    )
    return (losses * has_positive).sum() / has_positive.sum().clamp(min=1)


def segment_logsumexp(values: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """Log of the summed exponentials of each group: ``[P]`` float32 by ``group`` int64 ``[P]`` to ``[G]``.

    A group without members has ``log(1e-38)``, about -87.5.
    """
    highest = values.new_full((n_groups,), float("-inf")).scatter_reduce(0, group, values.detach(), "amax")
    highest = highest.clamp(min=0.0).where(highest.isinf(), highest)
    sums = values.new_zeros(n_groups).index_add(0, group, (values - highest[group]).exp())
    return sums.clamp(min=1e-38).log() + highest


def spread_within(values: Tensor, group: Tensor) -> float:
    """Return the standard deviation of values ``[P]`` around the mean of their group, int64 ``[P]``; 0 without any."""
    if not len(values):
        return 0.0
    n_groups = int(group.max()) + 1
    count = torch.bincount(group, minlength=n_groups).clamp(min=1)
    mean = values.new_zeros(n_groups).index_add(0, group, values) / count
    return float((values - mean[group]).square().mean().sqrt())


def lambda_rank(
    logits: Tensor, labels: Tensor, group: Tensor, n_groups: int, k: int = 20, budget: int = 2**22
) -> Tensor:
    """Pairwise logistic loss, each pair weighted by what NDCG@K its exchange would cost (LambdaRank, Burges 2010).

    Sum of ``|change of NDCG@K| * log(1 + exp(s_j - s_i))`` over the pairs with ``label_i > label_j`` of a group, mean
    over the groups with a positive; gains are ``2^label - 1``, discounts ``1 / log2(1 + rank)`` up to rank K and 0
    after. The weights are constants: the ranks of the moment, ties in the order of the rows.

    Every pair has a member with a label above 0, so that only these are compared with their groups, a chunk at a time;
    loss and gradient are summed as the chunks pass, and memory does not grow with their number.

    Args:
        logits: ``[P]``.
        labels: ``[P]``, at least 0.
        group: int64 ``[P]`` in [0, n_groups), in any order.
        n_groups: G.
        k: K, at least 1.
        budget: Most comparisons in memory at once; at least one row of the largest group is.

    Returns:
        Scalar; differentiable once.
    """
    logits, labels = logits.float(), labels.float()
    value, gradient = _lambdas(logits.detach(), labels.detach(), group, n_groups, k, budget)
    # The value of one and the gradient of the other.
    surrogate = (gradient * logits).sum()
    return surrogate + (value - surrogate).detach()


@torch.no_grad()
def _lambdas(s: Tensor, labels: Tensor, group: Tensor, n_groups: int, k: int, budget: int) -> tuple[Tensor, Tensor]:
    """Return the loss of :func:`lambda_rank` and its gradient ``[P]``."""
    size = torch.bincount(group, minlength=n_groups)
    start = size.cumsum(0) - size
    by_score = s.argsort(descending=True, stable=True)
    order = by_score[group[by_score].argsort(stable=True)]  # rows by group, best first
    gain = labels.exp2() - 1
    discount = _discount(torch.arange(len(s), device=s.device) - start[group[order]], k)
    ideal_order = labels.argsort(descending=True, stable=True)
    ideal_order = ideal_order[group[ideal_order].argsort(stable=True)]
    ideal = s.new_zeros(n_groups).index_add(0, group[ideal_order], gain[ideal_order] * discount)
    n_lists = (ideal > 0).sum().clamp(min=1)

    # From here on everything is in that order: a group is a range of rows.
    s, labels, gain, group_of = s[order], labels[order], gain[order], group[order]
    preferred = (labels > 0).nonzero().squeeze(1)
    widest = int(size.max()) if len(s) else 0
    value, gradient = s.new_zeros(()), torch.zeros_like(s)
    for i in preferred.split(max(budget // max(widest, 1), 1)) if len(preferred) else ():
        mine = group_of[i]
        columns = torch.arange(int(size[mine].max()), device=s.device)
        j = (start[mine].unsqueeze(1) + columns).clamp(max=len(s) - 1)  # [n, L]
        counts = (columns < size[mine].unsqueeze(1)) & (labels[j] < labels[i].unsqueeze(1))
        weight = (gain[i].unsqueeze(1) - gain[j]) * (discount[i].unsqueeze(1) - discount[j]).abs()
        weight = weight / ideal[mine].unsqueeze(1) * counts / n_lists
        margin = s[i].unsqueeze(1) - s[j]
        value += (weight * F.softplus(-margin)).sum()
        pull = weight * torch.sigmoid(-margin)
        gradient.index_add_(0, i, -pull.sum(1))
        gradient.index_add_(0, j.flatten(), pull.flatten())
    return value, torch.zeros_like(gradient).index_copy_(0, order, gradient)


def _discount(rank: Tensor, k: int) -> Tensor:
    """Return ``1 / log2(2 + rank)`` for ranks from 0 below K and 0 from there, float32."""
    return (rank + 2).float().log2().reciprocal() * (rank < k)
