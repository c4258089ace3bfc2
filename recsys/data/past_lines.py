"""The events before a cut as lines, one a (user, basket, item): plain arrays, as quick for one user as for thousands.

::

    prepared events ─► number_events ─┐
    a bundle's own past ──────────────┴─► PastEvents ─► lines_of ─► PastLines ─► rhythms, totals, features of items
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import polars as pl

from recsys.columns import BASKET_ID, EVENT_TYPE, ITEM_ID, QUANTITY, TIMESTAMP, USER_ID, VALUE
from recsys.data.log import DAY
from recsys.data.pair_plan import PairPlan
from recsys.data.segmented import Bools, Floats, Ints, extent, lengths, reduced, starts_of

RECENT_DAYS = 28


@dataclass(frozen=True)
class PastEvents:
    """E events before a cut in any order, by numbers.

    Attributes:
        user: Row of the user, int64 ``[E]`` in [0, U).
        item: Row of the item, int64 ``[E]``.
        time: Microseconds since 1970 UTC, int64 ``[E]``.
        basket: Number of the basket among those of the user, int64 ``[E]``; 0 without one.
        alone: Events without a basket: they belong to the moment of their own time, bool ``[E]``.
        quantity: Float64 ``[E]``, 1 where nobody knows.
        value: Float64 ``[E]``, NaN where nobody knows.
        relevant: Events that count; others are counted apart, bool ``[E]``.
    """

    user: Ints
    item: Ints
    time: Ints
    basket: Ints
    alone: Bools
    quantity: Floats
    value: Floats
    relevant: Bools

    def __len__(self) -> int:
        return len(self.user)

    @classmethod
    def of(cls, table: pl.DataFrame) -> "PastEvents":
        """Read a table whose columns have these names and types."""
        return cls(*(table[f.name].to_numpy() for f in fields(cls)))

    def take(self, rows: "Ints | Bools") -> "PastEvents":
        """Return some of the events."""
        return PastEvents(*(getattr(self, f.name)[rows] for f in fields(self)))


@dataclass(frozen=True)
class PastLines:
    """What U users did before a cut: lines, each (user, moment, item) once, sorted by user, oldest first.

    A moment is a basket or, without one, a time. Ages are days before the cut, more than 0.

    Attributes:
        cut: Microseconds since 1970 UTC.
        n_users: U.
        user: Row of the user, int64 ``[E]`` in [0, U).
        item: Row of the item, int64 ``[E]``.
        moment: Numbered from 0 for each user in order of time, int64 ``[E]``.
        age: Of the first event of the line, float64 ``[E]``.
        quantity: Summed over the line, float64 ``[E]``.
        value: Summed over the line, what is not known counting 0, float64 ``[E]``.
        others: User, item and age of the events that do not count.
    """

    cut: int
    n_users: int
    user: Ints
    item: Ints
    moment: Ints
    age: Floats
    quantity: Floats
    value: Floats
    others: tuple[Ints, Ints, Floats]

    def __len__(self) -> int:
        return len(self.user)

    @property
    def price(self) -> Floats:
        """Value over quantity, NaN unless both are above 0, ``[E]``."""
        sold = (self.quantity > 0) & (self.value > 0)
        return np.divide(self.value, self.quantity, out=np.full(len(self), np.nan), where=sold)

    def frame(self) -> pl.DataFrame:
        """Return ``user, item, moment, age, quantity, value, price``, the price null where there is none."""
        names = ("user", "item", "moment", "age", "quantity", "value", "price")
        return pl.DataFrame({name: getattr(self, name) for name in names}).with_columns(pl.col("price").fill_nan(None))

    def others_frame(self) -> pl.DataFrame:
        """Return ``user, item, age`` of the events that do not count."""
        return pl.DataFrame(dict(zip(("user", "item", "age"), self.others, strict=True)))


def number_items(plan: PairPlan, items: pl.DataFrame) -> pl.DataFrame:
    """Return ``item_id``, its row ``item`` and its number in each group: ``code_0``, ``code_1`` ..., null if missing.

    Args:
        plan: Names the groups.
        items: Prepared items.
    """
    codes = [pl.col(g).rank("dense").cast(pl.UInt32).alias(f"code_{n}") for n, g in enumerate(plan.groups)]
    return items.select(pl.col(ITEM_ID), pl.int_range(pl.len(), dtype=pl.UInt32).alias("item"), *codes)


def number_events(
    plan: PairPlan, catalogue: pl.DataFrame, events: pl.DataFrame, cut: int
) -> tuple[pl.Series, PastEvents]:
    """Return the users with an event before ``cut``, ascending, and these events by row; nothing later is read.

    Args:
        plan: What counts.
        catalogue: From :func:`number_items`; events of other items are left out.
        events: Prepared events in any order: of everybody, or of the users that are asked about.
        cut: Microseconds since 1970 UTC.
    """
    time = pl.col(TIMESTAMP).dt.epoch("us")
    read = (USER_ID, ITEM_ID, TIMESTAMP, BASKET_ID, EVENT_TYPE, QUANTITY, VALUE)  # others may be called user or item
    past = events.select(name for name in read if name in events.columns).filter(time < cut)
    users = past.select(USER_ID).unique().sort(USER_ID).with_row_index("user")
    rows = (
        past.lazy()
        .join(users.lazy(), on=USER_ID, maintain_order="left")
        .join(catalogue.lazy().select(ITEM_ID, "item"), on=ITEM_ID, maintain_order="left")
        .select(pl.col("user", "item").cast(pl.Int64), **event_columns(plan, past.schema))
        .collect()
    )
    return users[USER_ID], PastEvents.of(rows)


def event_columns(plan: PairPlan, schema: Mapping[str, pl.DataType]) -> dict[str, pl.Expr]:
    """Return what :class:`PastEvents` holds of prepared events besides user and item.

    Args:
        plan: What counts.
        schema: Of the events.
    """
    basket = pl.col(BASKET_ID) if BASKET_ID in schema else pl.lit(None, pl.Int64)
    number = basket if BASKET_ID not in schema or schema[BASKET_ID].is_integer() else basket.rank("dense")
    is_relevant = pl.col(EVENT_TYPE).is_in(list(plan.relevant)).fill_null(False)
    quantity, value = (pl.col(name).cast(pl.Float64).fill_nan(None) for name in (QUANTITY, VALUE))
    return {
        "time": pl.col(TIMESTAMP).dt.epoch("us"),
        "basket": number.cast(pl.Int64).fill_null(0),
        "alone": basket.is_null(),
        "quantity": quantity.fill_null(1.0) if plan.has_quantity else pl.lit(1.0),
        "value": value.fill_null(np.nan) if plan.has_value else pl.lit(np.nan),
        "relevant": is_relevant if plan.relevant else pl.lit(True),
    }


def lines_of(events: PastEvents, n_users: int, cut: int) -> PastLines:
    """Return lines of events before a cut.

    Args:
        events: All before ``cut``, in any order.
        n_users: U.
        cut: Microseconds since 1970 UTC.
    """
    other = events.take(~events.relevant)
    counted = events.take(events.relevant)
    moment = _moments(counted)
    user, item = counted.user, counted.item
    order = np.lexsort((item, moment, user))
    starts = starts_of(user[order], moment[order], item[order])
    first = reduced(np.minimum, counted.time[order], starts)
    quantity = reduced(np.add, counted.quantity[order], starts)
    value = reduced(np.add, np.nan_to_num(counted.value[order]), starts)
    user, item, moment = (column[order][starts] for column in (user, item, moment))
    by_time = np.lexsort((moment, item, first, user))
    return PastLines(
        cut,
        n_users,
        user[by_time],
        item[by_time],
        moment[by_time],
        (cut - first[by_time]) / DAY,
        quantity[by_time],
        value[by_time],
        (other.user, other.item, (cut - other.time) / DAY),
    )


def baskets_of(events: PastEvents) -> tuple[Ints, Ints]:
    """Return an order of the events in which those of one moment stand together, and where each moment begins."""
    own = np.where(events.alone, events.time, 0)
    keys = events.user, events.alone, events.basket, own
    order = np.lexsort(keys[::-1])
    return order, starts_of(*(key[order] for key in keys))


def _moments(events: PastEvents) -> Ints:
    """Number the moments of each user from 0: by their first event, then without a basket first, then by basket."""
    order, starts = baskets_of(events)
    begin = reduced(np.minimum, events.time[order], starts)
    user, alone, basket = (column[order][starts] for column in (events.user, events.alone, events.basket))
    by_begin = np.lexsort((basket, ~alone, begin, user))
    number = np.empty(len(starts), np.int64)
    number[by_begin] = np.arange(len(starts)) - np.searchsorted(user, user)  # users are in the same order in both
    moment = np.empty(len(order), np.int64)
    moment[order] = np.repeat(number, lengths(starts, len(order)))
    return moment


def user_totals(past: PastLines) -> dict[str, Floats]:
    """Return numbers over the baskets of each user, float64 ``[U]``; NaN but for the counts of who has no line.

    ``baskets`` and ``baskets_28d`` count them; ``days_since`` the last and ``tenure`` since the first, in days;
    ``gap_mean`` in days; ``items`` distinct ones; ``basket_size`` items a basket; ``repeat`` the share of lines whose
    item the user had had before; ``spend`` value a basket; ``price`` the median over the lines; ``value`` and
    ``quantity`` of all lines together.
    """
    n = past.n_users

    def count(users: Ints, weights: "Floats | Bools | None" = None) -> Floats:
        return np.bincount(users, weights, minlength=n).astype(np.float64)

    order = np.lexsort((past.moment, past.user))
    user = past.user[order]
    starts = starts_of(user, past.moment[order])
    owner, age = user[starts], reduced(np.maximum, past.age[order], starts)
    baskets, lines = count(owner), count(past.user)
    first, last = extent(age, owner, n)
    by_item = np.lexsort((past.item, past.user))
    items = count(past.user[by_item][starts_of(past.user[by_item], past.item[by_item])])
    with np.errstate(invalid="ignore", divide="ignore"):  # of nobody: NaN, and a single basket has no gap
        gap_mean = np.where(baskets > 1, (first - last) / (baskets - 1), np.nan)
        return {
            "baskets": baskets,
            "baskets_28d": count(owner, age <= RECENT_DAYS),
            "days_since": last,
            "tenure": first,
            "basket_size": lines / baskets,
            "spend": count(past.user, past.value) / baskets,
            "items": np.where(baskets > 0, items, np.nan),
            "price": _medians(past.price, past.user, n),
            "gap_mean": gap_mean,
            "repeat": 1 - items / lines,
            "value": count(past.user, past.value),
            "quantity": count(past.user, past.quantity),
        }


def _medians(values: Floats, user: Ints, n_users: int) -> Floats:
    """Return the median of each user's values that are not NaN, NaN without any, ``[U]``."""
    known = ~np.isnan(values)
    values, user = values[known], user[known]
    values = values[np.lexsort((values, user))]
    count = np.bincount(user, minlength=n_users)
    start = np.cumsum(count) - count
    some = count > 0
    low, high = (start + (count - 1) // 2)[some], (start + count // 2)[some]
    out = np.full(n_users, np.nan)
    out[some] = (values[low] + values[high]) / 2
    return out
