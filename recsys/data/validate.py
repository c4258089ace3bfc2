"""Decide which events can be used; every other row is counted by reason and kept for the rejects file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import dataframely as dy
import polars as pl

from recsys.columns import EVENT_TYPE, ID_COLUMNS, ITEM_ID, QUANTITY, TIMESTAMP, USER_ID, VALUE
from recsys.config.data import DataConfig
from recsys.data.cleaning.time_zones import to_utc_by_row, zone_known
from recsys.data.dtypes import is_given
from recsys.data.sources import REJECT_REASON, ROW_NUMBER, TIMEZONE
from recsys.data.timestamps import Numbers, to_utc
from recsys.data.whole import Whole
from recsys.errors import DataError


class EventRules(dy.Schema):
    """What an event must have to be used; the name of the first broken rule is the reason for the reject."""

    row_number = dy.Integer()
    user_id = dy.Any()  # Int64 or String, checked by plain_id
    item_id = dy.Any()
    timestamp = dy.Datetime(nullable=True, time_unit="us", time_zone="UTC")
    timestamp_given = dy.Bool()  # whether the source has a value, readable or not
    zone_known = dy.Bool()

    @dy.rule()
    def user_id_missing(self) -> pl.Expr:
        """Violated by a row without a user."""
        return pl.col(USER_ID).is_not_null()

    @dy.rule()
    def item_id_missing(self) -> pl.Expr:
        """Violated by a row without an item."""
        return pl.col(ITEM_ID).is_not_null()

    @dy.rule()
    def timestamp_missing(self) -> pl.Expr:
        """Violated by a row without a time."""
        return pl.col("timestamp_given")

    @dy.rule()
    def timezone_unknown(self) -> pl.Expr:
        """Violated by a row whose time zone is none of the IANA database."""
        return pl.col("zone_known")

    @dy.rule()
    def timestamp_unreadable(self) -> pl.Expr:
        """Violated by a row whose time does not parse or lies outside the years 1900 to 2199."""
        return pl.col(TIMESTAMP).is_not_null() | ~pl.col("timestamp_given")


REASONS = ("user_id_missing", "item_id_missing", "timestamp_missing", "timezone_unknown", "timestamp_unreadable")


@dataclass(frozen=True)
class Checked:
    """Events that can be used, and those that cannot.

    Attributes:
        events: Usable rows; ids Int64 or String, ``timestamp`` UTC microseconds, ``quantity`` and ``value`` Float64.
        rejects: The other rows with the values of the source, ``row_number`` and ``reject_reason`` in front.
        reasons: Rejects by reason, most frequent first; a row with several faults counts for the first of them.
        read: Rows of the source.
    """

    events: pl.DataFrame
    rejects: pl.DataFrame
    reasons: dict[str, int]
    read: int


def check_events(source: pl.DataFrame, cfg: DataConfig, whole: Whole) -> Checked:
    """Bring the standard columns to their types and part usable rows from the others.

    Args:
        source: Rows as read, all or some.
        cfg: How they are written.
        whole: What is known of all of them.

    Raises:
        DataError: A column of a type that cannot be what it is mapped to.
    """
    place = f"data.events={cfg.events}"
    events = source.with_columns(
        *(whole.id_of(source[name], place) for name in ID_COLUMNS if name in source.columns),
        *(_number(source[name], place) for name in (QUANTITY, VALUE) if name in source.columns),
        _times(source, cfg, place, whole.numbers),
    ).drop(TIMEZONE, strict=False)
    if EVENT_TYPE in source.columns:
        events = events.with_columns(pl.col(EVENT_TYPE).cast(pl.String))
    zones = zone_known(source[TIMEZONE]) if TIMEZONE in source.columns else pl.lit(True)
    slim = events.select(
        ROW_NUMBER, USER_ID, ITEM_ID, TIMESTAMP, timestamp_given=is_given(source[TIMESTAMP]), zone_known=zones
    )
    usable, failure = EventRules.filter(slim)
    if len(failure) == 0:
        return Checked(
            events, source.clear().insert_column(1, pl.Series(REJECT_REASON, [], pl.String)), {}, len(source)
        )
    broken = failure.details()
    rejects = broken.select(
        ROW_NUMBER, pl.coalesce(pl.when(pl.col(r) == "invalid").then(pl.lit(r)) for r in REASONS).alias(REJECT_REASON)
    ).join(source, on=ROW_NUMBER, how="left", maintain_order="left")
    counts = rejects[REJECT_REASON].value_counts().sort(["count", REJECT_REASON], descending=[True, False])
    kept = events.join(usable.select(ROW_NUMBER), on=ROW_NUMBER, how="semi", maintain_order="left")
    return Checked(kept, rejects, dict(counts.iter_rows()), len(source))


def refuse_rejects(rejects: pl.DataFrame, reasons: Mapping[str, int], read: int, cfg: DataConfig, file: Path) -> None:
    """Stop when the share of rejects is above ``data.max_reject_share``.

    Args:
        rejects: Of the check; of those of a reason the first are shown.
        reasons: How many there are by reason, most frequent first.
        read: Rows that were checked.
        cfg: Says how many may be.
        file: Where all of them are.

    Raises:
        DataError: With the reasons and their counts, the first such rows, the rejects file and what to do.
    """
    rejected = sum(reasons.values())
    if rejected <= cfg.max_reject_share * read:
        return
    counts = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())
    shown = []
    for reason in reasons:
        for row in rejects.filter(pl.col(REJECT_REASON) == reason).head(3).iter_rows(named=True):
            values = ", ".join(f"{name}={row[name]!r}" for name in (USER_ID, ITEM_ID, TIMESTAMP) if name in row)
            shown.append(f"row {row[ROW_NUMBER]:,} ({reason})" + f": {values}" * bool(values))
    raise DataError(
        f"data.events={cfg.events}: {rejected:,} of {read:,} rows ({rejected / read:.1%}) cannot be"
        f" used, and data.max_reject_share={cfg.max_reject_share} allows {cfg.max_reject_share:.1%}. Reasons:"
        f" {counts}. First rows: {'; '.join(shown)}. All of them: {file}. Correct the table or its mapping"
        " (data.columns, data.timestamp_format, data.timestamp_unit), or raise data.max_reject_share."
    )


def _times(source: pl.DataFrame, cfg: DataConfig, place: str, numbers: Numbers) -> pl.Series:
    if TIMEZONE not in source.columns:
        return to_utc(source[TIMESTAMP], cfg, place, numbers)
    return to_utc_by_row(source[TIMESTAMP], source[TIMEZONE], cfg, place, numbers)


def _number(column: pl.Series, place: str) -> pl.Series:
    if column.dtype.is_numeric() or column.dtype == pl.Null:
        return column.cast(pl.Float64).fill_nan(None)
    raise DataError(
        f"{place}, column '{column.name}': found type {column.dtype}; legal: integer, float or decimal."
        " Cast the column, or map another one."
    )
