"""Times without a zone of their own, each row in the zone that one of its columns names."""

from dataclasses import replace

import polars as pl

from recsys.config.data import DataConfig
from recsys.data.cleaning.finding import Finding
from recsys.data.sources import TIMEZONE
from recsys.data.timestamps import UTC, Numbers, to_utc, zone_names


def zone_known(zones: pl.Series) -> pl.Series:
    """Mark the rows whose zone is missing, so the table's own holds, or in the IANA database, bool ``[E]``."""
    return _named(zones).is_in(sorted(zone_names())).fill_null(True)


def to_utc_by_row(
    column: pl.Series, zones: pl.Series, cfg: DataConfig, place: str, numbers: Numbers | None = None
) -> pl.Series:
    """Return the times as :func:`recsys.data.timestamps.to_utc` does, each in its row's zone; null in unknown ones.

    Args:
        column: Times in any form that the table may have; those that carry a zone keep it.
        zones: IANA names; ``data.timezone`` where missing.
        cfg: How times are written.
        place: For messages.
        numbers: Of the whole column, where this is a part of it.
    """
    numbers = numbers or Numbers.of(column)
    named = pl.select(pl.when(zone_known(zones)).then(_named(zones).fill_null(cfg.timezone))).to_series()
    times = pl.Series(column.name, [None], UTC).new_from_index(0, len(column))
    for zone in named.drop_nulls().unique().sort():
        rows = (named == zone).fill_null(False)
        times = times.scatter(rows.arg_true(), to_utc(column.filter(rows), replace(cfg, timezone=zone), place, numbers))
    return times


def zones_found(source: pl.DataFrame) -> tuple[Finding, ...]:
    """Count the rows of each zone, where the events have a column of zones."""
    if TIMEZONE not in source.columns:
        return ()
    zones = _named(source[TIMEZONE])
    counts = zones.alias("zone").value_counts(name="rows").sort(["rows", "zone"], descending=[True, False])
    parts = tuple((zone or "(none: data.timezone)", rows) for zone, rows in counts.iter_rows())
    unknown = ("of unknown zones", int((~zone_known(zones)).sum()))
    done = "read in the zone of their row; those of unknown zones are rejected"
    return (Finding("time_zones", len(zones), "times by zone", done, (*parts, unknown)),)


def _named(zones: pl.Series) -> pl.Series:
    text = zones.cast(pl.String).str.strip_chars()
    return pl.select(pl.when(text != "").then(text)).to_series()
