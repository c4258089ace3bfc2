"""Robots and shared accounts: users over a limit."""

from collections.abc import Sequence

import polars as pl

from recsys.columns import ITEM_ID, TIMESTAMP, USER_ID
from recsys.config.cleaning import ACCOUNT_LIMITS, AccountsConfig
from recsys.data.sources import COPIES, REPAIRED
from recsys.data.split import Windows, window_index


def lines_until(events: pl.DataFrame, windows: Windows) -> list[int]:
    """Return how many lines, copies included, everybody has before the end of each window."""
    window = window_index(windows)
    return [int(events.filter(window <= n)[COPIES].sum()) for n in range(3)]


def over_limits(
    events: pl.DataFrame, limits: AccountsConfig, windows: Windows, lines_of_all: Sequence[int]
) -> pl.DataFrame:
    """Return the accounts over a limit: ``user_id, since, events_a_day, items_a_day, lines, share, repaired``.

    An account is judged at the end of each window, by its events before it: ``since`` (Int8) is the first window at
    whose end a limit was broken, so what happens after a cut changes nothing before it. The numbers are those of all
    windows; a day is a calendar day in UTC, cut where windows are; lines include copies. Sorted by lines, largest
    first.

    Args:
        events: All events of some users, with ``_copies`` and ``_repaired``.
        limits: What is too much.
        windows: The split.
        lines_of_all: From :func:`lines_until` of the events of all users.
    """
    window = window_index(windows).alias("window")
    everybody = pl.col("window").replace_strict(dict(enumerate(lines_of_all)), return_dtype=pl.Int64)
    days = events.group_by(USER_ID, window, pl.col(TIMESTAMP).dt.date().alias("day")).agg(
        events_a_day=pl.col(COPIES).sum().cast(pl.Int64),
        items_a_day=pl.col(ITEM_ID).n_unique().cast(pl.Int64),
        repaired=pl.col(REPAIRED).sum().cast(pl.Int64),
    )
    peaks = pl.col("events_a_day", "items_a_day")
    totals = (
        days.group_by(USER_ID, "window")
        .agg(peaks.max(), lines=pl.col("events_a_day").sum(), repaired=pl.col("repaired").sum())
        .sort(USER_ID, "window")
        .with_columns(peaks.cum_max().over(USER_ID), pl.col("lines", "repaired").cum_sum().over(USER_ID))
        .with_columns(share=pl.col("lines") / everybody)
    )
    given = {name: limit for name in ACCOUNT_LIMITS if (limit := getattr(limits, name)) is not None}
    broken = pl.any_horizontal(pl.col(name) > limit for name, limit in given.items())
    since = totals.filter(broken).group_by(USER_ID).agg(since=pl.col("window").min())
    last = (
        totals.group_by(USER_ID).agg(pl.exclude("window").last()).with_columns(share=pl.col("lines") / lines_of_all[-1])
    )
    return since.join(last, on=USER_ID).sort(["lines", USER_ID], descending=[True, False])


def events_of(events: pl.DataFrame, accounts: pl.DataFrame, windows: Windows) -> pl.Series:
    """Mark the events of the accounts from the window on in which they broke a limit, bool ``[E]``."""
    known = events.select(USER_ID, window_index(windows).alias("window")).join(
        accounts.select(USER_ID, "since"), on=USER_ID, how="left", maintain_order="left"
    )
    return known.select((pl.col("window") >= pl.col("since")).fill_null(False)).to_series()
