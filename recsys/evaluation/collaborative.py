"""Baselines that learn from who took what: item neighbours, matrix factorisation, a linear autoencoder."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recsys.evaluation.recommender import Past, popularity, user_items, with_fallback

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@dataclass
class ItemKNN:
    """Items most alike to those of the user's history, by the cosine between the sets of their buyers.

    Counts enter as ``log(1 + count)``; the similarity comes from the library ``implicit``.

    Attributes:
        neighbours: Kept for each item, itself included.
    """

    name: str = "item_knn"
    neighbours: int = 100

    def fit(self, past: Past) -> None:
        """Compute the neighbours of every item."""
        from implicit.nearest_neighbours import ItemItemRecommender
        from sklearn.preprocessing import normalize

        self._matrix = user_items(past.history).log1p()
        self._popular = popularity(past.history)
        with _one_blas_thread():
            model = ItemItemRecommender(K=self.neighbours)
            model.fit(normalize(self._matrix.astype("float64"), axis=0).tocsr(), show_progress=False)
        self._similarity = model.similarity.astype("float32")

    def scores(self, users: Tensor) -> Tensor:
        """Return summed similarities, popularity below them, ``[B, N]``."""
        return self._summed(self._matrix[users.numpy()])

    def near_items(self, items: Sequence[Tensor]) -> Tensor:
        """Return the same for what is in B baskets, item rows each, in place of the users' histories, ``[B, N]``."""
        from scipy.sparse import csr_matrix

        row = np.repeat(np.arange(len(items)), [len(basket) for basket in items])
        column = np.concatenate([np.empty(0, np.int64), *(basket.numpy() for basket in items)])
        shape = len(items), len(self._popular)
        return self._summed(csr_matrix((np.ones(len(row), np.float32), (row, column)), shape=shape))

    def _summed(self, baskets: "csr_matrix") -> Tensor:
        return with_fallback(torch.from_numpy((baskets @ self._similarity).toarray()), self._popular)


@dataclass
class ALS:
    """Implicit matrix factorisation (Hu, Koren, Volinsky 2008) by the library ``implicit``.

    The confidence of an observed pair is ``alpha * count``, that of an unobserved one 1. The defaults are the best on
    the validation window of Complete Journey among 24 trials (NDCG@20 0.316): many factors need strong regularisation,
    and an ``alpha`` below 1 lets repeated purchases weigh against single ones.

    Attributes:
        factors: Width of the factors.
        regularization: Weight of their squared norms.
        alpha: Confidence of a pair for each time it was observed.
        iterations: Sweeps over users and items.
        seed: Of the first factors.
    """

    name: str = "als"
    factors: int = 128
    regularization: float = 10.0
    alpha: float = 0.3
    iterations: int = 15
    seed: int = 0

    def fit(self, past: Past) -> None:
        """Factorise the users by items matrix."""
        from implicit.cpu.als import AlternatingLeastSquares

        matrix = user_items(past.history)
        with _one_blas_thread():
            model = AlternatingLeastSquares(
                factors=self.factors,
                regularization=self.regularization,
                alpha=self.alpha,
                iterations=self.iterations,
                random_state=self.seed,
            )
            model.fit(matrix, show_progress=False)
        self._users = torch.from_numpy(model.user_factors)
        self._items = torch.from_numpy(model.item_factors)
        self._known = torch.from_numpy(matrix.getnnz(axis=1) > 0)
        self._popular = popularity(past.history)

    def scores(self, users: Tensor) -> Tensor:
        """Return dot products ``[B, N]``; users without history get popularity."""
        return torch.where(self._known[users, None], self._users[users] @ self._items.T, self._popular)


@dataclass
class EASE:
    """Linear item-item autoencoder with a zero diagonal (Steck 2019, arXiv 1905.03375), on the most popular items.

    With ``X [U, M]`` and ``P = (X'X + l2 I)^-1`` the weights are ``B = -P / diag(P)`` off the diagonal. Memory is
    about three dense ``M x M`` float32 matrices: 1.2 GB at 10,000 items.

    Attributes:
        max_items: M, the items that take part; the others follow by popularity.
        l2: Ridge penalty.
    """

    name: str = "ease"
    max_items: int = 10_000
    l2: float = 100.0
    _items: Tensor = field(init=False, repr=False)

    def fit(self, past: Past) -> None:
        """Invert the Gram matrix of the most popular items."""
        self._popular = popularity(past.history)
        known = int((self._popular > 0).sum())
        top = self._popular.argsort(descending=True, stable=True)[: min(self.max_items, known)]
        self._items = top
        self._matrix = user_items(past.history).log1p()[:, top.numpy()]
        gram = torch.from_numpy((self._matrix.T @ self._matrix).toarray())
        gram.diagonal().add_(self.l2)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        del gram
        self._weights = inverse.div_(-inverse.diagonal().clone())
        self._weights.fill_diagonal_(0)

    def scores(self, users: Tensor) -> Tensor:
        """Return reconstructed counts, the rest by popularity, ``[B, N]``."""
        rows = self._matrix[users.numpy()]
        out = torch.zeros(len(users), len(self._popular))
        out[:, self._items] = torch.from_numpy(rows.toarray()) @ self._weights
        return with_fallback(out, self._popular)


def _one_blas_thread() -> AbstractContextManager[Any]:
    """Keep the BLAS to one thread while ``implicit`` runs threads of its own, as that library asks for."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    return threadpool_limits(1, "blas")
