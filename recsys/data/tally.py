"""What the data report counts of the events, one part of them in memory at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from recsys.columns import BASKET_ID, EVENT_TYPE, ITEM_ID, TIMESTAMP, USER_ID
from recsys.data.split import NAMES, Windows, window_index

IDS = (USER_ID, ITEM_ID)


@dataclass(frozen=True)
class Values:
    """The values of a column.

    Attributes:
        distinct: Different ones.
        missing: Rows without one.
        total: Rows.
        common: ``value`` and ``rows``, most frequent first; none where values say nothing by themselves.
    """

    distinct: int
    missing: int
    total: int
    common: pl.DataFrame


@dataclass(frozen=True)
class Tally:
    """Counts over all events.

    Attributes:
        per_item: Events of every item, descending, int64.
        per_user: Events of every user, descending, int64.
        days: ``day`` and ``rows`` of each calendar day (UTC) with events, in the order of time.
        baskets: How many a user and basket id name together; None without baskets.
        types: How many event types there are; None without types.
        windows: One row a window, in the order of time: ``events, users, cold_users, repeats, items, cold_items``.
        columns: Of those that are counted.
    """

    per_item: np.ndarray
    per_user: np.ndarray
    days: pl.DataFrame
    baskets: int | None
    types: int | None
    windows: pl.DataFrame
    columns: dict[str, Values]


def tally(parts: Sequence[pl.LazyFrame], windows: Windows, columns: Sequence[str]) -> Tally:
    """Count.

    Args:
        parts: Prepared events, sorted by user and time; all those of a user are in one part.
        windows: The split.
        columns: Whose values are counted.
    """
    counted = [name for name in columns if name != TIMESTAMP]
    found = [_of_part(part, windows, counted) for part in parts]
    items = _together([part["items"] for part in found], ITEM_ID, "window")
    items = items.with_columns(is_cold=pl.col("window") == pl.col("window").min().over(ITEM_ID))
    in_windows = items.group_by("window").agg(items=pl.len(), cold_items=pl.col("is_cold").sum())
    per_window = _together([part["windows"] for part in found], "window")
    types = [part["types"] for part in found if "types" in part]
    per_user = pl.concat([part["users"] for part in found])["rows"]
    values = {
        name: values_of(_together([part[f"column {name}"] for part in found], "value").select("value", "rows"))
        for name in counted
    }
    if TIMESTAMP in columns:
        times = pl.concat(parts).select(pl.col(TIMESTAMP).n_unique()).collect(engine="streaming").item()
        dtype = parts[0].collect_schema()[TIMESTAMP]
        values[TIMESTAMP] = Values(times, 0, int(per_user.sum()), no_values(dtype))
    return Tally(
        _descending(items.group_by(ITEM_ID).agg(pl.col("rows").sum())["rows"]),
        _descending(per_user),
        _together([part["days"] for part in found], "day"),
        sum(part["baskets"].item() for part in found) if "baskets" in found[0] else None,
        len(_together(types, "value").drop_nulls()) if types else None,
        per_window.join(in_windows, on="window", maintain_order="left"),
        values,
    )


def values_of(counts: pl.DataFrame) -> Values:
    """Return what the rows of each ``value`` say, null being one."""
    known = counts.drop_nulls("value")
    total, given = int(counts["rows"].sum()), int(known["rows"].sum())
    return Values(len(known), total - given, total, known.sort(["rows", "value"], descending=[True, False]))


def no_values(dtype: pl.DataType) -> pl.DataFrame:
    """Return the values of a column of ids or times, which are not shown."""
    return pl.DataFrame(schema={"value": dtype, "rows": pl.Int64})


def _of_part(part: pl.LazyFrame, windows: Windows, columns: Sequence[str]) -> dict[str, pl.DataFrame]:
    names = part.collect_schema().names()
    read = [name for name in (USER_ID, ITEM_ID, TIMESTAMP, BASKET_ID, EVENT_TYPE) if name in names]
    events = part.select(list(dict.fromkeys([*read, *columns]))).collect()
    time, rows = pl.col(TIMESTAMP), pl.len().cast(pl.Int64).alias("rows")
    window = events.select(window_index(windows)).to_series()
    repeats = events.select(time > time.min().over(USER_ID, ITEM_ID)).to_series()
    per_user, in_windows = _by_user(events[USER_ID], window.to_numpy(), repeats.to_numpy())
    found = {
        "items": events.select(ITEM_ID, window.alias("window")).group_by(ITEM_ID, "window").agg(rows),
        "users": pl.DataFrame({"rows": per_user}),
        "days": events.group_by(time.dt.date().alias("day")).agg(rows),
        "windows": in_windows,
    }
    if BASKET_ID in names:
        baskets = events.select(USER_ID, BASKET_ID).drop_nulls()
        found["baskets"] = baskets.select(pl.struct(pl.all()).n_unique().cast(pl.Int64))
    for key, name in (("types", EVENT_TYPE), *((f"column {name}", name) for name in columns)):
        if name in names:
            found[key] = events.select(value=name).group_by("value").agg(rows)
    return found


def _by_user(users: pl.Series, window: np.ndarray, repeats: np.ndarray) -> tuple[np.ndarray, pl.DataFrame]:
    """Return the events of each user, and the counts of each window; rows are in the order of users and time."""
    is_first = (users != users.shift()).fill_null(True).to_numpy()
    starts = np.flatnonzero(is_first)
    per_user = np.diff(np.append(starts, len(users)))
    first_window = np.repeat(window[starts], per_user)
    enters = is_first | (window != np.roll(window, 1))
    kinds = len(NAMES)
    counts = {
        "events": window,
        "users": window[enters],
        "cold_users": window[enters & (window == first_window)],
        "repeats": window[repeats],
    }
    return per_user, pl.DataFrame(
        {"window": np.arange(kinds, dtype=np.int8)}
        | {name: np.bincount(some, minlength=kinds).astype(np.int64) for name, some in counts.items()}
    )


def _together(frames: Sequence[pl.DataFrame], *keys: str) -> pl.DataFrame:
    return pl.concat(frames).group_by(keys).agg(pl.exclude(keys).sum()).sort(keys)


def _descending(counts: pl.Series) -> np.ndarray:
    return np.sort(counts.to_numpy())[::-1]
