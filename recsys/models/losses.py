"""The retrieval loss: softmax over sampled candidates, corrected for how they were sampled."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def inclusion_log_probability(share: Tensor, draws: int, uniform: int, n_items: int) -> Tensor:
    """Log of the probability that an item is among the candidates of a batch.

    Mixed negative sampling (Yang et al. 2020): an item gets in through the positives of the batch or
    through the uniform draw.

    Args:
        share: Chance that one draw from the stream brings the item in, ``[C]`` in [0, 1].
        draws: Draws from the stream that a batch is made of.
        uniform: Uniform draws, with replacement.
        n_items: Size of the catalogue that they are drawn from.

    Returns:
        ``[C]``, at most 0.
    """
    log_missed = draws * (-share.clamp(max=1 - 1e-6)).log1p() + uniform * math.log1p(-1.0 / max(n_items, 2))
    return (-log_missed.expm1()).clamp(min=1e-12).log()


def sampled_softmax(
    query: Tensor,
    candidate: Tensor,
    temperature: Tensor,
    log_q: Tensor,
    positive_query: Tensor,
    positive_candidate: Tensor,
    weight: Tensor | None = None,
) -> Tensor:
    """Mean of ``-log softmax`` of each positive, the sum below it estimated from sampled candidates.

    A negative's score is ``query . candidate / temperature - log_q``: divided by its probability to be in the
    sample it stands for all items like it (logQ correction, Yi et al. 2019). The positive is there with certainty
    and is not corrected (arXiv 2507.09331). The other positives of the same query are no negatives of it, nor is a
    candidate that was drawn by accident and happens to be one (accidental hit): they leave the sum.

    Args:
        query: ``[B, D]``.
        candidate: ``[C, D]``.
        temperature: Scalar above 0.
        log_q: Log probability of each candidate to be in the sample, ``[C]``, or of each for each query, ``[B, C]``.
        positive_query: Row of the query of each positive, int64 ``[P]``.
        positive_candidate: Row of its candidate, int64 ``[P]``.
        weight: What each positive counts in the mean, float32 ``[P]``; None: all alike.

    Returns:
        Scalar, in float32 also under autocast.
    """
    scores = ((query / temperature) @ candidate.T).float()
    positive = scores[positive_query, positive_candidate]
    is_positive = torch.zeros_like(scores, dtype=torch.bool)
    is_positive[positive_query, positive_candidate] = True
    negatives = (scores - log_q).masked_fill(is_positive, float("-inf")).logsumexp(1)[positive_query]
    # -log(e^p / (e^p + e^n)) without leaving log space.
    losses = F.softplus(negatives - positive)
    return losses.mean() if weight is None else (losses * weight).sum() / weight.sum()
