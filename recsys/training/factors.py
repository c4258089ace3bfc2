"""Fits the item factors that the least-squares part of the retriever starts from."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from recsys.data.log import DAY, InteractionLog
from recsys.models.fold_in import event_confidence

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

POPULAR = 2000
"""Items over which the spread of the scores is measured."""
CHUNK = 2**16
"""Users whose factors are taken in double precision at a time."""


@dataclass(frozen=True)
class ItemFactors:
    """Factors ``[N, K]`` float32, zero for an item without events, and the spread of their scores.

    Attributes:
        factors: Of the items.
        spread: Standard deviation of the scores of all users with events for the most popular items; their factors
            are those that the towers find, whose histories have no weights.
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
    plain = event_confidence((log.time.max() - log.time).float() / DAY, confidence, decay)

    def by_user(weight: Tensor) -> "csr_matrix":
        pairs = (weight.numpy(), (log.user.numpy(), log.item.numpy()))
        return coo_matrix(pairs, shape=(log.n_users, log.n_items)).tocsr()

    matrix = by_user(plain if log.weight is None else plain * log.weight)
    with threadpool_limits(1, "blas"):  # it runs threads of its own and asks for this
        model = AlternatingLeastSquares(
            factors=width, regularization=regularization, alpha=1.0, iterations=iterations, random_state=seed
        )
        model.fit(matrix, show_progress=False)
    factors = torch.from_numpy(model.item_factors).clone()
    own = model.user_factors
    if log.weight is not None:
        own = model.recalculate_user(np.arange(log.n_users), by_user(plain))
    users = torch.from_numpy(own)[torch.from_numpy(matrix.getnnz(axis=1) > 0)]
    popular = torch.from_numpy(matrix.getnnz(axis=0)).argsort(descending=True)[:POPULAR]
    return ItemFactors(factors, spread_of_products(users, factors[popular]))


def spread_of_products(left: Tensor, right: Tensor) -> float:
    """Return the standard deviation of all ``left @ right.T``, from sums: the products may not fit into memory.

    Args:
        left: ``[m, K]``.
        right: ``[n, K]``.
    """
    width = left.shape[1]
    total, square = torch.zeros(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64)
    for rows in left.split(CHUNK):
        part = rows.double()
        total += part.sum(0)
        square += part.T @ part
    right, n = right.double(), len(left) * len(right)
    mean, mean_square = float(total @ right.sum(0)) / n, float((square * (right.T @ right)).sum()) / n
    return math.sqrt(max(mean_square - mean**2, 0.0))
