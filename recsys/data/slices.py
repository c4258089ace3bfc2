"""The events of the source in slices of bounded size, each split by user once and kept.

A slice is known by the content of its file, so that a new file of a new day makes new slices and leaves the others.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from recsys.columns import USER_ID
from recsys.config.data import DataConfig
from recsys.data.content import file_digest
from recsys.data.dtypes import NARROW, cast_text, narrowest, plain_id, without_blanks
from recsys.data.files import below, locate, place_of, reading, scan
from recsys.data.part import look
from recsys.data.sources import ROW_NUMBER, event_columns, plain_events
from recsys.data.whole import Whole
from recsys.errors import ConfigError, DataError
from recsys.files import folder_beside, take_place, write_whole

SLICE_ROWS = 2_000_000
"""Rows that are read at a time."""
_LAYOUT = 2  # raised whenever slices hold something else
_WIDE = (pl.UInt64, pl.Int128, pl.UInt128)


@dataclass(frozen=True)
class Slice:
    """Some rows of a file: ``rows`` of them from ``offset``; ``first`` rows of the source come before them."""

    file: str
    offset: int
    rows: int
    first: int


def slices(cfg: DataConfig) -> list[Slice]:
    """Return the slices of the events, in the order of the source.

    Raises:
        ConfigError: The events do not lie on a disk.
        DataError: There are none, or they cannot be read.
    """
    path = str(cfg.events)
    files, _ = locate("events", path)
    if "://" in files[0]:
        raise ConfigError(
            f"{place_of('events', path)}: events that are prepared in partitions must lie on a disk; mount it, or"
            " copy them."
        )
    found: list[Slice] = []
    first = 0
    for file in files:
        with reading("events", path):
            rows = scan("events", path, file).select(pl.len()).collect().item()
        offsets = range(0, rows, SLICE_ROWS)
        found += [Slice(file, offset, min(SLICE_ROWS, rows - offset), first + offset) for offset in offsets]
        first += rows
    if not found:
        raise DataError(f"{place_of('events', path)}: the table has no rows.")
    return found


def text_types(cfg: DataConfig, found: Sequence[Slice], folder: Path) -> dict[str, str]:
    """Return the type of each text column of a CSV table, decided over all rows; nothing for other formats.

    Args:
        cfg: Resolved.
        found: All slices.
        folder: What is known of each slice is kept there.
    """
    types: dict[str, str] = {}
    if locate("events", str(cfg.events))[1] != "csv":
        return types
    for piece in found:
        known = folder / f"{slice_key(cfg, piece, {}, 1)}.json"
        if not known.exists():
            text = _read(cfg, piece)
            own = {column.name: narrowest(column) for column in text if column.dtype == pl.String}
            write_whole(known, json.dumps(own).encode())
        for name, kind in json.loads(known.read_text()).items():
            types[name] = max(types.get(name, kind), kind, key=NARROW.index)
    return types


def slice_key(cfg: DataConfig, piece: Slice, types: Mapping[str, str], parts: int) -> str:
    """Name what splitting a slice gives: content and all settings that shape it; 32 hex digits."""
    path = str(cfg.events)
    source = [below(path, piece.file), file_digest(piece.file).hex(), piece.offset, piece.rows]
    shape = [cfg.columns, cfg.context, cfg.item_attributes, cfg.items is None, cfg.timezone_column, cfg.left_out]
    rules = [asdict(rule) for rule in cfg.cleaning.shifted]
    schema = {name: str(dtype) for name, dtype in scan("events", path).collect_schema().items()}
    declared = [feature.get("column") or feature.get("name") for feature in cfg.features or ()]
    # polars promises the same hashes of ids within a version only
    text = json.dumps([_LAYOUT, pl.__version__, source, shape, rules, schema, declared, dict(types), parts])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def split_slice(cfg: DataConfig, piece: Slice, types: Mapping[str, str], parts: int, folder: Path) -> Path:
    """Write the rows of each partition of a slice, and what the rules must know of the whole; once.

    Args:
        cfg: Resolved.
        piece: Of the events.
        types: From :func:`text_types`.
        parts: Number of partitions.
        folder: Of all slices.

    Returns:
        The folder of this one: ``part-KKKK.parquet``, whose rows are numbered from 0, and ``whole.json``.

    Raises:
        DataError: The rows cannot be read, or a column has no legal type.
    """
    path = folder / slice_key(cfg, piece, types, parts)
    if path.is_dir():
        return path
    rows, _ = plain_events(cast_text(_read(cfg, piece), types), cfg)
    rows = rows.with_row_index(ROW_NUMBER)
    looked = look(rows, cfg)
    place = place_of("events", cfg.events)
    straight = looked.straight.events
    whole = Whole.of(straight, looked.source, place)
    part = straight.select(ROW_NUMBER, _part=part_of(straight[USER_ID], parts, place))
    split = rows.join(part, on=ROW_NUMBER, how="left", maintain_order="left").with_columns(pl.col("_part").fill_null(0))
    with folder_beside(path) as temporary:
        for number in range(parts):
            own = split.filter(pl.col("_part") == number).drop("_part")
            own.write_parquet(temporary / f"part-{number:04}.parquet", compression="lz4")
        (temporary / "whole.json").write_text(json.dumps(asdict(whole)))
        take_place(temporary, path)
    return path


def part_of(users: pl.Series, parts: int, place: str) -> pl.Series:
    """Return the partition of each user, UInt64; 0 where there is none. The same user is always in the same one."""
    ids = plain_id(users, place)
    ids = ids.cast(pl.String) if users.dtype in _WIDE else ids  # these are text in some slices
    return (ids.hash() % parts).zip_with(ids.is_not_null(), pl.select(pl.lit(0, pl.UInt64)).to_series())


def read_whole(folder: Path) -> Whole:
    """Return what the rules must know of a slice that has been split."""
    return Whole.from_dict(json.loads((folder / "whole.json").read_text()))


def no_events(cfg: DataConfig, types: Mapping[str, str]) -> pl.DataFrame:
    """Return the events as read, without any rows; ``types`` are from :func:`text_types`."""
    return cast_text(_opened(cfg, None).head(0).collect(), types)


def read_part(folders: Sequence[Path], firsts: Sequence[int], number: int) -> pl.DataFrame:
    """Return the rows of a partition, numbered from 1 as in the source.

    Args:
        folders: Of the slices, in the order of the source.
        firsts: How many rows come before each.
        number: Of the partition.
    """
    index = pl.get_index_type()
    return pl.concat(
        pl.read_parquet(folder / f"part-{number:04}.parquet").with_columns(
            (pl.col(ROW_NUMBER).cast(pl.Int64) + first + 1).cast(index)
        )
        for folder, first in zip(folders, firsts, strict=True)
    )


def _read(cfg: DataConfig, piece: Slice) -> pl.DataFrame:
    with reading("events", str(cfg.events)):
        own, schema = _opened(cfg, piece.file), _opened(cfg, None).collect_schema()
        if own.collect_schema() != schema:
            raise DataError(
                f"{place_of('events', cfg.events)}: {piece.file} has columns of other types than the first file; found"
                f" {dict(own.collect_schema())}, there {dict(schema)}. Write all files with the same types."
            )
        rows = own.slice(piece.offset, piece.rows).collect()
    return without_blanks(rows) if locate("events", str(cfg.events))[1] == "csv" else rows


def _opened(cfg: DataConfig, file: str | None) -> pl.LazyFrame:
    path = str(cfg.events)
    columns, _, _ = event_columns(cfg, scan("events", path).collect_schema().names())
    return scan("events", path, file).select(pl.col(source).alias(name) for name, source in columns.items())
