"""What the candidate sources read besides the request: lists of popular items and links between items, as of a cut."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from recsys.columns import ITEM_ID
from recsys.data.log import DAY, POPULARITY_DAYS, InteractionLog
from recsys.data.topk import NONE, top_rows

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

ROWS = 1024
"""Items whose links to all others are in memory at a time."""
SHORTER_DAYS = (7.0, 3.0, 1.0)
"""Other spans than 28 days, of equals the longest is taken: yesterday's news are old."""
ASKED_SHARE = 0.125
"""Of the events, the latest, by which a span is chosen."""
ASKED_ITEMS = 100
"""Length of the lists by which a span is chosen."""
ASKED_EVENTS = 2**22
"""Events by which a span is chosen, about and at most: those of each second user, each third ... of a larger log."""


@dataclass(frozen=True)
class Links:
    """Weighted links between items.

    Attributes:
        offsets: Where the links of each item begin, int64 ``[N + 1]``.
        item: The linked items, int64 ``[M]``.
        weight: Of the links, float32 ``[M]``.
    """

    offsets: Tensor
    item: Tensor
    weight: Tensor

    def of(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return for items ``[E]`` all their links: the place of the item in ``items``, and that of the link."""
        count = self.offsets[items + 1] - self.offsets[items]
        place = torch.repeat_interleave(torch.arange(len(items)), count)
        link = torch.arange(len(place)) - (count.cumsum(0) - count)[place] + self.offsets[items][place]
        return place, link


@dataclass(frozen=True)
class Kind:
    """One categorical attribute of the items.

    Attributes:
        code: Of each item, int64 ``[N]``.
        share: Of each code among the events before the cut, float32 ``[codes]``.
    """

    code: Tensor
    share: Tensor


def item_kinds(log: InteractionLog, cut: int, item_features: Mapping[str, Tensor]) -> dict[str, Kind]:
    """Return the categorical attributes that tell items apart, with the shares of their codes as of the cut.

    Numbers, lists of values, the item's id, and attributes of which less than two codes were taken are none.

    Args:
        log: Events; those at or after the cut do not count.
        cut: Microseconds since 1970 UTC.
        item_features: Encoded: ids int64 ``[N]`` or ``[N, slots]``, numbers float32 ``[N]``.
    """
    item = log.item[log.time < cut]
    kinds = {}
    for name, code in item_features.items():
        if name == ITEM_ID or code.is_floating_point() or code.dim() > 1:
            continue
        counts = torch.bincount(code[item], minlength=int(code.max()) + 1)
        if int((counts > 0).sum()) > 1:
            kinds[name] = Kind(code, counts / counts.sum())
    return kinds


def popular_lists(
    log: InteractionLog,
    cut: int,
    eligible: Tensor,
    *,
    depth: int = 2000,
    days: float = POPULARITY_DAYS,
    codes: Tensor | None = None,
    smoothing: float = 20.0,
) -> Tensor:
    """List the items that most users took in the last days before the cut, then those that most took ever.

    Args:
        log: Events; irrelevant ones and those at or after the cut do not count.
        cut: Microseconds since 1970 UTC.
        eligible: Items that may be recommended, bool ``[N]``.
        depth: K, the length of a list.
        days: Of the recent past.
        codes: Group of each user, int64 ``[U]`` in ``[0, G)``, -1 for none. A group's list orders items by its own
            users who took them plus ``smoothing`` times the share of all users who did.
        smoothing: Users of the whole that speak in every group.

    Returns:
        int64 ``[G + 1, K]``, the last row over all users; -1 after the last item that was ever taken.
    """
    past = log.between(None, cut).only_relevant()
    ever = torch.bincount(_pairs(past) % log.n_items, minlength=log.n_items).float()
    recent = _pairs(past.between(cut - int(days * DAY), None))
    user, item = recent // log.n_items, recent % log.n_items
    counts = torch.bincount(item, minlength=log.n_items).float()
    # What is popular ever decides only among items that equally many took lately.
    overall = counts + ever / (ever.max() + 1)
    overall = torch.where(eligible & (ever > 0), overall, -torch.inf)
    share = smoothing * overall / max(len(user.unique()), 1)
    n_groups = 0 if codes is None else int(codes.max()) + 1
    member = torch.full_like(user, n_groups) if codes is None else codes[user]
    out = torch.full((n_groups + 1, depth), NONE)
    by_group = torch.argsort(member, stable=True)
    bounds = torch.searchsorted(member[by_group], torch.arange(n_groups + 1))
    for group in range(n_groups + 1):
        scores = overall
        if group < n_groups:
            own = item[by_group[bounds[group] : bounds[group + 1]]]
            scores = torch.bincount(own, minlength=log.n_items) + share
        out[group] = top_rows(scores[None], depth)[0]
    return out


def recent_days(log: InteractionLog, cut: int) -> float:
    """Find over how many days before a cut popularity says most of what comes next.

    Each span is asked at the time after which an eighth of the events lies: how many of the (user, item) that are met
    there for the first time have their item among the 100 that most users took in that span before. Fewer than
    28 days are taken where they find a tenth more.

    Args:
        log: Events; irrelevant ones and those at or after the cut do not count.
        cut: Microseconds since 1970 UTC.
    """
    kept = log.relevant & (log.time < cut)
    kept &= log.user % (int(kept.sum()) // ASKED_EVENTS + 1) == 0
    user, rows, time = log.user[kept], log.item[kept], log.time[kept]
    if not len(time):
        return POPULARITY_DAYS
    since = int(time.sort().values[int(len(time) * (1.0 - ASKED_SHARE))])
    pairs, place = (user * log.n_items + rows).unique(return_inverse=True)
    asked, never = time >= since, torch.iinfo(torch.int64).min
    before = time.new_full((len(pairs),), never).scatter_reduce(0, place[~asked], time[~asked], "amax")
    item, new = pairs % log.n_items, before == never
    wanted = torch.bincount(item[new], minlength=log.n_items)
    ever = torch.bincount(item[~new], minlength=log.n_items).float()

    def found(days: float) -> int:
        """Return how many of the new pairs a list of the last days would have held."""
        counts = torch.bincount(item[~new & (before >= since - int(days * DAY))], minlength=log.n_items)
        scores = torch.where(ever > 0, counts + ever / (ever.max() + 1), -torch.inf)
        rows = top_rows(scores[None], min(ASKED_ITEMS, log.n_items))[0]
        return int(wanted[rows[rows != NONE]].sum())

    best = max(SHORTER_DAYS, key=found)
    return best if found(best) > 1.1 * found(POPULARITY_DAYS) else POPULARITY_DAYS


def usual_codes(log: InteractionLog, codes: Tensor, cut: int) -> Tensor:
    """Return the code that most of each user's events before the cut have, such as the store; the lower at a tie.

    Args:
        log: Events.
        codes: Of the events, int64 ``[E]``, -1 for none.
        cut: Microseconds since 1970 UTC.

    Returns:
        int64 ``[U]``, -1 for a user without an event that has a code.
    """
    coded = (log.time < cut) & (codes != NONE)
    span = max(int(codes.max()) + 1, 1) if len(codes) else 1
    keys, counts = (log.user[coded] * span + codes[coded]).unique(return_counts=True)
    best = torch.argsort(counts, stable=True, descending=True)
    best = best[torch.argsort(keys[best] // span, stable=True)]
    user = keys[best] // span
    first = torch.ones_like(user, dtype=torch.bool)
    first[1:] = user[1:] != user[:-1]
    out = torch.full((log.n_users,), NONE)
    out[user[first]] = keys[best[first]] % span
    return out


def item_links(
    group: Tensor, item: Tensor, n_items: int, *, keep: int = 100, power: float = 0.5, largest: int = 200
) -> Links:
    """Link the items that are found in the same groups: baskets (bought together) or users (bought by the same).

    The link of items i and j weighs ``n_ij / (n_i n_j) ** power`` with ``n`` the groups that hold them: 0.5 is the
    cosine, 1 the lift up to a constant, 0 the plain count.

    Args:
        group: Of each event, int64 ``[E]``, from 0.
        item: Item row of each event, int64 ``[E]``.
        n_items: N.
        keep: M, links that an item keeps, the heaviest; at equal weight those to the lower row.
        power: Of the normalisation.
        largest: Groups with more distinct items say little of each pair and cost the square: they are left out.

    Returns:
        At most M links an item, none to itself.
    """
    from scipy.sparse import csr_matrix, vstack

    keys = (group * n_items + item).unique()
    group, sizes = (keys // n_items).unique_consecutive(return_counts=True)
    row = torch.repeat_interleave(torch.arange(len(group)), sizes)
    small = (sizes <= largest)[row]
    row, item = row[small], (keys % n_items)[small]
    n = torch.bincount(item, minlength=n_items).clamp(min=1).double()
    entries = (n[item].pow(-power).float().numpy(), (row.numpy(), item.numpy()))
    matrix = csr_matrix(entries, shape=(len(group), n_items))
    by_item = matrix.T.tocsr()
    blocks = [_heaviest(by_item[start : start + ROWS] @ matrix, start, keep) for start in range(0, n_items, ROWS)]
    links = vstack(blocks, format="csr", dtype=np.float32)
    offsets, linked = (torch.from_numpy(part.astype(np.int64)) for part in (links.indptr, links.indices))
    return Links(offsets, linked, torch.from_numpy(links.data))


def _heaviest(block: "csr_matrix", start: int, keep: int) -> "csr_matrix":
    """Keep the heaviest entries of each row of ``[n, N]``, without those that link an item to itself."""
    from scipy.sparse import csr_matrix

    rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    other = block.indices != rows + start
    rows, columns, weights = rows[other], block.indices[other], block.data[other]
    order = np.lexsort((columns, -weights, rows))
    rows, columns, weights = rows[order], columns[order], weights[order]
    first = np.searchsorted(rows, np.arange(block.shape[0]))
    kept = np.arange(len(rows)) - first[rows] < keep
    return csr_matrix((weights[kept], (rows[kept], columns[kept])), shape=block.shape)


def _pairs(log: InteractionLog) -> Tensor:
    """Return the distinct (user, item) as ``user * N + item``, ascending."""
    return (log.user * log.n_items + log.item).unique()
