"""What users had last, as the ranker's attention reads it: held once a request, however many candidates it has.

::

    pairs of 2 requests    request  0 0 0 1 1         history/item_id   7 4 2    of request 0
                           item_id  4 9 2 5 7                           5 0 0    of request 1
                                                      history/age       1 1 8
                                                                        3 . .
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.data.asked import Asked
from recsys.data.topk import NONE
from recsys.features import HISTORY, PAD_ID, REQUEST

AGE = HISTORY + "age"
"""Days from each item's last event to the request, float32 ``[R, L]``."""


@dataclass(frozen=True)
class Recent:
    """The items that the users of B requests had last, the latest first.

    It holds rows, not ids, as :class:`recsys.data.snapshots.Snapshot` does.

    Attributes:
        item: Their rows, int64 ``[B, L]``, :data:`~recsys.data.topk.NONE` behind the last one.
        age: Days from an item's last event to the request, float32 ``[B, L]``, 0 behind the last one.
    """

    item: Tensor
    age: Tensor


def recent_items(asked: Asked, length: int) -> Recent:
    """Return the last items of each request.

    An item counts once, by the last basket with it: how often it was bought, and at which gaps, are features of the
    pair already, and so L places reach further back. Items of the same time come by row, whatever the order of events.

    Args:
        asked: B requests with what was before them.
        length: L.
    """
    keys = asked.query * asked.n_items + asked.item
    newest = asked.age.argsort(stable=True)
    newest = newest[keys[newest].argsort(stable=True)]
    first = torch.ones_like(newest, dtype=torch.bool)
    first[1:] = keys[newest][1:] != keys[newest][:-1]
    kept = newest[first]  # by request and item
    kept = kept[asked.age[kept].argsort(stable=True)]
    kept = kept[asked.query[kept].argsort(stable=True)]
    query = asked.query[kept]
    place = torch.arange(len(query)) - torch.searchsorted(query, query)
    kept, query, place = kept[place < length], query[place < length], place[place < length]
    item = torch.full((len(asked), length), NONE)
    age = torch.zeros(len(asked), length)
    item[query, place], age[query, place] = asked.item[kept], asked.age[kept]
    return Recent(item, age)


def history_inputs(recent: Recent, query: Tensor, item_ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what attention reads of P pairs: :data:`REQUEST`, and the histories of the R requests that they are of.

    Args:
        recent: Of B requests.
        query: Request of each pair, int64 ``[P]`` in [0, B).
        item_ids: Categorical features of all items, ``[N]`` or ``[N, slots]``.
    """
    requests, request = query.unique(return_inverse=True)
    item = recent.item[requests]
    features = {REQUEST: request, AGE: recent.age[requests]}
    for name, ids in item_ids.items():
        past = ids[item.clamp(min=0)]
        nothing = (item == NONE).view(*item.shape, *[1] * (past.dim() - 2))
        features[HISTORY + name] = past.masked_fill(nothing, PAD_ID)
    return features


def take_pairs(features: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """Return some of P pairs, with the histories of their requests alone.

    Args:
        features: Raw or encoded, ``[P, ...]`` each; histories ``[R, ...]``, with the request of each pair.
        rows: int64 ``[p]``.
    """
    taken = {name: values.index_select(0, rows) for name, values in features.items() if not name.startswith(HISTORY)}
    if REQUEST in taken:
        requests, taken[REQUEST] = taken[REQUEST].unique(return_inverse=True)
        taken |= {
            name: values.index_select(0, requests) for name, values in features.items() if name.startswith(HISTORY)
        }
    return taken


def join_pairs(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Put pairs of different requests one after the other; undoes :func:`take_pairs`.

    Args:
        parts: One or more, of the same features.
    """
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    if REQUEST in joined:
        counts = torch.tensor([len(part[AGE]) for part in parts])
        starts = counts.cumsum(0) - counts
        joined[REQUEST] = torch.cat([part[REQUEST] + start for part, start in zip(parts, starts, strict=True)])
    return joined


def pairs_at_once(features: Mapping[str, Tensor], most: int) -> int:
    """Return how many pairs may go through a ranker together where ``most`` may without a history.

    Attention holds L events for each of them.
    """
    return max(most // max(features[AGE].shape[1], 1), 1) if AGE in features else most
