"""The rules on items: junk, text, conflicting values, units; for an items table, and for attributes on event lines."""

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from recsys.columns import ITEM_ID, TIMESTAMP
from recsys.config.data import DataConfig
from recsys.data.clean import Counts, items_from_events, side_table
from recsys.data.cleaning.conflicts import find_conflicts, one_row_each
from recsys.data.cleaning.finding import Finding
from recsys.data.cleaning.junk import without_junk
from recsys.data.cleaning.text import same_writing
from recsys.data.cleaning.units import size_columns
from recsys.data.dtypes import plain_id, same_type
from recsys.data.split import Windows
from recsys.data.timestamps import given_times
from recsys.errors import DataError

_RULES = {
    "auto": "the last row of the table holds",
    "latest": "the latest value holds",
    "most_frequent": "the most frequent value holds",
    "as_of": "the latest value of the window in which the item is first listed holds",
}
_ON_EVENTS = {
    "auto": "the item's first value holds",
    "latest": "the latest value of the window in which the item is first seen holds",
    "most_frequent": "the most frequent value of the window in which the item is first seen holds",
    "as_of": "the item's first value holds",
}


def typed_items(items: pl.DataFrame | None, events: pl.DataFrame, place: str) -> pl.DataFrame | None:
    """Return the items table with ids of the type that they have in the events."""
    if items is None:
        return None
    return items.with_columns(same_type(plain_id(items[ITEM_ID], place), events.schema[ITEM_ID], place))


def clean_items(
    table: pl.DataFrame | None, events: pl.DataFrame, attributes: Sequence[str], windows: Windows, cfg: DataConfig
) -> tuple[pl.DataFrame, Counts, tuple[Finding, ...]]:
    """Return one row an item of the items table and of the events, what was dropped, and what the rules found.

    Args:
        table: The items table with ids of the events' type; None where the attributes ride on the events.
        events: Clean events.
        attributes: Columns of theirs that describe the item.
        windows: The split.
        cfg: The rules.

    Raises:
        DataError: The table has none of the items of the events, or times that cannot be read.
    """
    if table is None:
        items, findings = _of_events(events, attributes, windows, cfg)
        return items, {}, findings
    return _of_table(table, events, windows, cfg)


def _of_table(
    table: pl.DataFrame, events: pl.DataFrame, windows: Windows, cfg: DataConfig
) -> tuple[pl.DataFrame, Counts, tuple[Finding, ...]]:
    rules, place, time = cfg.cleaning, f"data.items={cfg.items}", cfg.cleaning.item_time
    frame = without_junk(table, rules.junk)
    findings: tuple[Finding, ...] = ()
    if rules.junk:
        findings = (Finding("junk", len(table) - len(frame), "rows of the items table", "taken out of the catalogue"),)
    frame, written = same_writing(frame, rules.text)
    named = frame.filter(pl.col(ITEM_ID).is_not_null())
    attributes = [c for c in frame.columns if c not in (ITEM_ID, time)]
    conflicts = find_conflicts(named, ITEM_ID, attributes, _RULES[rules.conflicts])
    chosen = None
    if rules.conflicts != "auto":
        if time is not None:
            named = named.with_columns(
                given_times(named[time], cfg, place, "without data.cleaning.item_time a row has held for ever")
            )
        if time is not None and rules.conflicts == "as_of":
            # An item that was sold before it was listed was known then, without attributes.
            sold = events.group_by(ITEM_ID).agg(pl.col(TIMESTAMP).min().alias(time))
            named = pl.concat([named, sold.join(named, on=ITEM_ID, how="semi")], how="diagonal")
        chosen = one_row_each(named, ITEM_ID, rules.conflicts, time, windows)
    items, counts = side_table(frame, ITEM_ID, events, place, chosen)
    if len(named) and counts["only_in_events"] == events[ITEM_ID].n_unique() > 0:
        raise DataError(
            f"{place}: none of its items occurs in the events; its ids are such as {named[ITEM_ID][0]!r}, theirs as"
            f" {events[ITEM_ID][0]!r}. Write them alike, leading zeros and blanks too, or name the right column in"
            " data.item_columns."
        )
    items, sizes = size_columns(items, rules.units, rules.unit_words)
    return items, counts | {"read": len(table)}, (*findings, *written, conflicts, *sizes)


def _of_events(
    events: pl.DataFrame, attributes: Sequence[str], windows: Windows, cfg: DataConfig
) -> tuple[pl.DataFrame, tuple[Finding, ...]]:
    rules = cfg.cleaning
    lines, written = same_writing(events.select(ITEM_ID, TIMESTAMP, *attributes), rules.text)
    done = _ON_EVENTS[rules.conflicts]
    conflicts = (find_conflicts(lines, ITEM_ID, attributes, done),) if attributes else ()
    items = items_from_events(lines, attributes, windows, rules.conflicts)
    items, sizes = size_columns(items, rules.units, rules.unit_words)
    written = tuple(replace(finding, what=f"{finding.what}, on event lines") for finding in written)
    return items, (*written, *conflicts, *sizes)
