"""The baseline that knows items only by their attributes, and so can score items that nobody has taken yet."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from recsys.columns import ITEM_ID
from recsys.evaluation.recommender import Past, popularity, user_items, with_fallback
from recsys.features import FIRST_ID

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@dataclass
class ContentKNN:
    """Items whose attributes are nearest to those of the user's history, by cosine.

    An item is the one-hot vector of its categorical attributes (the id is none of them), each weighted by inverse
    document frequency ``log(N / n)`` and the vector scaled to length 1. A user is the sum of the items taken, each
    weighted by ``log(1 + count)``. Items of equal attributes are told apart by popularity, which never outweighs
    a difference in attributes worth more than ``tie_break``.

    Attributes:
        tie_break: Weight of popularity, against cosines in ``[0, 1]``.
    """

    name: str = "content_knn"
    tie_break: float = 1e-3

    def fit(self, past: Past) -> None:
        """Weigh attributes over the eligible items and sum them up into users' profiles."""
        from sklearn.preprocessing import normalize

        self._items = normalize(tf_idf(past.item_features, past.eligible))
        self._profiles = normalize(user_items(past.history).log1p() @ self._items)
        self._popular = popularity(past.history)

    def scores(self, users: Tensor) -> Tensor:
        """Return cosines with a trace of popularity, ``[B, N]``; users without history get popularity."""
        profiles = self._profiles[users.numpy()].toarray()
        cosine = torch.from_numpy(self._items @ profiles.T).T
        return with_fallback(torch.where(cosine > 0, cosine + self.tie_break * self._popular, 0.0), self._popular)


def tf_idf(item_features: dict[str, Tensor], eligible: Tensor) -> "csr_matrix":
    """Weigh the known values of categorical attributes: a column for each, ``[N, V]`` float32.

    Args:
        item_features: Encoded, ``[N]`` or ``[N, slots]``; ids of items and numbers are left out.
        eligible: Items over which values are counted, bool ``[N]``.
    """
    from scipy.sparse import coo_matrix, hstack

    n_items = len(eligible)
    blocks = [coo_matrix((n_items, 1), dtype=np.float32)]
    for name, values in sorted(item_features.items()):
        if name == ITEM_ID or values.is_floating_point():
            continue
        slots = values.reshape(n_items, -1)
        rows, columns = (slots >= FIRST_ID).nonzero(as_tuple=True)
        ids = slots[rows, columns]
        ones = np.ones(len(ids), dtype=np.float32)
        block = coo_matrix((ones, (rows.numpy(), ids.numpy())), shape=(n_items, int(slots.max()) + 1)).tocsr()
        block.data[:] = 1.0
        blocks.append(block)
    one_hot = hstack(blocks, format="csr", dtype=np.float32)
    documents = one_hot[eligible.numpy()].getnnz(axis=0)
    idf = np.log(np.maximum(eligible.sum().item(), 1) / np.maximum(documents, 1)).astype(np.float32)
    return one_hot.multiply(idf).tocsr()
