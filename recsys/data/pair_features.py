"""Features of (user, item) pairs as of a cut: one implementation for training snapshots, evaluation and serving.

::

    events before the cut -> lines -> ItemState   what everybody did with each item
                                   -> UserState   what each user did with each item and group
    pairs -> look both up -> one row a pair, one column a feature of PairPlan.features

A server keeps the :class:`ItemState` and builds the :class:`UserState` of the users of a request from their own events.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from recsys.columns import ITEM_ID, TIMESTAMP, USER_ID
from recsys.data.pair_plan import PairPlan
from recsys.data.past_lines import RECENT_DAYS, STRIDE, PastLines, number_items, past_lines, rhythm, user_totals
from recsys.data.sessions import Visits, clock, visits

WEEK = 7
PER = 10_000
"""Popularity is given per so many users or events, so that it means the same in small and large logs."""
STACKED_LINES = 2**20
"""Lines that are summed up at a time: for few users all kinds of groups together, for many one after the other."""
CHUNK_ROWS = 2**18
"""Pairs looked up at a time; more need more memory and are not faster."""


@dataclass(frozen=True)
class ItemState:
    """Items as of a cut: ``item_id``, ``item``, ``code_0`` ... from :func:`number_items`, then ``item_*`` features."""

    table: pl.DataFrame


@dataclass(frozen=True)
class UserState:
    """Users as of a cut.

    Attributes:
        users: ``user_id``, its row ``user``, ``user_*`` features.
        pairs: ``key`` of user and item, ``pair_*`` features; pairs without an event have no row.
        groups: For each group ``key`` of user and group, and its features.
    """

    users: pl.DataFrame
    pairs: pl.DataFrame
    groups: tuple[pl.DataFrame, ...]


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
    past = past_lines(plan, catalogue, events, cut)
    seen = visits(plan.sessions, events, cut) if plan.sessions else None
    return PairState(plan, cut, item_state(plan, catalogue, past), user_state(plan, catalogue, past, seen))


def users_as_of(plan: PairPlan, catalogue: pl.DataFrame, events: pl.DataFrame, cut: int) -> UserState:
    """Sum up what users did before a cut.

    Args:
        plan: Which features.
        catalogue: From :func:`~recsys.data.past_lines.number_items`; :attr:`ItemState.table` will do.
        events: Prepared events in any order, of the users of interest at least.
        cut: Microseconds since 1970 UTC.
    """
    seen = visits(plan.sessions, events, cut) if plan.sessions else None
    return user_state(plan, catalogue, past_lines(plan, catalogue, events, cut), seen)


def item_state(plan: PairPlan, catalogue: pl.DataFrame, past: PastLines) -> ItemState:
    """Sum up what everybody did with each item.

    ``item_users_*`` and ``item_events_*`` of the last 7 and 28 days and of all time are per 10,000 users or lines of
    that time. ``item_trend`` is log((a + 1) / (b + 1)) of the lines of the last 28 days and the 28 days before,
    ``item_trend_7d`` of the lines of the last 7 days and a third of those of the 21 days before. ``item_repeat`` is the
    share of the item's users who have it from more than one basket, ``item_gap_mean`` the mean of all their gaps in
    days. ``item_price`` is the median, ``item_price_ratio`` the last price over it.

    Args:
        plan: Which features.
        catalogue: From :func:`~recsys.data.past_lines.number_items`.
        past: Lines of all users.
    """
    age, price = pl.col("age"), pl.col("price").drop_nulls()
    lines = past.lines.sort("age", "user", "moment", descending=[True, False, False])
    by_line = lines.group_by("item").agg(
        events_all=pl.len(),
        events_28d=(age <= RECENT_DAYS).sum(),
        events_7d=(age <= WEEK).sum(),
        before=((age > RECENT_DAYS) & (age <= 2 * RECENT_DAYS)).sum(),
        age=age.max(),
        days_since=age.min(),
        price=price.median(),
        last_price=price.last(),
    )
    spans = lines.group_by("item", "user").agg(n=pl.len(), last=age.min(), first=age.max())
    by_user = spans.group_by("item").agg(
        users_all=pl.len(),
        users_28d=(pl.col("last") <= RECENT_DAYS).sum(),
        users_7d=(pl.col("last") <= WEEK).sum(),
        repeat=(pl.col("n") > 1).mean(),
        gaps=(pl.col("n") - 1).sum(),
        spans=(pl.col("first") - pl.col("last")).sum(),
    )
    last = lines.group_by("user").agg(age.min())["age"]
    shares = []
    for name, days in (("all", None), ("28d", RECENT_DAYS), ("7d", WEEK)):
        users, events = (ages if days is None else ages.filter(ages <= days) for ages in (last, lines["age"]))
        shares.append((pl.col(f"users_{name}") * (PER / max(len(users), 1))).alias(f"users_{name}"))
        shares.append((pl.col(f"events_{name}") * (PER / max(len(events), 1))).alias(f"events_{name}"))
    recent, week = pl.col("events_28d").cast(pl.Int64), pl.col("events_7d").cast(pl.Int64)
    table = by_line.join(by_user, on="item").with_columns(
        *shares,
        trend=((recent + 1) / (pl.col("before") + 1)).log(),
        trend_7d=((week + 1) / ((recent - week) / 3 + 1)).log(),
        gap_mean=pl.when(pl.col("gaps") > 0).then(pl.col("spans") / pl.col("gaps")),
        price_ratio=pl.col("last_price") / pl.col("price"),
    )
    if plan.has_others:
        recently = past.others.filter(age <= RECENT_DAYS)
        others = recently.group_by("item").agg(others_28d=pl.len() * (PER / max(len(recently), 1)))
        table = table.join(others, on="item", how="full", coalesce=True)
    values = _floats(table.drop("gaps", "spans", "before"), "item_", "item")
    return ItemState(catalogue.join(values, on="item", how="left", maintain_order="left"))


def user_state(plan: PairPlan, catalogue: pl.DataFrame, past: PastLines, seen: Visits | None = None) -> UserState:
    """Sum up what each user did; what others did plays no part, so ``past`` may hold the users of interest alone.

    Args:
        plan: Which features.
        catalogue: From :func:`~recsys.data.past_lines.number_items`; :attr:`ItemState.table` will do.
        past: Lines of the users.
        seen: What they did in their sessions; a plan with sessions needs it.
    """
    totals = user_totals(past)
    users = totals
    if plan.has_others:
        others = past.others.group_by("user").agg(others_28d=(pl.col("age") <= RECENT_DAYS).sum())
        users = totals.join(others, on="user", how="full", coalesce=True)
    people = past.users.join(_floats(users, "user_", "user"), on="user", how="left", maintain_order="left")
    things = [catalogue["item"], *(catalogue[f"code_{n}"] for n in range(len(plan.groups)))]
    at_once = max(STACKED_LINES // max(len(past.lines), 1), 1)
    stacks = [things[start : start + at_once] for start in range(0, len(things), at_once)]
    pairs, *groups = (table for stack in stacks for table in _rhythms(plan, past, totals, stack))
    if seen is not None:
        people = people.join(_floats(seen.users, "user_", USER_ID), on=USER_ID, how="left", maintain_order="left")
        waiting = seen.pairs.join(past.users, on=USER_ID).join(catalogue.select(ITEM_ID, "item"), on=ITEM_ID)
        waiting = waiting.select(_key("item"), pl.exclude(USER_ID, ITEM_ID, "user", "item").cast(pl.Float32))
        pairs = pairs.join(waiting, on="key", how="full", coalesce=True)
    by_group = (_named(table, f"{prefix}_") for prefix, table in zip(plan.prefixes, groups, strict=True))
    return UserState(people, _named(pairs, "pair_"), tuple(by_group))


def _rhythms(
    plan: PairPlan, past: PastLines, totals: pl.DataFrame, things: Sequence[pl.Series]
) -> Iterator[pl.DataFrame]:
    """Yield for each number of the items, ``[N]`` from 0 with nulls, how users come back to the items that share it.

    The first column of each table is ``key``, all others are Float32.

    Numbers of different kinds are told apart by what is added to them, so that few calls do for the lines of few users.
    """
    spans = [int(thing.max() or 0) + 1 for thing in things]  # type: ignore[arg-type]
    starts = [sum(spans[:place]) for place in range(len(spans))]

    def stacked(lines: pl.DataFrame) -> pl.LazyFrame:
        numbers = [
            thing.gather(lines["item"]).cast(pl.UInt64) + start for thing, start in zip(things, starts, strict=True)
        ]
        return pl.concat([lines] * len(things)).lazy().with_columns(thing=pl.concat(numbers)).drop_nulls("thing")

    lines = (
        stacked(past.lines)
        .group_by("user", "thing", "moment")
        .agg(pl.col("age").max(), pl.col("quantity").sum(), pl.col("price").mean())
    )
    table = _with_others(rhythm(lines, totals), stacked(past.others) if plan.has_others else None)
    table = table.select("key", pl.exclude("key", "thing").cast(pl.Float32), thing=pl.col("key") % STRIDE)
    table = table.sort("thing") if len(things) > 1 else table
    # A request of one user spends its time in calls, not in rows: slices take a tenth of what filters do.
    ends = table.drop_in_place("thing").search_sorted(pl.Series([*starts, starts[-1] + spans[-1]])).to_list()
    for start, first, last in zip(starts, ends, ends[1:], strict=False):
        own = table[first:last]
        yield own.replace_column(0, own["key"] - start)


def pair_features(state: PairState, pairs: pl.DataFrame, items: pl.Series | None = None) -> pl.DataFrame:
    """Return the features of pairs, Float32, one row a pair in the given order, columns as in ``plan.features``.

    Beyond what :func:`~recsys.data.past_lines.rhythm` (``pair_*`` and each group), :func:`item_state` and
    :func:`~recsys.data.past_lines.user_totals` say: ``pair_item_gap_ratio`` is days since over the item's mean gap;
    ``pair_price_ratio`` and each group's ``price_ratio`` the item's last price over the user's median, and over the
    user's mean in the group; each group's ``item_share`` the pair's count over the group's; ``other_*`` counts events
    that are not relevant, ``others_28d`` those of 28 days (the item's per 10,000 of them);
    ``context_*`` are hour, weekday from Monday and month from 0, in UTC, of the request. With sessions there is also
    its :func:`~recsys.data.sessions.clock`, and what :class:`~recsys.data.sessions.Visits` says of users and pairs.

    Nulls are left where a value is undefined, unless the feature declares a value for it. A user or an item that the
    state does not know is as one without events.

    Args:
        state: From :func:`as_of`.
        pairs: ``user_id``, ``item_id`` and, where the request's time is known, ``timestamp``; rows may repeat.
        items: Rows of the items, which spares looking for them; ``pairs`` needs no ``item_id`` then.
    """
    if items is None:
        rows = state.items.table.select(ITEM_ID, "item")
        items = _look_up(pairs.select(ITEM_ID), rows)["item"]
    starts = range(0, max(len(pairs), 1), CHUNK_ROWS)
    parts = (slice(start, start + CHUNK_ROWS) for start in starts)
    return pl.concat([_chunk(state, pairs[part], items[part]) for part in parts], rechunk=False)


def _chunk(state: PairState, pairs: pl.DataFrame, rows: pl.Series) -> pl.DataFrame:
    plan = state.plan
    users = _look_up(pairs.select(USER_ID), state.users.users)
    items = state.items.table.select(pl.exclude(ITEM_ID).gather(rows))
    user = users["user"].cast(pl.UInt64) * STRIDE
    parts = [users.drop("user"), items.select(pl.selectors.starts_with("item_"))]
    things = [items["item"], *(items[f"code_{n}"] for n in range(len(plan.groups)))]
    for thing, table in zip(things, (state.users.pairs, *state.users.groups), strict=True):
        parts.append(_look_up((user + thing).alias("key").to_frame(), table))
    last_price = pl.col("item_last_price")
    ratios = [(pl.col("pair_days_since") / pl.col("item_gap_mean")).alias("pair_item_gap_ratio")]
    ratios.append((last_price / pl.col("user_price")).alias("pair_price_ratio"))
    for prefix in plan.prefixes:
        share = pl.col("pair_count") / pl.col(f"{prefix}_count")
        ratios += [
            share.alias(f"{prefix}_item_share"),
            (last_price / pl.col(f"{prefix}_price")).alias(f"{prefix}_price_ratio"),
        ]
    wanted = [pl.col(f.name) if f.absent is None else pl.col(f.name).fill_null(f.absent) for f in plan.features]
    frame = pl.concat([*parts, _context(plan, pairs)], how="horizontal")
    return frame.with_columns(r.replace(float("inf"), None).cast(pl.Float32) for r in ratios).select(wanted)


def _look_up(keys: pl.DataFrame, table: pl.DataFrame) -> pl.DataFrame:
    """Return the row of ``table`` for each key, nulls where there is none."""
    (name,) = keys.columns
    if keys.schema[name] != table.schema[name]:
        keys = keys.select(pl.col(name).cast(table.schema[name], strict=False))
    found = keys.join(table, on=name, how="left", maintain_order="left")
    found.drop_in_place(name)
    return found


def _with_others(table: pl.DataFrame, others: pl.LazyFrame | None) -> pl.DataFrame:
    """Add number and recency of the events that do not count."""
    if others is None:
        return table
    counts = others.group_by(_key("thing")).agg(other_count=pl.len(), other_days_since=pl.col("age").min())
    return table.join(counts.collect(), on="key", how="full", coalesce=True)


def _key(thing: str) -> pl.Expr:
    return (pl.col("user").cast(pl.UInt64) * STRIDE + pl.col(thing)).alias("key")


def _context(plan: PairPlan, pairs: pl.DataFrame) -> pl.DataFrame:
    rows = plan.sessions.clock_rows if plan.sessions else ()
    names = ("hour", "weekday", "month", *(name for name, _ in rows))
    if TIMESTAMP not in pairs.columns:
        return pairs.select(pl.repeat(None, pl.len(), dtype=pl.Float32).alias(f"context_{n}") for n in names)
    time = pl.col(TIMESTAMP).dt
    parts = [time.hour(), time.weekday() - 1, time.month() - 1]
    if plan.sessions:
        parts += clock(time.epoch("us"), plan.sessions.zone, plan.sessions.holidays)
    return pairs.select(p.cast(pl.Float32).alias(f"context_{n}") for p, n in zip(parts, names, strict=True))


def _named(table: pl.DataFrame, prefix: str) -> pl.DataFrame:
    """Give the columns a prefix, but for the key, which is the first."""
    named = table.clone()
    named.columns = ["key", *(prefix + name for name in table.columns[1:])]
    return named


def _floats(table: pl.DataFrame, prefix: str, key: str) -> pl.DataFrame:
    """Give the columns a prefix and half the memory, but for the key."""
    return table.select(key, pl.exclude(key).cast(pl.Float32).name.prefix(prefix))
