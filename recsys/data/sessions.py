"""Visits to the shop and what they tell of a user's interest, as of a cut: from the events before it alone.

::

    events before the cut ─► in_sessions     each event with the number of its session
                                ├─► session_table   one row a session
                                └─► Visits          one row a user, one row a (user, item) that waits to be bought

Each function works on the events of everybody or of some users. A session that is open at the cut is what lies before.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import polars as pl

from recsys.columns import BASKET_ID, EVENT_TYPE, ITEM_ID, TIMESTAMP, USER_ID
from recsys.data.log import DAY

MINUTE = DAY // 1440
RECENT_DAYS = 28
CLOCK = tuple(f"{turn}_{part}" for turn in ("hour", "weekday", "season") for part in ("sin", "cos"))
"""Names of what :func:`clock` returns, besides ``holiday``."""

_Row = tuple[str, float | None]


@dataclass(frozen=True)
class SessionPlan:
    """How events make sessions, and what a data set allows to tell of them; the same for all cuts.

    Attributes:
        by_basket: The basket of an event is its session; those without one go by the gap.
        gap_minutes: A session ends where a user does nothing for longer.
        zone: Of the shop's local time, such as Europe/Berlin.
        holidays: Local days, ISO; empty where no training session began on one.
        weights: What an event of a type counts for the engagement; 1 if not named.
        half_life_days: After which it counts half.
        cart_days: What is added and not bought within these is abandoned.
        purchase: Event types; without event types every event is a purchase.
        cart: Event types that the data have.
        wishlist: Event types that the data have.
        has_types: Events have a type.
        has_length: Some session lasts.
        has_more: Some user has several sessions.
    """

    by_basket: bool = False
    gap_minutes: float = 30.0
    zone: str = "UTC"
    holidays: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    half_life_days: float = 14.0
    cart_days: float = 1.0
    purchase: tuple[str, ...] = ()
    cart: tuple[str, ...] = ()
    wishlist: tuple[str, ...] = ()
    has_types: bool = False
    has_length: bool = False
    has_more: bool = False

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> "SessionPlan":
        """Read what ``dataclasses.asdict`` and JSON made of a plan."""
        tuples = {name: tuple(content[name]) for name in ("holidays", "purchase", "cart", "wishlist")}
        return cls(**{**content, **tuples})

    @property
    def user_rows(self) -> tuple[_Row, ...]:
        """Name and value of who has no event, of each column of :attr:`Visits.users`."""
        more: tuple[_Row, ...] = (("sessions", 0.0), ("sessions_28d", 0.0))
        minutes: tuple[_Row, ...] = (("session_minutes", None),)
        types: tuple[_Row, ...] = (("session_purchases", None), ("days_since_event", None))
        cart: tuple[_Row, ...] = (("cart_open", 0.0), ("cart_abandonment", None))
        wishlist: tuple[_Row, ...] = (("wishlist_open", 0.0),)
        return (
            ("engagement", 0.0),
            ("session_events", None),
            ("session_items", None),
            *more * self.has_more,
            *minutes * self.has_length,
            *types * self.has_types,
            *cart * bool(self.cart),
            *wishlist * bool(self.wishlist),
            *self.clock_rows,
        )

    @property
    def pair_rows(self) -> tuple[_Row, ...]:
        """The same of :attr:`Visits.pairs`."""
        return tuple((f"{kind}_days", None) for kind in ("cart", "wishlist") if getattr(self, kind))

    @property
    def clock_rows(self) -> tuple[_Row, ...]:
        """The same of :func:`clock`."""
        holiday: tuple[_Row, ...] = (("holiday", None),)
        return (*((name, None) for name in CLOCK), *holiday * bool(self.holidays))


@dataclass(frozen=True)
class Visits:
    """What users did in their sessions before a cut.

    Attributes:
        users: ``user_id`` and, of each user with an event: ``engagement``, the sum over events of
            ``weight * 2 ** (-age / half life)``; ``sessions`` in all and of 28 days; means over them of events, items,
            ``session_minutes`` and ``session_purchases``; ``days_since_event`` of any type; ``cart_open`` and
            ``wishlist_open``, items added and not bought since; ``cart_abandonment``, the share of additions whose
            item was not bought within :attr:`SessionPlan.cart_days`, of those of which this is known; and the mean of
            :func:`clock` over the sessions' beginnings: where the user's day, week and year have their middle, the
            nearer to 0 the less they have one.
        pairs: ``user_id``, ``item_id`` and ``cart_days``, ``wishlist_days`` since the item was last added, null if it
            was bought since or never added.
    """

    users: pl.DataFrame
    pairs: pl.DataFrame


def plan_sessions(wanted: SessionPlan, events: pl.DataFrame) -> SessionPlan:
    """Return of a plan what the data allow.

    Args:
        wanted: How sessions are made, with all that may count; what the events have is not looked at.
        events: Prepared events of the training window.
    """
    has_types = EVENT_TYPE in events.columns
    known = set(events[EVENT_TYPE].drop_nulls().cast(pl.String).unique()) if has_types else set()
    sessions = session_table(wanted, in_sessions(wanted, events))
    begun = sessions.select(_is_holiday(_local(pl.col("start"), wanted.zone), wanted.holidays).any()).item()
    return replace(
        wanted,
        by_basket=wanted.by_basket and BASKET_ID in events.columns,
        holidays=wanted.holidays if begun else (),
        purchase=tuple(t for t in wanted.purchase if t in known),
        cart=tuple(t for t in wanted.cart if t in known),
        wishlist=tuple(t for t in wanted.wishlist if t in known),
        has_types=has_types,
        has_length=bool((sessions["minutes"] > 0).any()),
        has_more=bool(sessions[USER_ID].is_duplicated().any()),
    )


def in_sessions(plan: SessionPlan, events: pl.DataFrame) -> pl.DataFrame:
    """Return ``user_id, item_id, time, type, session``: microseconds since 1970 UTC, null types where there are none.

    Sessions are numbered from 1 over all rows; one is of one user, and of one basket or without.

    Args:
        plan: How they are made.
        events: Prepared events in any order, of whole users.
    """
    time, own, user = pl.col("time"), pl.col("own"), pl.col(USER_ID)
    none = pl.lit(None, pl.String)
    rows = events.select(
        USER_ID,
        ITEM_ID,
        time=pl.col(TIMESTAMP).dt.epoch("us"),
        type=pl.col(EVENT_TYPE).cast(pl.String) if EVENT_TYPE in events.columns else none,
        own=pl.col(BASKET_ID) if plan.by_basket and BASKET_ID in events.columns else none,
    ).sort(USER_ID, "own", "time", ITEM_ID, "type")
    is_other = (user != user.shift()) | own.ne_missing(own.shift())
    was_idle = own.is_null() & (time - time.shift() > plan.gap_minutes * MINUTE)
    return rows.with_columns(session=(is_other | was_idle).fill_null(True).cum_sum()).drop("own")


def session_table(plan: SessionPlan, rows: pl.DataFrame) -> pl.DataFrame:
    """Return one row a session, sorted by number: ``user_id, session, start, end, minutes, events, items, purchases``.

    ``items`` are the distinct ones that its events are about; start and end are the times of its first and last event.

    Args:
        plan: Which events are purchases.
        rows: From :func:`in_sessions`.
    """
    time = pl.col("time")
    table = rows.group_by(USER_ID, "session").agg(
        start=time.min(),
        end=time.max(),
        minutes=(time.max() - time.min()) / MINUTE,
        events=pl.len(),
        items=pl.col(ITEM_ID).n_unique(),
        purchases=_is(plan.purchase).sum() if plan.has_types else pl.len(),
    )
    return table.sort("session")


def visits(plan: SessionPlan, events: pl.DataFrame, cut: int) -> Visits:
    """Sum up what users did before ``cut``; nothing at or after it is read.

    Args:
        plan: What is told.
        events: Prepared events in any order: of everybody, or of the users that are asked about.
        cut: Microseconds since 1970 UTC.
    """
    past = in_sessions(plan, events.filter(pl.col(TIMESTAMP).dt.epoch("us") < cut))
    age = (cut - pl.col("time")) / DAY
    known = {name: value for name, value in plan.weights.items() if plan.has_types}
    weight = pl.col("type").replace_strict(list(known), list(known.values()), default=1.0, return_dtype=pl.Float64)
    decayed = (weight if known else pl.lit(1.0)) * 0.5 ** (age / plan.half_life_days)
    users = past.group_by(USER_ID).agg(engagement=decayed.sum(), days_since_event=age.min())
    sessions = session_table(plan, past).with_columns(*clock(pl.col("start"), plan.zone, plan.holidays))
    means = ("minutes", "events", "items", "purchases")
    tables = [
        sessions.group_by(USER_ID).agg(
            pl.len().alias("sessions"),
            ((cut - pl.col("end")) / DAY <= RECENT_DAYS).sum().alias("sessions_28d"),
            *(pl.col(name).mean().alias(f"session_{name}") for name in means),
            *(pl.col(name).mean() for name, _ in plan.clock_rows),
        )
    ]
    pairs = past.select(USER_ID, ITEM_ID).clear()
    for kind in ("cart", "wishlist"):
        if not getattr(plan, kind):
            continue
        added = _added(plan, past, getattr(plan, kind)).with_columns(age=age)
        waiting = added.filter(pl.col("bought").is_null())
        waiting = waiting.group_by(USER_ID, ITEM_ID).agg(pl.col("age").min().alias(f"{kind}_days"))
        pairs = pairs.join(waiting, on=[USER_ID, ITEM_ID], how="full", coalesce=True)
        tables.append(waiting.group_by(USER_ID).agg(pl.len().alias(f"{kind}_open")))
        if kind == "cart":
            in_time = ((pl.col("bought") - pl.col("time")) / DAY <= plan.cart_days).fill_null(False)
            decided = added.filter(in_time | (pl.col("age") > plan.cart_days))
            tables.append(decided.group_by(USER_ID).agg(cart_abandonment=(~in_time).mean()))
    for table in tables:
        users = users.join(table, on=USER_ID, how="left")
    return Visits(users.select(USER_ID, *(name for name, _ in plan.user_rows)).sort(USER_ID), pairs)


def clock(time: pl.Expr, zone: str, holidays: Sequence[str] = ()) -> list[pl.Expr]:
    """Return local time as points on circles: sine and cosine of hour, weekday and season, named as :data:`CLOCK`.

    A circle is turned once in a day (from midnight), a week (from Monday) and a year (from 1 January). With
    ``holidays`` there is ``holiday``, 1 on such a day and 0 on others.

    Args:
        time: Microseconds since 1970 UTC.
        zone: Of the local time.
        holidays: Local days, ISO.
    """
    local = _local(time, zone)
    turns = {
        "hour": (local.dt.hour() + local.dt.minute() / 60) / 24,
        "weekday": (local.dt.weekday() - 1) / 7,
        "season": (local.dt.ordinal_day() - 1) / 365.25,
    }
    circles = [
        value.alias(f"{name}_{part}")
        for name, turn in turns.items()
        for part, value in (("sin", (turn * math.tau).sin()), ("cos", (turn * math.tau).cos()))
    ]
    return [*circles, _is_holiday(local, holidays).cast(pl.Float64).alias("holiday")] if holidays else circles


def _added(plan: SessionPlan, past: pl.DataFrame, types: Sequence[str]) -> pl.DataFrame:
    """Return the additions by events of some types, with the time at which the item was ``bought`` next, or null."""
    rows = past.with_columns(added=_is(types), buys=_is(plan.purchase)).filter(pl.col("added") | pl.col("buys"))
    pair = [USER_ID, ITEM_ID]
    bought = pl.when("buys").then("time").backward_fill().over(pair)
    return rows.sort(*pair, "time", "buys").with_columns(bought=bought).filter("added")


def _is(types: Sequence[str]) -> pl.Expr:
    return pl.col("type").is_in(list(types)).fill_null(False)


def _local(time: pl.Expr, zone: str) -> pl.Expr:
    return pl.from_epoch(time, time_unit="us").dt.replace_time_zone("UTC").dt.convert_time_zone(zone)


def _is_holiday(local: pl.Expr, holidays: Sequence[str]) -> pl.Expr:
    if not holidays:
        return pl.lit(False)
    return local.dt.date().is_in([date.fromisoformat(day) for day in holidays])
