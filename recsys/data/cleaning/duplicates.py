"""Rows that say the same again: exactly, or so soon after that it was one act."""

import polars as pl

from recsys.columns import EVENT_TYPE, ITEM_ID, TIMESTAMP, USER_ID
from recsys.data.sources import COPIES, REPAIRED, ROW_NUMBER


def drop_copies(events: pl.DataFrame) -> pl.DataFrame:
    """Keep one of the rows that are equal in every column, that with the smallest row number.

    Args:
        events: In the order of :func:`recsys.data.clean.in_order`, so that equal rows are neighbours; with
            :data:`COPIES` and :data:`REPAIRED`, which become sums.
    """
    counted = (COPIES, REPAIRED)
    columns = [c for c in events.columns if c not in (ROW_NUMBER, *counted)]
    differs = (pl.col(name).ne_missing(pl.col(name).shift()) for name in columns)
    starts = events.select((pl.int_range(pl.len()) == 0) | pl.any_horizontal(differs)).to_series()
    ends = starts.shift(-1, fill_value=True)
    until = events.select(pl.col(counted).cum_sum()).filter(ends)
    return events.filter(starts).with_columns(until.select(pl.all() - pl.all().shift(fill_value=0)))


def near_duplicates(events: pl.DataFrame, seconds: float, apart: pl.Expr) -> pl.Series:
    """Mark events that follow one of the same user, item and type within ``seconds``, bool ``[E]``.

    A run of events, each so soon after the one before it, is one act: its first event stays. Only the past is looked
    at, so what comes later changes nothing.

    Args:
        events: In the order of :func:`recsys.data.clean.in_order`, which decides what comes first at one time.
        seconds: Largest gap that still makes a near duplicate.
        apart: What else must be equal.
    """
    keys = [name for name in (USER_ID, ITEM_ID, EVENT_TYPE) if name in events.columns]
    gap = pl.col(TIMESTAMP).diff().over([*keys, apart])
    return events.select((gap <= pl.duration(microseconds=round(seconds * 1e6))).fill_null(False)).to_series()
