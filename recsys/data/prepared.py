"""The prepared data set: clean tables in one folder."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from recsys.columns import USER_ID
from recsys.data.imputation import Imputer
from recsys.data.imputation_store import load_imputer
from recsys.data.spill import Spill
from recsys.data.split import Windows
from recsys.errors import DataError
from recsys.features import FeatureSpec

FORMAT_VERSION = 5
"""Raised whenever the same input would be prepared in another way; older folders are then not reused."""

META = "meta.json"
IN_PARTS = ("events", "impressions")
_WHOLE = ("items", "users", "rejects")


@dataclass(frozen=True)
class Prepared:
    """A clean data set on disk and in memory.

    Attributes:
        path: Its folder.
        fingerprint: Hash of input content, config and format version; 32 hex digits.
        event_parts: The events; all those of a user are in one part. More parts than one stay on the disk.
        events: All of them, read when first asked for: user_id, item_id, timestamp (UTC, microseconds), then
            event_type, basket_id, quantity, value and context columns where given, and the weight of the event's type
            where any is set; sorted by user, time, item. Ids are Int64 or String, as they came.
        items: ``item_id`` and attributes (Int64, Float64 or String), unique, sorted; covers every item of the events.
        users: ``user_id`` and attributes, likewise.
        impression_parts: Likewise.
        impressions: What was shown, once each, with the columns of the events; no part of anybody's history.
        windows: Half-open UTC windows.
        spec: The features, declared or inferred.
        has_item_table: False when items are known only from events; an item can then be recommended as of a cut
            only if an event before it has it.
        relevant: Event types that count as positives; empty: all.
        report: What happened to the rows on the way, JSON data.
        users_at: Attributes that depend on the time, such as segments: cut in microseconds to what ``users`` is as
            of then, the same rows with further columns. None: users are what they are.
        imputers: What filled missing attributes, by ``items`` and ``users``; empty where nothing was asked for.
        spill: Where the interaction log is kept when it is not in memory; None: it is.
    """

    path: Path
    fingerprint: str
    event_parts: tuple[pl.LazyFrame, ...]
    items: pl.DataFrame
    users: pl.DataFrame
    impression_parts: tuple[pl.LazyFrame, ...]
    windows: Windows
    spec: FeatureSpec
    has_item_table: bool
    relevant: tuple[str, ...]
    report: dict[str, Any]
    users_at: Callable[[int], pl.DataFrame] | None = None
    imputers: dict[str, Imputer] = field(default_factory=dict)
    spill: Spill | None = None

    @cached_property
    def events(self) -> pl.DataFrame:
        """See above."""
        return _by_user(self.event_parts)

    @property
    def streamed(self) -> Sequence[pl.LazyFrame]:
        """The events part by part where they need not be in memory together; else all of them, in one."""
        return self.event_parts if self.spill else [self.events.lazy()]

    @cached_property
    def impressions(self) -> pl.DataFrame:
        """See above."""
        return _by_user(self.impression_parts)

    def with_events(self, events: pl.DataFrame) -> "Prepared":
        """Return the data set with other events, in the same order."""
        return replace(self, event_parts=(events.lazy(),))

    def users_as_of(self, cut: int) -> pl.DataFrame:
        """Return the users with their attributes as of a cut, microseconds since 1970 UTC."""
        return self.users if self.users_at is None else self.users_at(cut)


def load_prepared(path: str | Path, lazy: bool = False) -> Prepared:
    """Load a prepared folder; with ``lazy`` events stay on the disk until they are asked for.

    Raises:
        DataError: The folder is missing, incomplete or of another format version.
    """
    folder = Path(path)
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        if meta["format"] != FORMAT_VERSION:
            raise DataError(
                f"{folder}: prepared data of format {meta['format']}, this version reads {FORMAT_VERSION};"
                " run `recsys prepare` again."
            )
        tables = {name: pl.read_parquet(folder / f"{name}.parquet") for name in _WHOLE}
        parts = {name: _open_parts(part_files(folder, name, meta["parts"]), lazy) for name in IN_PARTS}
        imputers = {name: load_imputer(folder / "imputation" / name) for name in meta["imputed"]}
        heights = {name: len(frame) for name, frame in tables.items()}
        heights |= {name: sum(map(_height, frames)) for name, frames in parts.items()}
        if heights != meta["heights"]:
            raise DataError(f"{folder}: row counts {heights} differ from {meta['heights']} as written.")
    except (OSError, ValueError, KeyError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{folder}: not a complete prepared data set ({str(error).strip().splitlines()[0]}); delete the folder and"
            " run `recsys prepare`."
        ) from error
    return Prepared(
        path=folder,
        fingerprint=meta["fingerprint"],
        event_parts=parts["events"],
        items=tables["items"],
        users=tables["users"],
        impression_parts=parts["impressions"],
        windows=Windows(**{f.name: datetime.fromisoformat(meta["windows"][f.name]) for f in fields(Windows)}),
        spec=FeatureSpec.from_list(meta["features"]),
        has_item_table=meta["has_item_table"],
        relevant=tuple(meta["relevant"]),
        report=meta["report"],
        imputers=imputers,
    )


def part_files(folder: Path, name: str, parts: int) -> list[Path]:
    """Return the files of a table that may come in parts."""
    if parts == 1:
        return [folder / f"{name}.parquet"]
    return [folder / name / f"part-{number:04}.parquet" for number in range(parts)]


def _open_parts(files: Sequence[Path], lazy: bool) -> tuple[pl.LazyFrame, ...]:
    """Open a table: what is one file fitted into memory when it was made, and is read."""
    if len(files) == 1 and not lazy:
        return (pl.read_parquet(files[0]).lazy(),)
    return tuple(map(pl.scan_parquet, files))


def _by_user(parts: Sequence[pl.LazyFrame]) -> pl.DataFrame:
    frames = [part.collect() for part in parts]
    return frames[0] if len(frames) == 1 else pl.concat(frames).sort(USER_ID, maintain_order=True)


def _height(frame: pl.LazyFrame) -> int:
    return int(frame.select(pl.len()).collect().item())
