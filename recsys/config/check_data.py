"""Rules of the data's keys that types cannot say: tables, columns, zones, sessions and windows."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from recsys.columns import OPTIONAL_EVENT_COLUMNS, REQUIRED_EVENT_COLUMNS
from recsys.config.check_cleaning import cleaning_problems
from recsys.config.data import NO_ZONES, DataConfig, SessionsConfig, SplitConfig
from recsys.config.privacy import privacy_problems
from recsys.errors import ConfigError, did_you_mean
from recsys.features import FeatureSpec


def data_problems(data: DataConfig) -> Iterator[str]:
    """Yield a message for every rule that is broken."""
    yield from _tables(data)
    yield from _features(data)
    yield from cleaning_problems(data)
    yield from _split(data.split)
    yield from _sessions(data.sessions)
    yield from privacy_problems(data.privacy)


def _tables(data: DataConfig) -> Iterator[str]:
    if data.source == "tables" and not data.events:
        yield "data.events has no value; with data=tables give the file: data.events=PATH"
    if data.source == "completejourney" and (data.events or data.items or data.users):
        yield "data.source=completejourney brings its own tables; for your files use data=tables data.events=PATH"
    attributes = data.item_attributes or []
    declared = [str(feature.get("column") or feature.get("name")) for feature in data.features or ()]
    columns = [*REQUIRED_EVENT_COLUMNS, *OPTIONAL_EVENT_COLUMNS, *data.context, *attributes, *declared]
    for name in data.columns:
        if name not in columns:
            yield (
                f"data.columns.{name}: not a column of the events table.{did_you_mean(name, columns)} "
                f"Legal: {', '.join(columns)}; others go to data.context or data.item_attributes first."
            )
    yield from _zone("data.timezone", data.timezone)


def _features(data: DataConfig) -> Iterator[str]:
    rows = data.features or []
    try:
        FeatureSpec.from_list(rows)
    except ConfigError as error:
        yield f"data.features: {error}"
    declared = [str(row.get("column") or row.get("name")) for row in rows if row.get("side") == "context"]
    both = sorted({*data.context, *declared}.intersection(data.item_attributes or []))
    if both and data.source == "tables" and not data.items:
        yield (
            f"data.item_attributes={both}: the context names them too (data.context, data.features); without data.items"
            " a column of the events describes the item or the moment."
        )


def _zone(key: str, zone: str) -> Iterator[str]:
    # A machine without any time zone database is left to the library that reads the data.
    if zone != "UTC" and available_timezones():
        try:
            ZoneInfo(zone)
            is_known = zone not in NO_ZONES
        except (ZoneInfoNotFoundError, ValueError, OSError):
            is_known = False
        if not is_known:
            yield f"{key}: '{zone}' is not a time zone.{did_you_mean(zone, available_timezones())}"


def _sessions(sessions: SessionsConfig) -> Iterator[str]:
    if sessions.timezone is not None:
        yield from _zone("data.sessions.timezone", sessions.timezone)
    for day in sessions.holidays:
        try:
            date.fromisoformat(day)
        except ValueError:
            yield f"data.sessions.holidays: '{day}' is not a date such as 2024-12-25."
    for name, weight in sessions.weights.items():
        if weight < 0:
            yield f"data.sessions.weights.{name}={weight}: must be 0 or more."


def _split(split: SplitConfig) -> Iterator[str]:
    if split.val + split.test >= 1:
        yield (
            f"data.split.val={split.val} and data.split.test={split.test}: "
            "together they must be below 1, so that something is left to train on."
        )
    if (split.val_start is None) != (split.test_start is None):
        yield "data.split.val_start and data.split.test_start: give both or neither."
    times: list[tuple[str, datetime]] = []
    for key in ("val_start", "test_start", "end"):
        text = getattr(split, key)
        if text is not None:
            try:
                time = datetime.fromisoformat(text)
            except ValueError:
                yield f"data.split.{key}: '{text}' is not an ISO time such as 2024-05-01 or 2024-05-01T06:00:00Z."
                continue
            times.append((key, time if time.tzinfo else time.replace(tzinfo=UTC)))
    for (early, first), (late, second) in pairwise(times):
        if first >= second:
            yield f"data.split.{early}={first.isoformat()} must be before data.split.{late}={second.isoformat()}."
