"""Training sets of the second stage: what could have been shown as of several cuts, and what was taken after them.

::

    time ───────────────────┬──────────────────────► cut ├──── horizon ────┤
    what the features know ─┘                            what the labels say
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.data.log import InteractionLog
from recsys.data.ranking_state import RankerPairs


@dataclass(frozen=True)
class RankingSet:
    """P pairs to train or to measure a ranker on, G groups of them: a group is one user at one cut.

    Attributes:
        group: int64 ``[P]`` in [0, G), ascending.
        features: Raw features of the pairs: numeric float32 ``[P]``, NaN where missing; categorical int64 ``[P]`` or
            ``[P, slots]``.
        labels: Float32 ``[P, T]``, 0 or 1: whether the user took the item in the horizon, by task.
        rate: Probability that the pair was kept, float32 ``[P]`` in (0, 1]; 1 for positives.
        lost: Positive pairs of the users that are not among the candidates, and so not among the P: no ranker can
            find them.
    """

    group: Tensor
    features: dict[str, Tensor]
    labels: Tensor
    rate: Tensor
    lost: int = 0

    def __len__(self) -> int:
        return len(self.group)

    @property
    def n_groups(self) -> int:
        """G."""
        return int(self.group[-1]) + 1 if len(self.group) else 0


def label_pairs(users: Tensor, pairs: RankerPairs, truths: Sequence[InteractionLog]) -> tuple[Tensor, int]:
    """Say of each pair whether its user took its item.

    Args:
        users: Row of the user of each request, int64 ``[B]``.
        pairs: Of these requests.
        truths: For each of T tasks the events of the horizon that count; their relevance does not matter.

    Returns:
        Labels float32 ``[P, T]``, and how many distinct (user, item) of the first task's truth of these users are not
        among the pairs.
    """
    labels, lost = [], 0
    for task, truth in enumerate(truths):
        n_items = truth.n_items
        keys = (truth.user * n_items + truth.item).unique()
        hit = torch.isin(users[pairs.query] * n_items + pairs.item, keys)
        labels.append(hit.float())
        if task == 0:
            lost = int(torch.isin(keys // n_items, users).sum()) - int(hit.sum())
    return torch.stack(labels, 1), lost


def sample_negatives(labels: Tensor, rate: float, seed: int) -> tuple[Tensor, Tensor]:
    """Choose which pairs are kept: all with a positive label, and of the others a share.

    Args:
        labels: ``[P, T]``.
        rate: Of the negatives, in (0, 1].
        seed: Of the draw.

    Returns:
        Rows that are kept, ascending int64, and the probability with which each of them was, float32.
    """
    positive = (labels > 0).any(1)
    drawn = torch.rand(len(labels), generator=torch.Generator().manual_seed(seed)) < rate
    rows = (positive | drawn).nonzero().squeeze(1)
    return rows, torch.where(positive[rows], 1.0, rate)


def ranking_set(
    pairs: RankerPairs,
    labels: Tensor,
    *,
    item_ids: Mapping[str, Tensor],
    user_ids: Mapping[str, Tensor],
    lost: int = 0,
    rows: Tensor | None = None,
    rate: Tensor | None = None,
) -> RankingSet:
    """Put the features of pairs and the ids of their users and items together.

    Args:
        pairs: P of them, of B requests.
        labels: ``[P, T]``.
        item_ids: Categorical features of all items, ``[N]`` or ``[N, slots]``.
        user_ids: Categorical features of the requests' users, ``[B]`` or ``[B, slots]``.
        lost: See :class:`RankingSet`.
        rows: Pairs that are kept, ascending; None keeps all. A request of which none is kept gets no group.
        rate: Of each of these.
    """
    rows = torch.arange(len(pairs)) if rows is None else rows
    query, item, numbers = pairs.query[rows], pairs.item[rows], pairs.numbers[rows]
    features = pair_inputs(pairs.names, numbers, query, item, item_ids, user_ids)
    group = query.unique_consecutive(return_inverse=True)[1]
    return RankingSet(group, features, labels[rows], torch.ones(len(rows)) if rate is None else rate, lost)


def pair_inputs(
    names: Sequence[str],
    numbers: Tensor,
    query: Tensor,
    item: Tensor,
    item_ids: Mapping[str, Tensor],
    user_ids: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Return what a ranker reads of P pairs: name to raw numbers ``[P]``, or ids ``[P]`` or ``[P, slots]``."""
    columns = numbers.t().contiguous()
    features = {name: columns[place] for place, name in enumerate(names)}
    features |= {name: ids[item] for name, ids in item_ids.items()}
    return features | {name: ids[query] for name, ids in user_ids.items()}


def join_sets(sets: Sequence[RankingSet]) -> RankingSet:
    """Put several sets of the same features one after the other; their groups stay apart."""
    group, first = [], 0
    for part in sets:
        group.append(part.group + first)
        first += part.n_groups
    return RankingSet(
        torch.cat(group),
        {name: torch.cat([part.features[name] for part in sets]) for name in sets[0].features},
        torch.cat([part.labels for part in sets]),
        torch.cat([part.rate for part in sets]),
        sum(part.lost for part in sets),
    )
