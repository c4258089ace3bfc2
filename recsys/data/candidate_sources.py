"""Where candidates come from: small functions, each with items for B requests.

A source answers with item rows ``[B, k]``, best first, -1 where it has fewer; what it reads besides the requests is
fitted as of a cut and bound with ``functools.partial``::

    sources = {
        "history": partial(own_history, eligible=eligible),
        "two_tower": partial(nearest, vectors=item_vectors, eligible=eligible),
        "popular": partial(popular, lists=popular_lists(log, cut, eligible)),
    }
    asked = asked_as_of(log, users, cut, user_vectors)
    lists = {name: source(asked, 300) for name, source in sources.items()}
    candidates = union(lists, limit=500)

What the user had before comes from :func:`own_history`, the other sources leave it out, so that no place is spent
twice. The answers are the same on every run: equal scores are ordered by item row.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from recsys.data.asked import Asked
from recsys.data.candidate_tables import Kind, Links
from recsys.data.topk import NONE, top_rows

CELLS = 2**23
"""Scores that are in memory at a time: 32 MB, below which the allocator uses memory again."""
SCALE, POWER = 30.0, 0.5
"""Days after which an event of the history begins to count less, and how fast."""
LINKED_SCALE, LINKED_POWER = 7.0, 1.0
"""The same where links are followed; short, so that the recent baskets decide."""


Source = Callable[[Asked, int], Tensor]
"""Answers B requests with at most k items each, int64 ``[B, k]``: distinct, best first, -1 at the end where fewer."""


def own_history(
    asked: Asked,
    k: int,
    *,
    eligible: Tensor,
    events: Tensor | None = None,
    scale: float = SCALE,
    power: float = POWER,
    staple: float = 0.2,
) -> Tensor:
    """Answer with what the user had before: often and lately first, and of such what everybody takes.

    Args:
        asked: B requests.
        k: Items a request.
        eligible: Items that may be recommended, bool ``[N]``.
        events: Of each item before the cut, ``[N]``; the user's frequency is multiplied by ``(1 + events) ** staple``.
            Among the many items taken once, those that others take often come back first.
        scale: Days after which an event begins to count less.
        power: How fast; 0 counts all alike.
        staple: Power of the item's events.
    """
    weight = asked.decay(scale, power)
    if events is not None:
        weight = weight * (1.0 + events[asked.item].float()).pow(staple)
    # Few items of a catalogue were had: to look for the best among all of them takes ten times as long.
    totals = asked.by_item(weight)
    query, item = asked.seen_keys // asked.n_items, asked.seen_keys % asked.n_items
    named = eligible[item] & (totals > 0)
    query, item, totals = query[named], item[named], totals[named]
    place = torch.arange(len(query)) - torch.searchsorted(query, query)
    shape = len(asked), int(place.max()) + 1 if len(place) else 1
    values, items = torch.full(shape, -torch.inf), torch.full(shape, NONE)
    values[query, place], items[query, place] = totals, item
    best = top_rows(values, k)
    return items.gather(1, best.clamp(min=0)).masked_fill(best == NONE, NONE)


def nearest(
    asked: Asked,
    k: int,
    *,
    vectors: Tensor,
    eligible: Tensor,
    seen: bool = False,
    kinds: Sequence[Kind] = (),
    weight: float = 0.5,
    doubt: float = 20.0,
) -> Tensor:
    """Answer with the items of the highest inner product with the user's vector, plus how the user favours their kind.

    A user favours an attribute's code with ``log((n_c + doubt s_c) / (n + doubt)) - log s_c``, n the past events and
    n_c those of the code, s_c the share of the code among all; an item gets the mean over the attributes. Vectors
    forget what a long history says of thousands of kinds; their own count does not.

    Args:
        asked: B requests with vectors ``[B, D]``.
        k: Items a request.
        vectors: Of the items, ``[N, D]``, scaled so that an inner product is about a log-odds: the two-tower's divided
            by its temperature.
        eligible: Items that may be recommended, bool ``[N]``.
        seen: Whether items that the user had before take part.
        kinds: Attributes by which items are favoured, of :func:`~recsys.data.candidate_tables.item_kinds`.
        weight: Of the favour.
        doubt: Events that the average user's shares count as.
    """
    # Codes first: an item's code then points to numbers that lie side by side, ten times faster than to a column.
    favours = [(kind.code, _favour(asked, kind, doubt).T * (weight / len(kinds))) for kind in kinds]

    def scores(rows: Tensor) -> Tensor:
        out = vectors @ asked.vector[rows].T
        for code, favour in favours:
            some = favour[:, rows]  # of one request in one dimension: a quarter of the time
            out += some.index_select(0, code) if len(rows) > 1 else some[:, 0].index_select(0, code)[:, None]
        return out.T.contiguous()

    return _best(asked, k, scores, eligible, seen)


def near_history(asked: Asked, k: int, *, directions: Tensor, eligible: Tensor) -> Tensor:
    """Answer with the items whose vectors point the way of the history's, by cosine with their decayed mean.

    Args:
        asked: B requests.
        k: Items a request.
        directions: Vectors of the items, of length 1, ``[N, D]``.
        eligible: Items that may be recommended, bool ``[N]``.
    """
    weight = asked.decay(SCALE, POWER)

    def scores(rows: Tensor) -> Tensor:
        events = asked.events(rows)
        query = asked.query[events] - rows[0]
        known = torch.zeros(len(rows), dtype=torch.bool).index_fill_(0, query, True)
        centre = directions.new_zeros(len(rows), directions.shape[1])
        centre.index_add_(0, query, directions[asked.item[events]] * weight[events, None])
        return (centre @ directions.T).masked_fill(~known[:, None], -torch.inf)

    return _best(asked, k, scores, eligible)


def linked(asked: Asked, k: int, *, links: Links, eligible: Tensor) -> Tensor:
    """Answer with the items that are linked to those of the history, the links summed over it.

    Args:
        asked: B requests.
        k: Items a request.
        links: From an item to its neighbours; of :func:`~recsys.data.candidate_tables.item_links`.
        eligible: Items that may be recommended, bool ``[N]``.
    """
    weight = asked.decay(LINKED_SCALE, LINKED_POWER)

    def scores(rows: Tensor) -> Tensor:
        totals = summed(asked, weight, rows, links)
        return totals.masked_fill_(totals <= 0, -torch.inf)

    return _best(asked, k, scores, eligible)


def popular(asked: Asked, k: int, *, lists: Tensor, group: str = "") -> Tensor:
    """Answer with what is popular, overall or in the user's group, less what the user had before.

    Args:
        asked: B requests.
        k: Items a request.
        lists: Of :func:`~recsys.data.candidate_tables.popular_lists`, ``[G + 1, K]``; K is more than k, as users have
            had some of them.
        group: Name in ``asked.groups``; empty: overall.
    """
    overall = len(lists) - 1
    codes = asked.groups[group] if group else torch.full((len(asked),), overall)
    items = lists[torch.where((codes >= 0) & (codes < overall), codes, overall)]
    keys = torch.arange(len(asked))[:, None] * asked.n_items + items
    kept = (items != NONE) & ~torch.isin(keys, asked.seen_keys)
    order = torch.argsort(~kept, dim=1, stable=True)[:, :k]
    out = torch.full((len(asked), k), NONE)
    out[:, : order.shape[1]] = items.gather(1, order).masked_fill(~kept.gather(1, order), NONE)
    return out


def _best(asked: Asked, k: int, scores: Callable[[Tensor], Tensor], eligible: Tensor, seen: bool = False) -> Tensor:
    """Return the best eligible items by ``scores`` of a chunk of requests ``[b, N]``, where -inf stands for none."""
    out = torch.full((len(asked), k), NONE)
    for rows in torch.arange(len(asked)).split(max(CELLS // asked.n_items, 1)) if len(asked) else ():
        values = scores(rows).masked_fill_(~eligible, -torch.inf)
        if not seen:
            first, last = torch.searchsorted(asked.seen_keys, torch.stack([rows[0], rows[-1] + 1]) * asked.n_items)
            keys = asked.seen_keys[first:last] - rows[0] * asked.n_items
            values.view(-1)[keys] = -torch.inf
        out[rows] = top_rows(values, k)
    return out


def _favour(asked: Asked, kind: Kind, doubt: float) -> Tensor:
    """Return how much more than the average each user takes of each code, a log-ratio ``[B, codes]``."""
    n_codes = len(kind.share)
    keys = asked.query * n_codes + kind.code[asked.item]
    counts = torch.bincount(keys, minlength=len(asked) * n_codes).view(len(asked), n_codes).float()
    total = counts.sum(1, keepdim=True)
    share = kind.share.clamp(min=1e-9)
    return ((counts + doubt * share) / (total + doubt) / share).log()


def summed(asked: Asked, weight: Tensor, rows: Tensor, links: Links | None = None) -> Tensor:
    """Sum the weights ``[E]`` of past events by item, or by the items linked to it, ``[b, N]``.

    Args:
        asked: B requests.
        weight: Of the events.
        rows: Requests without gaps, int64 ``[b]``.
        links: From an item to its neighbours; the event's weight is multiplied by the link's.
    """
    first, last = torch.searchsorted(asked.seen_keys, torch.stack([rows[0], rows[-1] + 1]) * asked.n_items).tolist()
    keys, weight = asked.seen_keys[first:last] - rows[0] * asked.n_items, asked.by_item(weight)[first:last]
    query, item = keys // asked.n_items, keys % asked.n_items
    if links is not None:  # of each item once, however often the user had it
        of_item, place = links.of(item)
        query, item, weight = query[of_item], links.item[place], weight[of_item] * links.weight[place]
    dense = torch.zeros(len(rows), asked.n_items)
    dense.view(-1).index_add_(0, query * asked.n_items + item, weight)
    return dense
