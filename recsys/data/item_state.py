"""What everybody did with each item before a cut."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.columns import ITEM_ID
from recsys.data.pair_plan import PairPlan
from recsys.data.past_lines import RECENT_DAYS, PastLines
from recsys.data.rhythm import Things
from recsys.data.segmented import Ints

WEEK = 7
PER = 10_000
"""Popularity is given per so many users or events, so that it means the same in small and large logs."""


@dataclass(frozen=True)
class ItemState:
    """Items as of a cut.

    Attributes:
        table: ``item_id``, ``item``, ``code_0`` ... from :func:`~recsys.data.past_lines.number_items`, then features,
            ``item_*``; N rows.
    """

    table: pl.DataFrame

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the features."""
        return tuple(name for name in self.table.columns if name.startswith("item_") and name != ITEM_ID)

    @cached_property
    def numbers(self) -> NDArray[np.float32]:
        """Features, float32 ``[N + 1, F]``; the last row, all NaN, is of an item that nobody knows."""
        nothing = np.full((1, len(self.names)), np.nan, np.float32)
        return np.concatenate([self.table.select(self.names).cast(pl.Float32).to_numpy(), nothing])

    @cached_property
    def things(self) -> Things:
        """What users come back to: the items, then the groups."""
        names = ["item", *(name for name in self.table.columns if name.startswith("code_"))]
        codes = self.table.select(pl.col(name).cast(pl.Int64).fill_null(-1) for name in names).to_numpy()
        return Things(np.concatenate([codes, np.full((1, len(names)), -1)]).T.copy())

    def rows(self, item_ids: pl.Series) -> Ints:
        """Return the rows of items, ``[P]``; N for one that is not known."""
        return rows_of(item_ids.alias(ITEM_ID), self.table.select(ITEM_ID, row="item"), len(self.table))


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
    lines = past.frame().sort("age", "user", "moment", descending=[True, False, False])
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
        recently = past.others_frame().filter(age <= RECENT_DAYS)
        others = recently.group_by("item").agg(others_28d=pl.len() * (PER / max(len(recently), 1)))
        table = table.join(others, on="item", how="full", coalesce=True)
    values = table.drop("gaps", "spans", "before")
    values = values.select(pl.col("item").cast(pl.UInt32), pl.exclude("item").cast(pl.Float32).name.prefix("item_"))
    return ItemState(catalogue.join(values, on="item", how="left", maintain_order="left"))


def rows_of(ids: pl.Series, known: pl.DataFrame, absent: int) -> Ints:
    """Return the ``row`` of each id, ``absent`` where there is none; ids are read in the type of those known."""
    asked = ids.to_frame().with_columns(pl.col(ids.name).cast(known.schema[ids.name], strict=False))
    found = asked.join(known, on=ids.name, how="left", maintain_order="left")["row"]
    return found.cast(pl.Int64).fill_null(absent).to_numpy()
