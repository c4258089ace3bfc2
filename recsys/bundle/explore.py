"""Places of an answer that are kept for new products, which no habit and no popularity speaks for yet."""

import math
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.bundle.histories import Ints
from recsys.bundle.ranking import Requests
from recsys.bundle.requests import ADDED, ASOF_COLUMN, microseconds
from recsys.data.log import DAY
from recsys.errors import BundleError

if TYPE_CHECKING:
    from recsys.bundle.reader import Bundle

Scores = NDArray[np.float32]
Find = Callable[[Sequence[int], int, Sequence[Ints]], tuple[Ints, Scores]]
"""Finds the n best new items for some requests, beside what each has: item rows ``[b, n]``, -1 for none, and scores."""


def check_share(share: Any, is_plain: bool) -> None:
    """Refuse what is no share, and one beside a touchpoint, which has its own say about the places.

    Raises:
        BundleError: It is not a number from 0 to 1, or above 0 where the answer is not ``is_plain``.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise BundleError(f"explore: {share!r} is not a share of the places from 0 to 1.")
    if share and not is_plain:
        raise BundleError("explore: stands beside a touchpoint, its items or filters; ask without one of the two.")


def new_items(bundle: "Bundle", now: int, days: float) -> Tensor:
    """Return which items nobody has had, or nobody earlier than so many days before the request, bool ``[N]``.

    Args:
        bundle: Whose items.
        now: Time of the request, microseconds since 1970 UTC.
        days: At most so many since the first event.
    """
    cut = microseconds(datetime.fromisoformat(bundle.manifest.cut), "cut")
    age = torch.from_numpy(bundle.items[ASOF_COLUMN["age"]].to_numpy().copy())
    new = ~(age + (now - cut) / DAY > days)  # NaN where nobody has
    if ADDED in bundle.items.columns:  # nor anybody these, whose age is what the item tower shall think
        new |= torch.from_numpy(bundle.items[ADDED].to_numpy().copy())
    return new


def find_new(
    bundle: "Bundle",
    vectors: Tensor,
    asked: Requests | None,
    dropped: Sequence[Collection[int]],
    allowed: Tensor,
    some: Sequence[int],
    n: int,
    taken: Sequence[Ints],
) -> tuple[Ints, Scores]:
    """Return the items nearest to some of B users, and their scores as the bundle gives them: a :data:`Find`.

    Args:
        bundle: That answers.
        vectors: Of the users, ``[B, D]``.
        asked: What its ranker reads of them; None without a ranker.
        dropped: Item rows to leave out for each.
        allowed: Item rows that may be found, bool ``[N]``.
        some: Places of ``b`` users.
        n: Items of each.
        taken: Item rows that these have already.
    """
    without = [[*dropped[b], *rows.tolist()] for b, rows in zip(some, taken, strict=True)]
    rows, scores = bundle.retrieve(vectors[list(some)], n, without, allowed)
    if bundle.ranking is not None and asked is not None:
        scores = bundle.ranking.probabilities(asked, some, rows)
    return rows, scores


def quota(share: float, k: int) -> int:
    """Return how many of k places are at least the share of them."""
    return math.ceil(round(share * k, 9))


def explored(
    rows: Ints, scores: Scores, ks: Sequence[int], share: float, new: NDArray[np.bool_], find: Find
) -> tuple[Ints, Scores]:
    """Give new items at least a share of the places of every answer.

    An answer that has as many stays as it is. Otherwise the best new items that are missing take the place of its last
    other items, and stand where the answer is divided evenly: of 20 places with a quota of 2 on the 10th and the 20th.

    Args:
        rows: Item rows ``[B, K]``, best first, -1 for none.
        scores: Of these, ``[B, K]``.
        ks: Places of each request, at most K.
        share: Of the places, from 0 to 1.
        new: Which items are new, ``[N]``.
        find: Finds new ones.
    """
    is_new = np.append(new, False)[rows]
    missing = np.array([quota(share, k) - int(is_new[b, :k].sum()) for b, k in enumerate(ks)])
    some = np.flatnonzero(missing > 0)
    if not len(some):
        return rows, scores
    found, values = find(some.tolist(), int(missing.max()), [rows[b][rows[b] >= 0] for b in some])
    rows, scores = rows.copy(), scores.copy()
    for picks, worth, b in zip(found, values, some.tolist(), strict=True):
        k, take = ks[b], int(min((picks >= 0).sum(), missing[b]))
        old = np.flatnonzero(rows[b, :k] >= 0)
        displaced = max(len(old) + take - k, 0)
        others = old[~is_new[b, old]]
        stay = np.setdiff1d(old, others[len(others) - displaced :])
        at = _places(take, quota(share, k), len(stay) + take)
        rest = np.setdiff1d(np.arange(len(stay) + take), at)
        rows[b, rest], rows[b, at] = rows[b, stay].copy(), picks[:take]
        scores[b, rest], scores[b, at] = scores[b, stay].copy(), worth[:take]
    return rows, scores


def _places(take: int, quota: int, length: int) -> Ints:
    """Return the last ``take`` of the places that divide a list evenly into ``quota`` parts, from 0."""
    parts = min(quota, length)
    every = np.arange(1, parts + 1) * length // max(parts, 1) - 1
    return every[parts - take :]
