"""What a new product inherits: the learned part of those known ones whose attributes are most like its own.

A vector has a part that follows from the attributes and one that was learned of the single product: what it is bought
with, what replaces it. A new product has the first alone, and others like it tell what the second may be (k nearest
neighbours as a map from attributes to factors: Gantner et al. 2010).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.bundle.parts import run_tower
from recsys.bundle.towers import CHUNK
from recsys.columns import ITEM_ID
from recsys.data.topk import top_k
from recsys.evaluation.content import tf_idf
from recsys.features import FIRST_ID, OOV_ID

KIN = 10
"""Known products that a new one inherits from; chosen on a validation window, where 5 to 50 do nearly as well."""
CELLS = 2**23
"""Similarities that are in memory at a time."""


def inherited(tower: Any, inputs: Mapping[str, Tensor], vectors: Tensor, users: Tensor) -> Tensor:
    """Return what the last items add to their vectors: the mean of what their kin's ids add, by similarity ``[M, D]``.

    Similarity is the cosine of the categorical attributes, weighted by inverse document frequency. Components in which
    all users agree are left out: they say how popular an item is, and that is not inherited.

    Args:
        tower: Of the items.
        inputs: What it reads of all items, the M new ones last, each ``[N + M]`` or ``[N + M, slots]``.
        vectors: Of the N known items, ``[N, D]``.
        users: Vectors of users, ``[U, D]``.
    """
    n_new = len(inputs[ITEM_ID]) - len(vectors)
    known = (inputs[ITEM_ID][: len(vectors)] >= FIRST_ID).nonzero().squeeze(1)
    out = vectors.new_zeros(n_new, vectors.shape[1])
    if not len(known):
        return out
    personal = users.amax(0) > users.amin(0)
    for rows, weight, place in _kin(inputs, known, n_new):
        items = known[place]
        some, back = items.unique(return_inverse=True)
        told = (vectors[some] - _without_ids(tower, inputs, some)) * personal
        share = weight / weight.sum(1, keepdim=True).clamp(min=1e-9)
        out[rows] = torch.einsum("mk,mkd->md", share, told[back])
    return out


def _kin(inputs: Mapping[str, Tensor], known: Tensor, n_new: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield some of the new items with the similarities of their kin and the places of these in ``known``."""
    n = len(inputs[ITEM_ID])
    is_known = torch.zeros(n, dtype=torch.bool)
    is_known[known] = True
    features = {name: column for name, column in inputs.items() if not column.is_floating_point()}
    weights = tf_idf(features, is_known)
    lengths = np.sqrt(np.asarray(weights.multiply(weights).sum(1))).clip(min=1e-9)
    weights = weights.multiply(1 / lengths).tocsr()
    others = weights[known.numpy()].T.tocsr()
    size = max(CELLS // len(known), 1)
    for start in range(0, n_new, size):
        rows = slice(start, min(start + size, n_new))
        cosine = torch.from_numpy((weights[n - n_new + rows.start : n - n_new + rows.stop] @ others).toarray())
        yield rows, *top_k(cosine, min(KIN, len(known)))


def _without_ids(tower: Any, inputs: Mapping[str, Tensor], rows: Tensor) -> Tensor:
    """Return what the tower says of items whose ids are hidden, ``[n, D]``."""
    parts = []
    for some in rows.split(CHUNK):
        features = {name: column[some] for name, column in inputs.items()}
        features[ITEM_ID] = torch.full_like(features[ITEM_ID], OOV_ID)
        parts.append(run_tower(tower, features))
    return torch.cat(parts)
