"""Baselines of next-basket recommendation: what the user buys again, mixed with what users alike buy."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from recsys.data.log import InteractionLog
from recsys.evaluation.recommender import Past, first_in_basket, popularity, user_items, with_fallback

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

CELLS = 2**23
"""Similarities of users that are in memory at a time, some 20 bytes each."""


@dataclass
class TIFUKNN:
    """Item frequencies that fade in two steps, mixed with those of the nearest users (Hu et al. 2020, SIGIR).

    A user's baskets, in the order of time, form ``groups`` groups of nearly equal size. With ``n`` baskets in a group
    the j-th latest of them (from 0) weighs ``within_decay ** j / n``, and with ``G`` groups the i-th latest group
    ``group_decay ** i / G``. The sum of the weighted baskets is the user's vector ``t_u``; the scores are
    ``alpha * t_u + (1 - alpha) * mean(t_v)`` over the nearest users ``v`` by Euclidean distance. Other than in the
    paper a neighbour must share an item with the user: else those with the shortest vectors are near to everybody.
    The defaults were chosen on the validation window of Complete Journey from 20 trials, most of them on a quarter of
    the users (NDCG@20 of all 0.412).

    Attributes:
        groups: G, at most; a user with fewer baskets has as many groups.
        within_decay: What a basket loses to the next one of its group, in (0, 1].
        group_decay: What a group loses to the next one, in (0, 1].
        neighbours: Users that are mixed in.
        alpha: Weight of the user's own vector, in [0, 1].
    """

    name: str = "tifu_knn"
    groups: int = 7
    within_decay: float = 0.95
    group_decay: float = 0.9
    neighbours: int = 300
    alpha: float = 0.6

    def fit(self, past: Past) -> None:
        """Weigh the baskets of every user."""
        history = past.history.only_relevant()
        place, baskets = basket_places(history)
        groups = baskets.clamp(max=self.groups)
        group = place * groups // baskets
        first, last = -(group * baskets // -groups), -((group + 1) * baskets // -groups) - 1
        decay = self.within_decay ** (last - place).double() * self.group_decay ** (groups - 1 - group).double()
        weights = decay / ((last - first + 1) * groups)
        self._vectors = user_items(history, weights * first_in_basket(history))
        self._by_item = self._vectors.T.tocsr()
        self._lengths = np.asarray(self._vectors.multiply(self._vectors).sum(axis=1)).ravel()
        self._popular = popularity(history)

    def scores(self, users: Tensor) -> Tensor:
        """Return the mixed frequencies, popularity below them, ``[B, N]``."""
        return torch.cat([self._some(rows) for rows in few_at_a_time(users, len(self._lengths))])

    def _some(self, users: Tensor) -> Tensor:
        rows = users.numpy()
        own = self._vectors[rows]
        shared = _sorted(own @ self._by_item).tocoo()
        other = shared.col != rows[shared.row]
        row, column = shared.row[other], shared.col[other]
        nearness = shared.data[other] - self._lengths[column] / 2  # half of |t_u|^2 less the squared distance
        kept = strongest(row, nearness, self.neighbours)
        row, column = row[kept], column[kept]
        mean = _matrix(1 / np.bincount(row, minlength=len(rows))[row], row, column, own.shape[0], len(self._lengths))
        mixed = self.alpha * own + (1 - self.alpha) * (mean @ self._vectors)
        return with_fallback(torch.from_numpy(mixed.toarray()), self._popular)


@dataclass
class UPCF:
    """Recent frequencies of users alike, the user's own among them (UP-CF; Faggioli, Polato, Aiolli 2020, UMAP).

    ``r_u`` is the share of the user's last ``recency`` baskets that hold each item. With
    ``s(u, v) = r_u r_v / (|r_u|^(2 a) |r_v|^(2 (1 - a)))``, the asymmetric cosine, the scores are the sum of
    ``s(u, v) ** locality * r_v`` over the most alike users, where ``s(u, u) = 1``. The defaults were chosen
    on the validation window of Complete Journey from 18 trials, most of them on a quarter of the users (NDCG@20 of
    all 0.411, within 0.0002 of the best).

    Attributes:
        recency: Baskets that count.
        asymmetry: a; 0.5 is the cosine.
        locality: The higher, the more the nearest users and the user's own baskets decide.
        neighbours: Users that take part, the user included.
    """

    name: str = "up_cf"
    recency: int = 100
    asymmetry: float = 0.5
    locality: float = 5.0
    neighbours: int = 300

    def fit(self, past: Past) -> None:
        """Count the recent baskets of every user."""
        history = past.history.only_relevant()
        place, baskets = basket_places(history)
        window = baskets.clamp(max=self.recency)
        weights = (baskets - place <= window) / window
        self._shares = user_items(history, weights * first_in_basket(history))
        self._shares.eliminate_zeros()
        self._by_item = self._shares.T.tocsr()
        self._lengths = np.asarray(self._shares.multiply(self._shares).sum(axis=1), dtype=np.float64).ravel()
        self._popular = popularity(history)

    def scores(self, users: Tensor) -> Tensor:
        """Return summed shares of users alike, popularity below them, ``[B, N]``."""
        return torch.cat([self._some(rows) for rows in few_at_a_time(users, len(self._lengths))])

    def _some(self, users: Tensor) -> Tensor:
        rows = users.numpy()
        shared = _sorted(self._shares[rows] @ self._by_item).tocoo()
        row, column = shared.row, shared.col
        scale = self._lengths[rows[row]] ** self.asymmetry * self._lengths[column] ** (1 - self.asymmetry)
        alike = shared.data / scale
        kept = strongest(row, alike, self.neighbours)
        row, column, alike = row[kept], column[kept], alike[kept] ** self.locality
        weights = _matrix(alike, row, column, len(rows), len(self._lengths))
        return with_fallback(torch.from_numpy((weights @ self._shares).toarray()), self._popular)


def few_at_a_time(users: Tensor, n_users: int) -> tuple[Tensor, ...]:
    """Split users so that each part has at most :data:`CELLS` similarities, should everybody share an item."""
    return users.split(max(CELLS // n_users, 1))


def basket_places(history: InteractionLog) -> tuple[Tensor, Tensor]:
    """Return where each event's basket stands among the user's baskets, and how many these are, int64 ``[E]`` each.

    0 is the earliest; a basket whose events have several times stands where its first one does.
    """
    baskets, of_event = history.basket.unique(return_inverse=True)
    events = torch.arange(len(history))
    first = torch.full_like(baskets, len(history)).scatter_reduce(0, of_event, events, "amin")
    order = first.argsort()
    owner = history.user[first[order]]
    count = torch.bincount(owner, minlength=history.n_users)
    place = torch.empty_like(baskets)
    place[order] = torch.arange(len(baskets)) - (count.cumsum(0) - count)[owner]
    return place[of_event], count[history.user]


def strongest(row: "np.ndarray", value: "np.ndarray", k: int) -> "np.ndarray":
    """Return the positions of the k highest values of each row, row by row, ``[<= rows * k]``; ties by position.

    Args:
        row: Row of each value, int ``[M]``, in any order.
        value: ``[M]``.
        k: Values kept in a row.
    """
    order = np.lexsort((-value, row))
    ordered = row[order]
    place = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    return order[place < k]


def _sorted(matrix: "csr_matrix") -> "csr_matrix":
    """Sort columns within rows, which a product leaves in any order: ties go to the lower user row."""
    matrix.sort_indices()
    return matrix


def _matrix(values: "np.ndarray", row: "np.ndarray", column: "np.ndarray", n_rows: int, n_columns: int) -> "csr_matrix":
    from scipy.sparse import csr_matrix

    return csr_matrix((values.astype(np.float32), (row, column)), shape=(n_rows, n_columns))
