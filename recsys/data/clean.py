"""Clean tables: no event twice, one row per item and per user, every id of the events covered, a fixed order."""

from collections.abc import Sequence

import polars as pl

from recsys.columns import ITEM_ID, TIMESTAMP, USER_ID
from recsys.data.dtypes import plain_id, same_type
from recsys.data.sources import ROW_NUMBER
from recsys.data.split import Windows, window_index

Counts = dict[str, int]


def unique_events(events: pl.DataFrame) -> pl.DataFrame:
    """Drop exact duplicates (every declared column equal) and put the rest into one order, whatever it was before.

    Sorted by user, time and item, then by all other columns.
    """
    leading = [USER_ID, TIMESTAMP, ITEM_ID]
    columns = [*leading, *(c for c in events.columns if c not in (*leading, ROW_NUMBER))]
    return events.select(columns).unique().sort(columns)


def side_table(frame: pl.DataFrame | None, key: str, events: pl.DataFrame, place: str) -> tuple[pl.DataFrame, Counts]:
    """Return one row per id, sorted by id: those of the table, and those of the events with null attributes.

    Rows without an id are rejected, exact duplicates dropped, and of rows that contradict each other the last is
    kept; the second result counts each of them, and the ids that only the events have.

    Args:
        frame: ``key`` and attributes; None when there is no such table.
        key: ``item_id`` or ``user_id``.
        events: Clean events.
        place: Where the table comes from, for messages.
    """
    seen = events.select(pl.col(key).unique())
    if frame is None:
        return seen.sort(key), {}
    ids = same_type(plain_id(frame[key], place), events.schema[key], place)
    named = frame.with_columns(ids).filter(pl.col(key).is_not_null())
    distinct = named.unique(maintain_order=True, keep="last")
    table = distinct.unique(subset=key, maintain_order=True, keep="last")
    only_events = seen.join(table, on=key, how="anti")
    counts = {
        "read": len(frame),
        "id_missing": len(frame) - len(named),
        "duplicates": len(named) - len(distinct),
        "contradictions": len(distinct) - len(table),
        "only_in_events": len(only_events),
    }
    return pl.concat([table, only_events], how="diagonal").sort(key), counts


def items_from_events(events: pl.DataFrame, attributes: Sequence[str], windows: Windows) -> pl.DataFrame:
    """Return one row per item with the attributes that ride on the events, sorted by id.

    An attribute is the item's most frequent value (the smallest of equally frequent ones) among the events of the
    window in which the item is first seen. So nothing at or after a cut can change an item that was known before it.
    """
    items = events.select(pl.col(ITEM_ID).unique()).sort(ITEM_ID)
    window = window_index(windows)
    first = events.filter(window == window.min().over(ITEM_ID))
    for name in attributes:
        modes = (
            first.filter(pl.col(name).is_not_null())
            .group_by(ITEM_ID, name)
            .agg(_rows=pl.len())
            .sort([ITEM_ID, "_rows", name], descending=[False, True, False])
            .unique(subset=ITEM_ID, keep="first", maintain_order=True)
            .select(ITEM_ID, name)
        )
        items = items.join(modes, on=ITEM_ID, how="left", maintain_order="left")
    return items
