"""Timestamps to UTC microseconds, from text, epoch numbers, dates or datetimes."""

from dataclasses import dataclass, replace
from zoneinfo import available_timezones

import polars as pl

from recsys.config.data import NO_ZONES, DataConfig
from recsys.data.dtypes import is_given
from recsys.errors import ConfigError, DataError, did_you_mean

UTC = pl.Datetime("us", "UTC")

_UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}  # per second
_DIGITS = (11, 14, 17)  # more than s, ms and us have in this century
_EARLIEST, _LATEST = -2_208_988_800, 7_258_118_400  # 1900-01-01 and 2200-01-01, in seconds
_CALENDAR = (19_000_101, 21_991_231)  # in seconds these are six weeks of 1970
_FIRST_SHOPS = 315_532_800  # 1980-01-01 in seconds; what is smaller counts days, months or rows rather
_OFFSET = r"([+-]\d{2}):?(\d{2})?$"
_AWARE = "%Y-%m-%dT%H:%M:%S%.f%:z"
_NAIVE = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")


@dataclass(frozen=True)
class Numbers:
    """What a column of times says of its numbers as a whole; of parts of the column it adds up.

    Attributes:
        given: Values that are there.
        numbers: How many of them are numbers, or text that is an integer.
        calendar: How many of these look like 20171108.
        early: How many of these would be seconds before 1980.
        below: How many of them would be seconds, seconds or milliseconds, any of these or microseconds of our time.
    """

    given: int = 0
    numbers: int = 0
    calendar: int = 0
    early: int = 0
    below: tuple[int, int, int] = (0, 0, 0)

    @classmethod
    def of(cls, column: pl.Series) -> "Numbers":
        """Count in a column of any type."""
        column = _wide(column)
        column = column.filter(is_given(column))
        given, known = len(column), _integers(column).drop_nulls()
        if not known.dtype.is_numeric():
            return cls(given)
        size = known.cast(pl.Float64).abs()
        calendar = int(known.is_between(*_CALENDAR).sum())
        below = tuple(int((size < 10.0**digits).sum()) for digits in _DIGITS)
        early = int((size < _FIRST_SHOPS).sum())
        return cls(given, len(known), calendar, early, (below[0], below[1], below[2]))

    def __add__(self, other: "Numbers") -> "Numbers":
        below = tuple(a + b for a, b in zip(self.below, other.below, strict=True))
        return Numbers(
            given=self.given + other.given,
            numbers=self.numbers + other.numbers,
            calendar=self.calendar + other.calendar,
            early=self.early + other.early,
            below=(below[0], below[1], below[2]),
        )

    @property
    def are_most(self) -> bool:
        """Whether most values are numbers; the others cannot be read then."""
        return 2 * self.numbers > self.given

    @property
    def are_dates(self) -> bool:
        """Whether they are numbers most of which look like 20171108."""
        return self.are_most and 2 * self.calendar > self.numbers

    @property
    def are_early(self) -> bool:
        """Whether they are numbers most of which would be seconds before 1980."""
        return self.are_most and 2 * self.early > self.numbers

    @property
    def unit(self) -> str:
        """What the middle one counts in: in this century seconds have 10 digits, milliseconds 13, microseconds 16."""
        return next((unit for unit, n in zip(_UNITS, self.below, strict=False) if 2 * n >= self.numbers), "ns")


def to_utc(column: pl.Series, cfg: DataConfig, place: str, numbers: Numbers | None = None) -> pl.Series:
    """Return the column as ``Datetime('us', 'UTC')``, null where a value is missing or unreadable.

    Text is ISO 8601 (``T`` or a space, seconds optional, fractions, ``Z``, ``UTC`` or an offset at the end) or
    ``data.timestamp_format``; numbers count from 1970 in ``data.timestamp_unit``, by their magnitude when ``auto``;
    what carries no zone is in ``data.timezone`` (the earlier of two readings where clocks go back; null in the gap
    where they go forward, but a midnight in it, such as of a date, is the first moment of its day). A time outside the
    years 1900 to 2199 is unreadable.

    Args:
        column: Times in any form.
        cfg: How they are written.
        place: For messages.
        numbers: Of the whole column, where this is a part of it.

    Raises:
        ConfigError: Unknown unit or time zone.
        DataError: A type that is no time, or numbers most of which look like 20171108 or would be before 1980.
    """
    if cfg.timezone not in zone_names():
        near = did_you_mean(cfg.timezone, zone_names())
        raise ConfigError(f"data.timezone={cfg.timezone!r} is not a name of the IANA time zone database.{near}")
    if cfg.timestamp_unit not in ("auto", *_UNITS):
        raise ConfigError(f"data.timestamp_unit={cfg.timestamp_unit!r} is not one of auto, {', '.join(_UNITS)}.")
    column, numbers = _wide(column), numbers or Numbers.of(column)
    _refuse_small_numbers(column, cfg, place, numbers)
    dtype = column.dtype
    if dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        times = _from_text(column.cast(pl.String).str.strip_chars(), cfg, numbers)
    elif dtype.is_numeric():
        written = cfg.timestamp_format is not None
        times = _from_text(_digits(column), cfg, numbers) if written else _from_epoch(column, cfg, numbers)
    elif dtype == pl.Date:
        times = _localize(column.cast(pl.Datetime("us")), cfg)
    elif isinstance(dtype, pl.Datetime):
        aware = dtype.time_zone is not None
        times = column.dt.convert_time_zone("UTC") if aware else _localize(column, cfg)
        times = times.dt.cast_time_unit("us")
    else:
        raise DataError(
            f"{place}, column '{column.name}': found type {dtype}; legal for a time: text, integer or float"
            " (epoch), date, datetime. Cast the column, or map another one."
        )
    seconds = times.cast(pl.Int64)
    legal = (seconds >= _EARLIEST * 1_000_000) & (seconds < _LATEST * 1_000_000)
    return pl.select(pl.when(legal).then(times)).to_series().cast(UTC).alias(column.name)


def zone_names() -> set[str]:
    """Return the names of the time zones that times can be read in."""
    return available_timezones().difference(NO_ZONES)


def given_times(column: pl.Series, cfg: DataConfig, place: str, why: str) -> pl.Series:
    """Return the times of a table beside the events, null where none is given, whatever format the events have.

    Args:
        column: Of the table.
        cfg: With the time zone of times that name none.
        place: Of the table, for messages.
        why: What would be wrong without such a time.

    Raises:
        DataError: A time that is given and cannot be read.
    """
    times = to_utc(column, replace(cfg, timestamp_format=None, timestamp_unit="auto"), place)
    unread = column.filter(times.is_null() & is_given(column))
    if len(unread):
        raise DataError(
            f"{place}, column '{column.name}': {len(unread):,} times cannot be read, such as {unread[0]!r}; legal: ISO"
            f" times, epoch numbers or dates, whatever the events' format. Correct them: {why}."
        )
    return times


def _wide(column: pl.Series) -> pl.Series:
    """Return numbers as Int64 or Float64, in which the bounds of every unit fit; what does not fit is null."""
    if column.dtype.is_integer():
        return column.cast(pl.Int64, strict=False)
    return column.cast(pl.Float64) if column.dtype.is_numeric() else column


def _integers(column: pl.Series) -> pl.Series:
    """Return text as integers, null where it is none; other types as they are."""
    if column.dtype not in (pl.String, pl.Categorical, pl.Enum):
        return column
    return column.cast(pl.String).str.strip_chars().cast(pl.Int64, strict=False)


def _digits(column: pl.Series) -> pl.Series:
    """Return whole numbers as text, 20171108.0 as 20171108; null where there is a fraction."""
    whole = column.cast(pl.Int64, strict=False)
    return pl.select(pl.when(whole == column).then(whole)).to_series().cast(pl.String)


def _refuse_small_numbers(column: pl.Series, cfg: DataConfig, place: str, numbers: Numbers) -> None:
    """20171108 read as epoch seconds would be a day in August 1970, the numbers of days a minute in January."""
    if cfg.timestamp_format or cfg.timestamp_unit != "auto" or not (numbers.are_dates or numbers.are_early):
        return
    known = _integers(column)
    if numbers.are_dates:
        first = next(iter(known.filter(known.is_between(*_CALENDAR))), None)
        raise DataError(
            f"{place}, column '{column.name}': the numbers look like calendar dates (first: {first}); of events set"
            " data.timestamp_format=%Y%m%d, or data.timestamp_unit=s if they are epoch seconds of 1970; elsewhere write"
            " 2017-11-08."
        )
    first = next(iter(known.filter(known.abs() < _FIRST_SHOPS)), None)
    raise DataError(
        f"{place}, column '{column.name}': most of the numbers (first: {first}) would be seconds before 1980; do they"
        " count days, months or rows, or are they years or dates of a spreadsheet? Write dates, such as 2017-11-08, or"
        " set data.timestamp_unit=s for events if they are epoch seconds all the same."
    )


def _from_epoch(column: pl.Series, cfg: DataConfig, numbers: Numbers) -> pl.Series:
    unit = cfg.timestamp_unit if cfg.timestamp_unit != "auto" else numbers.unit
    scale = _UNITS[unit]
    # Bounds first: a wild number times 10^6 would wrap around and come back as a legal time.
    legal = column.is_between(int(_EARLIEST * scale), int(_LATEST * scale))
    known = pl.select(pl.when(legal).then(column)).to_series()
    if unit == "ns":
        known = known // 1000
    elif known.dtype.is_float():
        known = (known * (1e6 / scale)).round()
    else:
        known = known.cast(pl.Int64) * int(1e6 / scale)
    return known.cast(pl.Int64).cast(UTC)


def _from_text(text: pl.Series, cfg: DataConfig, numbers: Numbers) -> pl.Series:
    if cfg.timestamp_format is not None:
        if any(z in cfg.timestamp_format for z in ("%z", "%:z", "%#z")):
            return text.str.to_datetime(cfg.timestamp_format, strict=False, time_unit="us", time_zone="UTC")
        return _localize(text.str.to_datetime(cfg.timestamp_format, strict=False, time_unit="us"), cfg)
    if numbers.are_most:
        return _from_epoch(text.cast(pl.Int64, strict=False), cfg, numbers)
    iso = text.str.replace(r"^([^ T]+)[ T]+", "${1}T").str.replace(r" ?(UTC|GMT|Z|z)$", "+00:00")
    is_aware = iso.str.contains(r"T.*[+-]\d{2}:?(\d{2})?$")
    with_zone = iso.filter(is_aware.fill_null(False))
    minutes = with_zone.str.extract(_OFFSET, 2).fill_null("00")
    iso_zone = with_zone.str.replace(" ?" + _OFFSET, "") + with_zone.str.extract(_OFFSET, 1) + ":" + minutes
    without_seconds = iso_zone.str.replace(r"T(\d{2}:\d{2})([+-])", "T${1}:00${2}")
    aware = without_seconds.str.to_datetime(_AWARE, strict=False, time_unit="us", time_zone="UTC")
    if len(aware) == len(text):
        return aware
    naive = iso.str.to_datetime(_NAIVE[0], strict=False, time_unit="us")
    for form in _NAIVE[1:]:
        if naive.null_count() > text.null_count():
            other = iso.str.to_datetime(form, strict=False, time_unit="us")
            naive = naive.to_frame("t").select(pl.col("t").fill_null(other)).to_series()
    times = _localize(naive, cfg)
    if len(aware) == 0:
        return times
    return times.scatter(is_aware.fill_null(False).arg_true(), aware.cast(times.dtype))


def _localize(naive: pl.Series, cfg: DataConfig) -> pl.Series:
    times = _in_zone(naive, cfg.timezone)
    if times.null_count() == naive.null_count():
        return times
    # The offset of the evening before, which holds until the clocks go forward.
    dawn = _in_zone(naive.dt.offset_by("-3h"), cfg.timezone).dt.offset_by("3h")
    is_day = naive == naive.dt.truncate("1d")
    return pl.select(pl.when(is_day & times.is_null()).then(dawn).otherwise(times)).to_series()


def _in_zone(naive: pl.Series, zone: str) -> pl.Series:
    zoned = naive.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    return zoned.dt.convert_time_zone("UTC")
