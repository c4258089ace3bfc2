"""Training sets of the second stage: what could have been shown as of several cuts, and what was taken after them.

::

    time ───────────────────┬──────────────────────► cut ├──── horizon ────┤
    what the features know ─┘                            what the labels say
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from recsys.data.ranking_state import RankerPairs
from recsys.data.recent import Recent, history_inputs
from recsys.errors import ConfigError


@dataclass(frozen=True)
class RankingSet:
    """P pairs to train or to measure a ranker on, G groups of them: a group is one user at one cut.

    Attributes:
        group: int64 ``[P]`` in [0, G), ascending.
        features: Raw features of the pairs: numeric float32 ``[P]``, NaN where missing; categorical int64 ``[P]`` or
            ``[P, slots]``. With attention, histories as in :func:`recsys.data.recent.history_inputs`.
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


@dataclass(frozen=True)
class Snapshot:
    """What could have been shown to B users as of a cut, and what they took after it.

    It holds rows, not ids: these depend on the vocabularies of the window that a ranker is fitted on.

    Attributes:
        users: Their rows, int64 ``[B]``.
        query: User of each pair, as place in ``users``, int64 ``[P]``, ascending.
        item: Item row of each pair, int64 ``[P]``.
        names: Of the numeric features, F of them.
        numbers: Float32 ``[P, F]``, NaN where missing.
        labels: As in :class:`RankingSet`.
        rate: As in :class:`RankingSet`.
        lost: As in :class:`RankingSet`.
        cut: Microseconds since 1970 UTC; what is known of the users was known then.
        recent: What the users had last before the cut; None without attention.
        shown: Pairs that the user was shown in the horizon and did not take, bool ``[P]``; None where nobody knows.
    """

    users: Tensor
    query: Tensor
    item: Tensor
    names: tuple[str, ...]
    numbers: Tensor
    labels: Tensor
    rate: Tensor
    lost: int
    cut: int
    recent: Recent | None = None
    shown: Tensor | None = None

    def __len__(self) -> int:
        return len(self.query)


def take_snapshot(
    users: Tensor,
    pairs: Sequence[RankerPairs],
    truths: Sequence[Tensor],
    n_items: int,
    cut: int,
    recent: Recent | None = None,
    shown: Tensor | None = None,
) -> Snapshot:
    """Label pairs.

    Args:
        users: Row of the user of each request, int64 ``[B]``.
        pairs: Of these requests, chunk by chunk.
        truths: For each of T tasks the distinct (user, item) of the horizon as ``user * N + item``, ascending.
        n_items: N.
        cut: As of which the pairs were made, microseconds since 1970 UTC.
        recent: Of the requests, for attention.
        shown: What was shown in the horizon and not taken, distinct like a truth; None where nobody knows.
    """
    starts = accumulate((part.requests for part in pairs), initial=0)
    query = torch.cat([part.query + start for part, start in zip(pairs, starts, strict=False)])
    item = torch.cat([part.item for part in pairs])
    keys = users[query] * n_items + item
    labels = torch.stack([torch.isin(keys, truth).float() for truth in truths], 1)
    lost = int(torch.isin(truths[0] // n_items, users).sum()) - int(labels[:, 0].sum())
    numbers = torch.cat([part.numbers for part in pairs])
    rate = torch.ones(len(query))
    seen = None if shown is None else torch.isin(keys, shown)
    return Snapshot(users, query, item, pairs[0].names, numbers, labels, rate, lost, cut, recent, seen)


def thin_out(snapshot: Snapshot, share: float, seed: int) -> Snapshot:
    """Keep the pairs with a label or that were shown and not taken, and a share of the others in (0, 1]."""
    sure = (snapshot.labels > 0).any(1)
    if snapshot.shown is not None:
        sure |= snapshot.shown
    drawn = torch.rand(len(snapshot), generator=torch.Generator().manual_seed(seed)) < share
    rows = (sure | drawn).nonzero().squeeze(1)
    return replace(
        snapshot,
        query=snapshot.query[rows],
        item=snapshot.item[rows],
        numbers=snapshot.numbers[rows],
        labels=snapshot.labels[rows],
        rate=snapshot.rate[rows] * torch.where(sure[rows], 1.0, share),
        shown=None if snapshot.shown is None else snapshot.shown[rows],
    )


def of_users(snapshot: Snapshot, start: int, end: int) -> Snapshot:
    """Return the pairs of the users at the places ``start`` to ``end - 1``, as a snapshot of these alone."""
    first, last = torch.searchsorted(snapshot.query, torch.tensor([start, end])).tolist()
    recent = snapshot.recent
    return replace(
        snapshot,
        users=snapshot.users[start:end],
        query=snapshot.query[first:last] - start,
        item=snapshot.item[first:last],
        numbers=snapshot.numbers[first:last],
        labels=snapshot.labels[first:last],
        rate=snapshot.rate[first:last],
        recent=None if recent is None else Recent(recent.item[start:end], recent.age[start:end]),
        shown=None if snapshot.shown is None else snapshot.shown[first:last],
    )


def ranking_set(
    snapshots: Sequence[Snapshot], item_ids: Mapping[str, Tensor], user_ids: Mapping[str, Tensor]
) -> RankingSet:
    """Put snapshots of the same features one after the other and add the ids of items and users.

    Args:
        snapshots: One or more, all with or all without histories; a user of whom no pair is left has no group.
        item_ids: Categorical features of all items, ``[N]`` or ``[N, slots]``.
        user_ids: Categorical features of all users, ``[U]`` or ``[U, slots]``.
    """
    groups, first = [], 0
    for snapshot in snapshots:
        group = snapshot.query.unique_consecutive(return_inverse=True)[1]
        groups.append(group + first)
        first += int(group[-1]) + 1 if len(group) else 0
    user = torch.cat([s.users[s.query] for s in snapshots])
    item = torch.cat([s.item for s in snapshots])
    numbers = torch.cat([s.numbers for s in snapshots])
    features = pair_inputs(snapshots[0].names, numbers, item, user, item_ids, user_ids)
    recents = [s.recent for s in snapshots if s.recent is not None]
    if recents:
        starts = accumulate((len(s.users) for s in snapshots), initial=0)
        query = torch.cat([s.query + start for s, start in zip(snapshots, starts, strict=False)])
        recent = Recent(torch.cat([r.item for r in recents]), torch.cat([r.age for r in recents]))
        features |= history_inputs(recent, query, item_ids)
    return RankingSet(
        torch.cat(groups),
        features,
        torch.cat([s.labels for s in snapshots]),
        torch.cat([s.rate for s in snapshots]),
        sum(s.lost for s in snapshots),
    )


def pair_inputs(
    names: Sequence[str],
    numbers: Tensor,
    item: Tensor,
    user: Tensor,
    item_ids: Mapping[str, Tensor],
    user_ids: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Return what a ranker reads of P pairs: name to raw numbers ``[P]``, or ids ``[P]`` or ``[P, slots]``.

    Args:
        names: Of the numbers.
        numbers: ``[P, F]``.
        item: Row in ``item_ids`` of each pair, int64 ``[P]``.
        user: Row in ``user_ids`` of each pair, int64 ``[P]``.
        item_ids: Categorical features of items.
        user_ids: Categorical features of users, or of requests.

    Raises:
        ConfigError: A categorical feature has the name of a number.
    """
    refuse_shared_names(names, (*item_ids, *user_ids))
    columns = numbers.t().contiguous()
    features = {name: columns[place] for place, name in enumerate(names)}
    features |= {name: ids[item] for name, ids in item_ids.items()}
    return features | {name: ids[user] for name, ids in user_ids.items()}


def refuse_shared_names(numbers: Sequence[str], ids: Iterable[str]) -> None:
    """Refuse a categorical feature that is called as a number of pairs is: one of the two would be lost.

    Raises:
        ConfigError: There is one.
    """
    shared = sorted(set(numbers).intersection(ids))
    if shared:
        raise ConfigError(
            f"data.features: '{shared[0]}' is also the name of a number that the ranker computes of each pair; declare "
            "the feature under another name, with its column as `column`."
        )
