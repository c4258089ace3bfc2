"""The retrieval loss: softmax over sampled candidates, corrected for how they were sampled."""

import math

import torch.nn.functional as F
from torch import Tensor


def inclusion_log_probability(share: Tensor, in_batch: int, uniform: int, n_items: int) -> Tensor:
    """Log of the probability that an item is among the candidates of a batch.

    Mixed negative sampling (Yang et al. 2020): an item gets in through the positives of the batch or
    through the uniform draw.

    Args:
        share: The item's share of all positives of the stream the batch was drawn from, ``[C]`` in [0, 1].
        in_batch: Positives in the batch.
        uniform: Uniform draws, with replacement.
        n_items: Size of the catalogue that they are drawn from.

    Returns:
        ``[C]``, at most 0.
    """
    log_missed = in_batch * (-share.clamp(max=1 - 1e-6)).log1p() + uniform * math.log1p(-1.0 / max(n_items, 2))
    return (-log_missed.expm1()).clamp(min=1e-12).log()


def sampled_softmax(
    query: Tensor,
    candidate: Tensor,
    temperature: Tensor,
    log_q: Tensor,
    positive_query: Tensor,
    positive_candidate: Tensor,
) -> Tensor:
    """Mean of ``-log softmax`` of each positive against the candidates that are not positives.

    Scores are ``query . candidate / temperature - log_q``: the logQ correction (Yi et al. 2019) makes the
    optimum independent of the sampling. The other positives of the same query are no negatives of it, nor is
    a candidate that was drawn by accident and happens to be one (accidental hit): both leave the denominator.

    Args:
        query: ``[B, D]``.
        candidate: ``[C, D]``.
        temperature: Scalar above 0.
        log_q: Log probability of each candidate to be in the sample, ``[C]``.
        positive_query: Row of the query of each positive, int64 ``[P]``.
        positive_candidate: Row of its candidate, int64 ``[P]``.

    Returns:
        Scalar, in float32 also under autocast.
    """
    scores = (query @ candidate.T).float() / temperature - log_q
    positive = scores[positive_query, positive_candidate]
    rest = scores.index_put((positive_query, positive_candidate), scores.new_tensor(float("-inf")))
    negatives = rest.logsumexp(1)[positive_query]
    # -log(e^p / (e^p + e^n)) without leaving log space.
    return F.softplus(negatives - positive).mean()
