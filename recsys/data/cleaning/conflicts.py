"""Items with several values of one attribute: which of them counts."""

from collections.abc import Sequence

import polars as pl

from recsys.columns import TIMESTAMP
from recsys.data.cleaning.finding import Finding
from recsys.data.split import Windows, window_index


def most_frequent(rows: pl.DataFrame, key: str, name: str) -> pl.DataFrame:
    """Return ``key`` and the most frequent value of ``name``, of equally frequent ones the smallest."""
    return (
        rows.filter(pl.col(name).is_not_null())
        .group_by(key, name)
        .agg(_rows=pl.len())
        .sort([key, "_rows", name], descending=[False, True, False])
        .unique(subset=key, keep="first", maintain_order=True)
        .select(key, name)
    )


def earliest(rows: pl.DataFrame, key: str, name: str, time: str) -> pl.DataFrame:
    """Return ``key`` and the value of ``name`` with the earliest ``time``, of those of one time the smallest."""
    ordered = rows.filter(pl.col(name).is_not_null()).sort([key, time, name])
    return ordered.unique(subset=key, keep="first", maintain_order=True).select(key, name)


def latest(rows: pl.DataFrame, key: str, name: str, time: str) -> pl.DataFrame:
    """Return ``key`` and the value of ``name`` with the latest ``time``, of those of one time the largest."""
    ordered = rows.filter(pl.col(name).is_not_null()).sort([key, time, name])
    return ordered.unique(subset=key, keep="last", maintain_order=True).select(key, name)


def known_first(rows: pl.DataFrame, key: str, windows: Windows, time: str = TIMESTAMP) -> pl.DataFrame:
    """Return the rows of the window in which each key is first seen.

    Nothing at or after a cut can then change what was known before it.

    Args:
        rows: With their times.
        key: Column of the ids.
        windows: The split.
        time: Column of the times.
    """
    window = window_index(windows, time).fill_null(0)  # a row without a time has held for ever
    return rows.filter(window == window.min().over(key))


def one_row_each(
    rows: pl.DataFrame, key: str, rule: str, time: str | None = None, windows: Windows | None = None
) -> pl.DataFrame:
    """Return one row an id of an items table, each attribute by itself, sorted by id.

    Args:
        rows: ``key``, never null, attributes, and ``time`` where there is one (UTC), which is left out of the result.
        key: Column of the ids.
        rule: ``latest``: of the row with the latest ``time``, or, without one, of the last row; ``as_of``: the same
            among the rows of the window in which the id first has one (needs ``time`` and ``windows``);
            ``most_frequent``.
        time: Column of the times since when rows hold.
        windows: The split.
    """
    attributes = [c for c in rows.columns if c not in (key, time)]
    if rule == "as_of":
        if time is None or windows is None:
            raise ValueError("as_of needs a time and windows")
        rows = known_first(rows, key, windows, time)
    if time is None:
        rows, time = rows.with_row_index("_place"), "_place"
    table = rows.select(pl.col(key).unique()).sort(key)
    for name in attributes:
        values = most_frequent(rows, key, name) if rule == "most_frequent" else latest(rows, key, name, time)
        table = table.join(values, on=key, how="left", maintain_order="left")
    return table


def of_the_event(lines: pl.DataFrame, key: str, columns: Sequence[str]) -> dict[str, str]:
    """Return which columns of event lines describe the event and not the item, such as a session or a device, and why.

    They are names and ids that differ within more than half of the items which have two lines with a value, where
    there are ten such items. Numbers are left alone: prices change.

    Args:
        lines: ``key`` and columns of Int64, Float64 or String.
        key: Column of the items.
        columns: Columns in question.
    """
    types = lines.schema
    names = [c for c in columns if types[c] == pl.String or (types[c] == pl.Int64 and c.endswith("_id"))]
    known = pl.col(names).drop_nulls()
    counts = lines.group_by(key).agg(known.count().name.suffix("/rows"), known.n_unique()) if names else lines
    found = {}
    for name in names:
        several = counts.filter(pl.col(f"{name}/rows") > 1)[name] > 1
        if len(several) >= 10 and 2 * several.sum() > len(several):
            found[name] = (
                f"it differs within {several.sum():,} of {len(several):,} items, so it says more of the event than of"
                f" the item: data.context=[{name}] reads it as such, data.item_attributes names what is the item's all"
                " the same"
            )
    return found


def find_conflicts(rows: pl.DataFrame, key: str, attributes: Sequence[str], done: str) -> Finding:
    """Count the ids that have more than one value of an attribute."""
    counts = rows.group_by(key).agg(pl.col(attributes).drop_nulls().n_unique() > 1)
    any_of = int(counts.select(pl.any_horizontal(attributes).sum()).item()) if attributes else 0
    each = sorted(((int(counts[name].sum()), name) for name in attributes), key=lambda pair: (-pair[0], pair[1]))
    parts = tuple((name, count) for count, name in each if count)
    return Finding("conflicts", any_of, "items with several values of an attribute", done, parts)
