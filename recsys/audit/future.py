"""Recompute features as of a cut with another future: what changes has looked at it."""

from collections.abc import Callable, Mapping

import polars as pl

from recsys.audit.findings import Finding
from recsys.columns import TIMESTAMP

AsOf = Callable[[pl.DataFrame, int], pl.DataFrame]
"""Features of events and a cut in microseconds since 1970 UTC: the same rows in the same order, whatever the events."""

TOLERANCE = 1e-5
"""Relative difference of two numbers from which they are different: sums in another order differ by less."""


def audit_future(features: Mapping[str, AsOf], events: pl.DataFrame, cut: int, seed: int = 0) -> list[Finding]:
    """Name every column of features that changes when nothing but the future does.

    The events at and after the cut are removed, moved to the very time of the cut, or shuffled: users, items and all
    other columns are each put into another order. No feature as of the cut can depend on any of this.

    Args:
        features: Name to function.
        events: With ``timestamp`` in UTC; in any order.
        cut: Microseconds since 1970 UTC.
        seed: Of the shuffling.
    """
    findings = []
    futures = other_futures(events, cut, seed)
    for name, function in features.items():
        told = function(events, cut)
        moved: dict[str, tuple[str, int, str]] = {}
        for what, changed in futures.items():
            for column, (rows, example) in _differences(told, function(changed, cut)).items():
                if column not in moved or rows > moved[column][1]:
                    moved[column] = (what, rows, example)
        findings += [
            Finding(
                "feature moves with the future",
                "error",
                f"{name}, column '{column}'",
                rows,
                f"{rows:,} of {len(told):,} values change when the events at and after the cut are {what}; {example}",
                "filter the events to time < cut before anything is counted, joined or fitted",
            )
            for column, (what, rows, example) in moved.items()
        ]
    return findings


def other_futures(events: pl.DataFrame, cut: int, seed: int) -> dict[str, pl.DataFrame]:
    """Return the events with their future removed, moved to the cut, and shuffled, by what was done to it."""
    is_past = pl.col(TIMESTAMP).dt.epoch("us") < cut
    past, future = events.filter(is_past), events.filter(~is_past)
    at_cut = pl.lit(cut).cast(pl.Datetime("us", "UTC")).cast(events.schema[TIMESTAMP])
    shuffled = future.select(
        future[name].sample(fraction=1.0, shuffle=True, seed=seed + place) for place, name in enumerate(future.columns)
    )
    return {
        "removed": past,
        "moved to the time of the cut": pl.concat([past, future.with_columns(at_cut.alias(TIMESTAMP))]),
        "shuffled": pl.concat([past, shuffled]),
    }


def _differences(told: pl.DataFrame, again: pl.DataFrame) -> dict[str, tuple[int, str]]:
    """Return column -> number of values that differ, and an example."""
    if told.height != again.height:
        return {"(number of rows)": (abs(told.height - again.height), f"{told.height:,} rows, then {again.height:,}")}
    found = {}
    for name in dict.fromkeys([*told.columns, *again.columns]):
        if name not in told.columns or name not in again.columns:
            found[name] = (told.height, "the column itself is there in one case only")
            continue
        differs = _differs(told[name], again[name])
        if rows := int(differs.sum()):
            place = int(differs.arg_max() or 0)
            found[name] = (rows, f"row {place}: {told[name][place]!r}, then {again[name][place]!r}")
    return found


def _differs(one: pl.Series, other: pl.Series) -> pl.Series:
    unequal = one.ne_missing(other)
    if not (one.dtype.is_float() and other.dtype.is_float()):
        return unequal
    far = (one - other).abs() > TOLERANCE * one.abs().clip(lower_bound=1.0)
    return unequal & (far | one.is_null() | other.is_null() | one.is_nan() | other.is_nan()).fill_null(True)
