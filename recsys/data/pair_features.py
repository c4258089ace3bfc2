"""Features of (user, item) pairs as of a cut: one implementation for training snapshots, evaluation and serving.

::

    events before the cut -> lines -> ItemState   what everybody did with each item
                                   -> UserState   what each user did with each item and group
    pairs -> look both up -> one row a pair, one column a feature of PairPlan.features

A server keeps the :class:`ItemState` and builds the :class:`UserState` of the users of a request from their own events.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.columns import ITEM_ID, USER_ID
from recsys.data import rhythm
from recsys.data.item_state import ItemState, item_state, rows_of
from recsys.data.pair_plan import PairPlan
from recsys.data.past_lines import RECENT_DAYS, PastLines, lines_of, number_events, number_items, user_totals
from recsys.data.rhythm import Keyed, rhythms
from recsys.data.segmented import Ints
from recsys.data.sessions import Visits, visits

STACKED_LINES = 2**20
"""Lines that are summed up at a time: for few users all kinds of groups together, for many one after the other."""
CHUNK_ROWS = 2**18
"""Pairs looked up at a time; more need more memory and are not faster."""
USER_PRICE = "user_price"
"""The user's usual price, which ratios are made of."""

Numbers = NDArray[np.float32]


@dataclass(frozen=True)
class UserState:
    """U users as of a cut.

    Attributes:
        ids: Their ids, distinct, ``[U]``.
        names: Of the numbers.
        numbers: Float32 ``[U + 1, C]``; the last row, all NaN, is of a user who is not known.
        kinds: How they come back to single items, and to each kind of group.
        waiting: What waits in their carts and on their lists, by :meth:`Things.keys` of items; None without sessions.
    """

    ids: pl.Series
    names: tuple[str, ...]
    numbers: Numbers
    kinds: tuple[Keyed, ...]
    waiting: Keyed | None = None

    def rows(self, user_ids: pl.Series) -> Ints:
        """Return the rows of users, ``[B]``; -1 for one who is not known."""
        known = pl.DataFrame({USER_ID: self.ids, "row": np.arange(len(self.ids))})
        return rows_of(user_ids.alias(USER_ID), known, -1)


@dataclass(frozen=True)
class PairState:
    """All that the features of pairs may know: the events before ``cut``, and nothing later."""

    plan: PairPlan
    cut: int
    items: ItemState
    users: UserState


def as_of(plan: PairPlan, events: pl.DataFrame, items: pl.DataFrame, cut: int) -> PairState:
    """Sum up the events before a cut.

    Args:
        plan: Which features; from :func:`~recsys.data.pair_plan.plan_pairs`.
        events: Prepared events in any order; those at or after the cut are not read.
        items: Prepared items.
        cut: Microseconds since 1970 UTC.
    """
    catalogue = number_items(plan, items)
    ids, past = number_events(plan, catalogue, events, cut)
    lines = lines_of(past, len(ids), cut)
    state = item_state(plan, catalogue, lines)
    seen = visits(plan.sessions, events, cut) if plan.sessions else None
    return PairState(plan, cut, state, user_state(plan, state, ids, lines, seen))


def users_as_of(plan: PairPlan, items: ItemState, events: pl.DataFrame, cut: int) -> UserState:
    """Sum up what users did before a cut.

    Args:
        plan: Which features.
        items: As of this cut or an earlier one.
        events: Prepared events in any order, of the users of interest at least.
        cut: Microseconds since 1970 UTC.
    """
    ids, past = number_events(plan, items.table, events, cut)
    seen = visits(plan.sessions, events, cut) if plan.sessions else None
    return user_state(plan, items, ids, lines_of(past, len(ids), cut), seen)


def user_state(
    plan: PairPlan, items: ItemState, ids: pl.Series, past: PastLines, seen: Visits | None = None
) -> UserState:
    """Sum up what each user did; what others did plays no part, so ``past`` may hold the users of interest alone.

    Args:
        plan: Which features.
        items: Says what groups items make.
        ids: Of the U users.
        past: Their lines.
        seen: What they did in their sessions; a plan with sessions needs it.
    """
    totals = user_totals(past)
    columns = {f"user_{name}": column for name, column in totals.items()}
    if plan.has_others:
        user, _, age = past.others
        columns["user_others_28d"] = np.bincount(user, age <= RECENT_DAYS, minlength=past.n_users).astype(np.float64)
    if seen is not None:
        visitors = ids.alias(USER_ID).to_frame().join(seen.users, on=USER_ID, how="left", maintain_order="left")
        columns |= {f"user_{name}": visitors[name].to_numpy() for name in visitors.columns if name != USER_ID}
    names = (*(f.name for f in plan.features if f.side == "user"), USER_PRICE)
    numbers = np.full((len(ids) + 1, len(names)), np.nan, np.float32)
    for place, name in enumerate(names):
        numbers[:-1, place] = columns[name]

    at_once = max(STACKED_LINES // max(len(past), 1), 1)
    every = range(len(plan.groups) + 1)
    stacks = [every[start : start + at_once] for start in range(0, len(every), at_once)]
    kinds = [table for stack in stacks for table in [rhythms(past, totals, items.things, stack)] * len(stack)]
    state = UserState(ids, names, numbers, tuple(kinds))
    if seen is None:
        return state
    keys = items.things.keys(0, state.rows(seen.pairs[USER_ID]), items.rows(seen.pairs[ITEM_ID]))
    order = np.argsort(keys)[np.count_nonzero(keys < 0) :]  # others are of items that the catalogue does not have
    waiting = seen.pairs.drop(USER_ID, ITEM_ID)[order]
    return replace(state, waiting=Keyed.of(keys[order], [column.to_numpy() for column in waiting]))


def pair_features(state: PairState, pairs: pl.DataFrame) -> pl.DataFrame:
    """Return the features of pairs, Float32, one row a pair in the given order, columns as in ``plan.features``.

    Beyond what :func:`~recsys.data.rhythm.rhythms` (``pair_*`` and each group), :func:`item_state` and
    :func:`~recsys.data.past_lines.user_totals` say: ``pair_item_gap_ratio`` is days since over the item's mean gap;
    ``pair_price_ratio`` and each group's ``price_ratio`` the item's last price over the user's median, and over the
    user's mean in the group; each group's ``item_share`` the pair's count over the group's; ``other_*`` counts events
    that are not relevant, ``others_28d`` those of 28 days (the item's per 10,000 of them). With sessions there is also
    what :class:`~recsys.data.sessions.Visits` says of users and pairs.

    Nulls are left where a value is undefined, unless the feature declares a value for it. A user or an item that the
    state does not know is as one without events.

    Args:
        state: From :func:`as_of`.
        pairs: ``user_id`` and ``item_id``; rows may repeat.
    """
    numbers = pair_numbers(state, state.users.rows(pairs[USER_ID]), state.items.rows(pairs[ITEM_ID]))
    return pl.DataFrame(numbers, [f.name for f in state.plan.features], orient="row").fill_nan(None)


def pair_numbers(state: PairState, users: Ints, items: Ints) -> Numbers:
    """Return the features of pairs, float32 ``[P, F]``, NaN where undefined.

    Args:
        state: From :func:`as_of`.
        users: Rows in ``state.users``, int64 ``[P]``; -1 for one who is not known.
        items: Rows in ``state.items``, int64 ``[P]``; N for one that is not known.
    """
    absent = [f.absent for f in state.plan.features]
    filled = np.array([np.nan if value is None else value for value in absent], np.float32)
    out = np.empty((len(users), len(absent)), np.float32)
    for start in range(0, len(users), CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        found = np.concatenate(list(_columns(state, users[part], items[part])), axis=1)
        np.copyto(out[part], np.where(np.isnan(found), filled, found))
    return out


def _columns(state: PairState, users: Ints, items: Ints) -> Iterator[Numbers]:
    """Yield the columns of pairs in the order of the features, ``[P, ...]``, NaN where nothing is known."""
    plan, things, kinds = state.plan, state.items.things, state.users.kinds
    item, user = state.items.numbers[items], state.users.numbers[users]
    repeats = [rhythm.NAMES.index(name) for name, _ in plan.rhythm]
    count, days_since, price = (rhythm.NAMES.index(name) for name in ("count", "days_since", "price"))
    last_price = item[:, state.items.names.index("item_last_price")]
    pair, *groups = (table.at(things.keys(kind, users, items)) for kind, table in enumerate(kinds))
    yield pair[:, repeats]
    yield _ratio(pair[:, days_since], item[:, state.items.names.index("item_gap_mean")])
    if plan.has_value:
        yield _ratio(last_price, user[:, -1])
    if state.users.waiting is not None:
        yield state.users.waiting.at(things.keys(0, users, items))
    for group in groups:
        yield group[:, repeats]
        yield _ratio(pair[:, count], group[:, count])
        if plan.has_value:
            yield _ratio(last_price, group[:, price])
    yield item[:, [state.items.names.index(f.name) for f in plan.features if f.side == "item"]]
    yield user[:, :-1]


def _ratio(above: Numbers, below: Numbers) -> Numbers:
    """Return a quotient as a column ``[P, 1]``, NaN where it is infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = above / below
    return np.where(ratio == np.inf, np.float32(np.nan), ratio)[:, None]
