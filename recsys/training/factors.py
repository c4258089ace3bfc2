"""Fits the item factors that the least-squares part of the retriever starts from."""

from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.data.log import DAY, InteractionLog
from recsys.models.fold_in import event_confidence

POPULAR = 2000
"""Items over which the spread of the scores is measured."""


@dataclass(frozen=True)
class ItemFactors:
    """Factors ``[N, K]`` float32, zero for an item without events, and the spread of their scores.

    Attributes:
        factors: Of the items.
        spread: Standard deviation of the scores of all users with events for the most popular items.
    """

    factors: Tensor
    spread: float


def fit_item_factors(
    log: InteractionLog,
    width: int,
    *,
    confidence: float,
    decay: float,
    regularization: float,
    seed: int,
    iterations: int = 10,
) -> ItemFactors:
    """Factorise users by items with the library ``implicit``: every event counts, heavy ones more, older ones less.

    Args:
        log: Events; their ages are counted back from the last one.
        width: K.
        confidence: Of the last event.
        decay: Power of the age in months that it falls with.
        regularization: Weight of the squared norms.
        seed: Of the first factors.
        iterations: Alternating sweeps over users and items.
    """
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy.sparse import coo_matrix
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    log = log.to("cpu")
    weight = event_confidence((log.time.max() - log.time).float() / DAY, confidence, decay)
    if log.weight is not None:
        weight = weight * log.weight
    pairs = (weight.numpy(), (log.user.numpy(), log.item.numpy()))
    matrix = coo_matrix(pairs, shape=(log.n_users, log.n_items)).tocsr()
    with threadpool_limits(1, "blas"):  # it runs threads of its own and asks for this
        model = AlternatingLeastSquares(
            factors=width, regularization=regularization, alpha=1.0, iterations=iterations, random_state=seed
        )
        model.fit(matrix, show_progress=False)
    factors = torch.from_numpy(model.item_factors).clone()
    users = torch.from_numpy(model.user_factors)[torch.from_numpy(matrix.getnnz(axis=1) > 0)]
    popular = torch.from_numpy(matrix.getnnz(axis=0)).argsort(descending=True)[:POPULAR]
    return ItemFactors(factors, float((users @ factors[popular].T).std()))
