"""What a caller of the reader asks for and receives: numbers of items, and the frame of an answer."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.bundle.histories import Ints
from recsys.bundle.requests import DTYPES, Id
from recsys.columns import RANK, SCORE, USER_ID
from recsys.errors import BundleError

NO_ITEMS = np.empty((0, 1), np.int64), np.empty((0, 1), np.float32)
"""What is found for nobody."""


def checked_k(k: Any, n_items: int) -> int:
    """Return a number of items, at most as many as there are, so that no answer takes memory for places of nothing.

    Raises:
        BundleError: It is not a whole number, or below 1.
    """
    try:
        whole = 0 if isinstance(k, bool) else operator.index(k)
    except TypeError:
        whole = 0
    if whole < 1:
        raise BundleError(f"k: {k!r} is not a whole number of at least 1.")
    return min(whole, n_items)


def checked_ks(k: int | Sequence[int] | Ints, n_users: int, n_items: int) -> list[int]:
    """Return how many items each of B users gets at most.

    Raises:
        BundleError: A number is no legal one, or there are not B of them.
    """
    ks = list(k) if np.iterable(k) else [k] * n_users
    if len(ks) != n_users:
        raise BundleError(f"k: {len(ks)} numbers given for {n_users} users; give one for each, or one number.")
    return [checked_k(asked, n_items) for asked in ks]


def answer(
    users: Sequence[Id | None],
    user_type: str,
    item_ids: pl.Series,
    ks: Sequence[int],
    rows: Ints,
    scores: NDArray[np.float32],
) -> pl.DataFrame:
    """Turn what was found for B users into a frame ``user_id, item_id, rank, score``, rank 1 first.

    Args:
        users: Raw ids, B of them.
        user_type: ``int`` or ``str``.
        item_ids: Raw ids of the catalogue, ``[N]``.
        ks: The most items of each user.
        rows: Item rows ``[B, k]``, best first, -1 for none.
        scores: Of these, ``[B, k]``.
    """
    rank = np.broadcast_to(np.arange(1, rows.shape[1] + 1), rows.shape)
    keep = (rows >= 0) & (rank <= np.asarray(ks, dtype=np.int64).reshape(-1, 1))
    request = np.nonzero(keep)[0]
    return pl.DataFrame(
        [
            pl.Series(USER_ID, users, dtype=DTYPES[user_type]).gather(request),
            item_ids.gather(rows[keep]),
            pl.Series(RANK, rank[keep], dtype=pl.Int64),
            pl.Series(SCORE, scores[keep], dtype=pl.Float32),
        ]
    )
