"""Clean tables: one row per item and per user, every id of the events covered, a fixed order."""

from collections.abc import Sequence

import polars as pl

from recsys.columns import ITEM_ID, TIMESTAMP, USER_ID
from recsys.data.cleaning.conflicts import earliest, known_first, latest, most_frequent
from recsys.data.dtypes import plain_id, same_type
from recsys.data.sources import ROW_NUMBER
from recsys.data.split import Windows

Counts = dict[str, int]


def in_order(events: pl.DataFrame) -> pl.DataFrame:
    """Put events into one order, whatever it was before: by user, time and item, then by all other columns."""
    leading = [USER_ID, TIMESTAMP, ITEM_ID]
    others = [c for c in events.columns if c not in (*leading, ROW_NUMBER)]
    return events.sort([*leading, *others, *(c for c in (ROW_NUMBER,) if c in events.columns)])


def side_table(
    frame: pl.DataFrame | None, key: str, events: pl.DataFrame, place: str, chosen: pl.DataFrame | None = None
) -> tuple[pl.DataFrame, Counts]:
    """Return one row per id, sorted by id: those of the table, and those of the events with null attributes.

    Rows without an id are rejected, exact duplicates dropped, and of rows that contradict each other the last is
    kept; the second result counts each of them, and the ids that only the events have.

    Args:
        frame: ``key`` and attributes; None when there is no such table.
        key: ``item_id`` or ``user_id``.
        events: Clean events.
        place: Where the table comes from, for messages.
        chosen: One row an id, where another rule than the last row has chosen among those that contradict each other.
    """
    seen = events.select(pl.col(key).unique())
    if frame is None:
        return seen.sort(key), {}
    ids = same_type(plain_id(frame[key], place), events.schema[key], place)
    named = frame.with_columns(ids).filter(pl.col(key).is_not_null())
    distinct = named.unique(maintain_order=True, keep="last")
    table = distinct.unique(subset=key, maintain_order=True, keep="last") if chosen is None else chosen
    only_events = seen.join(table, on=key, how="anti")
    counts = {
        "read": len(frame),
        "id_missing": len(frame) - len(named),
        "duplicates": len(named) - len(distinct),
        "contradictions": len(distinct) - len(table),
        "only_in_events": len(only_events),
    }
    return pl.concat([table, only_events], how="diagonal").sort(key), counts


def items_from_events(
    events: pl.DataFrame, attributes: Sequence[str], windows: Windows, rule: str = "auto"
) -> pl.DataFrame:
    """Return one row per item with the attributes that ride on the events, sorted by id.

    An attribute is the item's first value, so that no cut, wherever in a window it lies, sees what it became later;
    by the other rules its latest or its most frequent one among the events of the window in which the item is first
    seen. So nothing at or after the cut of a window can change an item that was known before it, by any rule.

    Args:
        events: ``item_id``, ``timestamp`` and the attributes.
        attributes: Their names.
        windows: The split.
        rule: ``auto`` and ``as_of``: the first value; ``latest``; ``most_frequent``.
    """
    items = events.select(pl.col(ITEM_ID).unique()).sort(ITEM_ID)
    first = known_first(events, ITEM_ID, windows)
    for name in attributes:
        if rule == "most_frequent":
            values = most_frequent(first, ITEM_ID, name)
        else:
            values = (latest if rule == "latest" else earliest)(first, ITEM_ID, name, TIMESTAMP)
        items = items.join(values, on=ITEM_ID, how="left", maintain_order="left")
    return items
