"""The events before a cut as lines, one a (user, basket, item), and the rhythm in which lines come back."""

from dataclasses import dataclass

import polars as pl

from recsys.columns import BASKET_ID, EVENT_TYPE, ITEM_ID, QUANTITY, TIMESTAMP, USER_ID, VALUE
from recsys.data.log import DAY
from recsys.data.pair_plan import PairPlan

RECENT_DAYS = 28
DECAY_DAYS = 30.0
"""Days after which the decay of a frequency sets in."""
DECAY_POWER = 0.5
STRIDE = 2**32
"""A user's row times this plus an item's row, or a group's number, is the key of both."""


@dataclass(frozen=True)
class PastLines:
    """What happened before a cut; ages are days before the cut, more than 0.

    Attributes:
        cut: Microseconds since 1970 UTC.
        users: ``user_id`` and its row ``user``, of everybody with an event.
        lines: ``user, item, moment, age, quantity, value, price``, each (user, moment, item) once, sorted by user,
            oldest first. A moment is a basket or, without one, a time, numbered from 0 for each user; quantity and
            value are sums over it; the price is null unless both are above 0; the age is of the first event.
        others: ``user, item, age`` of the events that do not count.
    """

    cut: int
    users: pl.DataFrame
    lines: pl.DataFrame
    others: pl.DataFrame


def number_items(plan: PairPlan, items: pl.DataFrame) -> pl.DataFrame:
    """Return ``item_id``, its row ``item`` and its number in each group: ``code_0``, ``code_1`` ..., null if missing.

    Args:
        plan: Names the groups.
        items: Prepared items.
    """
    codes = [pl.col(g).rank("dense").cast(pl.UInt32).alias(f"code_{n}") for n, g in enumerate(plan.groups)]
    return items.select(pl.col(ITEM_ID), pl.int_range(pl.len(), dtype=pl.UInt32).alias("item"), *codes)


def past_lines(plan: PairPlan, catalogue: pl.DataFrame, events: pl.DataFrame, cut: int) -> PastLines:
    """Return the lines before ``cut``; nothing at or after it is read.

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
    known = catalogue.select(ITEM_ID, "item")
    if len(past) < len(known):  # few events: a join would first hash every item
        known = known.filter(pl.col(ITEM_ID).is_in(past[ITEM_ID].implode()))
    one = pl.lit(1.0)
    is_relevant = pl.col(EVENT_TYPE).is_in(list(plan.relevant)).fill_null(False) if plan.relevant else pl.lit(True)
    rows = (
        past.lazy()
        .join(users.lazy(), on=USER_ID, maintain_order="left")
        .join(known.lazy(), on=ITEM_ID, maintain_order="left")
        .select(
            "user",
            "item",
            time=time,
            age=(cut - time) / DAY,
            basket=pl.col(BASKET_ID) if BASKET_ID in past.columns else pl.lit(None, pl.Int64),
            quantity=pl.col(QUANTITY).cast(pl.Float64).fill_nan(None).fill_null(1.0) if plan.has_quantity else one,
            value=pl.col(VALUE).cast(pl.Float64).fill_nan(None) if plan.has_value else pl.lit(None, pl.Float64),
            relevant=is_relevant,
        )
        .with_columns(alone=pl.when(pl.col("basket").is_null()).then("time"))
        .collect()
    )
    counted = rows.filter("relevant").lazy()
    keys = ["user", "basket", "alone"]
    moments = (
        counted.group_by(keys)
        .agg(first=pl.col("age").max())
        .sort("user", "first", "basket", descending=[False, True, False])
        .with_columns(moment=pl.int_range(pl.len(), dtype=pl.UInt32).over("user"))
    )
    lines = (
        counted.join(moments, on=keys, nulls_equal=True, maintain_order="left")
        .group_by("user", "item", "moment")
        .agg(pl.col("age").max(), pl.col("quantity", "value").sum())
        .with_columns(
            price=pl.when((pl.col("quantity") > 0) & (pl.col("value") > 0)).then(pl.col("value") / pl.col("quantity"))
        )
        .sort("user", "age", "item", "moment", descending=[False, True, False, False])
        .collect()
    )
    return PastLines(cut, users, lines, rows.filter(~pl.col("relevant")).select("user", "item", "age"))


def user_totals(past: PastLines) -> pl.DataFrame:
    """Return one row a user who has lines: ``user`` and numbers over the user's baskets.

    ``baskets`` and ``baskets_28d`` count them; ``days_since`` the last and ``tenure`` since the first, in days;
    ``gap_mean`` in days; ``items`` distinct ones; ``basket_size`` items a basket; ``repeat`` the share of lines whose
    item the user had had before; ``spend`` value a basket; ``price`` the median over the lines.
    """
    lines = past.lines.lazy()
    baskets = lines.group_by("user", "moment").agg(pl.col("age").max(), size=pl.len(), spend=pl.col("value").sum())
    totals = baskets.group_by("user").agg(
        baskets=pl.len(),
        baskets_28d=(pl.col("age") <= RECENT_DAYS).sum(),
        days_since=pl.col("age").min(),
        tenure=pl.col("age").max(),
        basket_size=pl.col("size").mean(),
        spend=pl.col("spend").mean(),
        lines=pl.col("size").sum(),
    )
    items = lines.group_by("user").agg(items=pl.col("item").n_unique(), price=pl.col("price").median())
    gap = (pl.col("tenure") - pl.col("days_since")) / (pl.col("baskets") - 1)
    repeat = 1 - pl.col("items") / pl.col("lines")
    whole = totals.join(items, on="user")
    return whole.with_columns(gap_mean=pl.when(pl.col("baskets") > 1).then(gap), repeat=repeat).collect()


def rhythm(lines: pl.LazyFrame, totals: pl.DataFrame) -> pl.DataFrame:
    """Return how each user comes back to each thing: an item, or a group of items.

    Args:
        lines: ``user, thing, moment, age, quantity, price``; each (user, thing, moment) once.
        totals: From :func:`user_totals`.

    Returns:
        ``key`` and ``thing``, in no order, with ``count`` n of baskets; ``days_since`` the last; ``baskets_since``,
        the user's later ones; ``gap_mean`` in days (2 baskets or more) and ``gap_spread``, the standard deviation of
        the gaps (3 or more); ``gap_ratio`` of days since to mean gap; ``due``, 1 when that is 1 or more; ``share`` of
        all the user's baskets and ``rate`` of those since the first with the thing; ``quantity`` a basket; ``trend``,
        log((r + 1) / (e + 1)) of the r baskets of the last 28 days and the e expected were they spread evenly over
        the user's tenure; ``frequency``, the sum of ``(1 + age / 30) ** -0.5``; ``price``, the mean.
    """
    age, count = pl.col("age"), pl.col("count")
    is_next = pl.col("key") == pl.col("key").shift()
    spans = (
        lines.with_columns(key=pl.col("user").cast(pl.UInt64) * STRIDE + pl.col("thing"))
        .sort("key", "age", "moment", descending=[False, True, False])
        .with_columns(gap=pl.when(is_next).then(age.shift() - age))
        .group_by("key")
        .agg(
            pl.col("user", "thing").first(),
            count=pl.len(),
            days_since=age.min(),
            first=age.max(),
            first_moment=pl.col("moment").min().cast(pl.Int64),
            last_moment=pl.col("moment").max().cast(pl.Int64),
            gap_spread=pl.col("gap").std(ddof=0),
            recent=(age <= RECENT_DAYS).sum(),
            frequency=((1 + age / DECAY_DAYS) ** -DECAY_POWER).sum(),
            quantity=pl.col("quantity").sum(),
            price=pl.col("price").mean(),
        )
        .join(totals.lazy().select("user", pl.col("baskets").cast(pl.Int64), "tenure"), on="user")
        .with_columns(gap_mean=pl.when(count > 1).then((pl.col("first") - pl.col("days_since")) / (count - 1)))
        .with_columns(gap_ratio=pl.when(pl.col("gap_mean") > 0).then(pl.col("days_since") / pl.col("gap_mean")))
    )
    expected = count * pl.min_horizontal(pl.lit(1.0), RECENT_DAYS / pl.col("tenure"))
    return spans.select(
        "key",
        "thing",
        "count",
        "days_since",
        "gap_mean",
        "gap_ratio",
        "frequency",
        "price",
        baskets_since=pl.col("baskets") - 1 - pl.col("last_moment"),
        gap_spread=pl.when(count > 2).then("gap_spread"),
        due=(pl.col("gap_ratio") >= 1).fill_null(False),
        share=count / pl.col("baskets"),
        rate=count / (pl.col("baskets") - pl.col("first_moment")),
        trend=((pl.col("recent") + 1) / (expected + 1)).log(),
        quantity=pl.col("quantity") / count,
    ).collect()
