"""What every model in the comparison offers, and the small pieces that the baselines share."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from recsys.data.log import InteractionLog

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class Past:
    """What a model may learn from: everything known at a cut.

    Attributes:
        history: Events with ``time < cut``; only relevant ones count.
        cut: Microseconds since 1970 UTC.
        item_features: Encoded item features: ids int64 ``[N]`` or ``[N, slots]``, numbers float32 ``[N]``.
        eligible: Items that may be recommended, bool ``[N]``.
    """

    history: InteractionLog
    cut: int
    item_features: dict[str, Tensor]
    eligible: Tensor


class Scorer(Protocol):
    """Anything that scores the whole catalogue for a few users at a time."""

    name: str

    def scores(self, users: Tensor) -> Tensor:
        """Return scores ``[B, N]`` float32, higher is better, of user rows ``[B]``; unknown users get an answer too."""
        ...


class Recommender(Scorer, Protocol):
    """A scorer that learns from the past of a cut."""

    def fit(self, past: Past) -> None:
        """Learn from ``past`` and from nothing else."""
        ...


def user_items(history: InteractionLog, weights: Tensor | None = None) -> "csr_matrix":
    """Sum weights (1 for each event by default) of relevant events into a sparse matrix ``[U, N]`` float32.

    Args:
        history: Events; the irrelevant ones are left out.
        weights: One number for each event of ``history``, ``[E]``.
    """
    from scipy.sparse import coo_matrix

    keep = history.relevant
    values = torch.ones(int(keep.sum())) if weights is None else weights[keep].float()
    pairs = (values.numpy(), (history.user[keep].numpy(), history.item[keep].numpy()))
    return coo_matrix(pairs, shape=(history.n_users, history.n_items)).tocsr()


def popularity(history: InteractionLog) -> Tensor:
    """Return the users of each item, scaled by the largest number plus one to ``[0, 1)``, ``[N]``.

    Users rather than events: what many have tried once says more about the next user than what few take daily.
    """
    users = torch.from_numpy(user_items(history).getnnz(axis=0)).float()
    return users / (users.max() + 1)


def with_fallback(scores: Tensor, popular: Tensor) -> Tensor:
    """Rank the items without a positive score by popularity, below every item that has one.

    A user without history has no positive score at all and so receives the popular items.

    Args:
        scores: ``[B, N]``.
        popular: ``[N]`` in ``[0, 1)``.
    """
    return torch.where(scores > 0, scores, popular - 1)


def first_in_basket(history: InteractionLog) -> Tensor:
    """Mark the first relevant event of every (basket, item), bool ``[E]``: lines of one basket may repeat an item."""
    marks = torch.zeros(len(history.item), dtype=torch.bool)
    rows = history.relevant.nonzero().squeeze(1)
    keys = history.basket[rows] * history.n_items + history.item[rows]
    ordered, order = keys.sort(stable=True)
    first = torch.ones(len(rows), dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    marks[rows[order[first]]] = True
    return marks
