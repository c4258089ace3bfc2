"""A look at a table without reading it: files, rows as its metadata tell them, and rows from several of its places."""

import io
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import polars as pl

from recsys.config.data import DataConfig
from recsys.data.files import locate, place_of, reading, scan, separator_of
from recsys.data.sources import columns_of
from recsys.errors import DataError

SAMPLE_ROWS = 20_000
"""Rows of a table that are looked at, at most."""
PIECES = 10
"""Places that they come from: a table is often sorted by time, and so its ends are others than its middle."""
PIECE_BYTES = 2**19
"""Of a CSV file at one place, about."""
SMALL_BYTES = 2 * 2**20
"""A CSV table of no more is read as a whole: its rows cannot be counted otherwise."""
PLAIN, PACKED = (".csv", ".tsv"), 4
"""Endings of CSV files whose bytes are their text, and how many times the text of others is longer than their bytes."""


@dataclass(frozen=True)
class Glimpse:
    """What is known of a table.

    Attributes:
        key: Of the configuration, below ``data``.
        path: As in the configuration.
        kind: parquet, csv or arrow.
        files: How many.
        size: Bytes of them; None where they do not lie on a disk.
        columns: Standard name to column of the source, of what would be read.
        unused: Columns of the source that would not.
        sample: Some rows, or all, under their names in the source.
        rows: How many there are.
        is_counted: Whether that is known, not estimated from the sample.
        is_spread: Whether the sample comes from all over the table, not from its beginning alone.
    """

    key: str
    path: str
    kind: str
    files: int
    size: int | None
    columns: dict[str, str]
    unused: tuple[str, ...]
    sample: pl.DataFrame
    rows: int
    is_counted: bool
    is_spread: bool = True

    @property
    def is_whole(self) -> bool:
        """Whether the sample has all rows."""
        return self.is_counted and len(self.sample) == self.rows

    @property
    def share(self) -> float:
        """Of the rows that are in the sample, in (0, 1]."""
        return len(self.sample) / max(self.rows, len(self.sample), 1)


@dataclass(frozen=True)
class Header:
    """A table that can be opened and has the columns that the configuration names."""

    key: str
    path: str
    columns: dict[str, str]
    unused: tuple[str, ...]


def header(key: str, path: str, cfg: DataConfig) -> Header:
    """Find a table and compare its columns with the configuration; no row is read.

    Raises:
        ConfigError: ``data.columns`` names a standard column that does not exist.
        DataError: Missing file, unreadable format, or a column that is required or named but not there.
    """
    available = scan(key, path).collect_schema().names()
    columns = columns_of(key, cfg, available)
    if key == "items" and cfg.cleaning.item_time in available:
        columns.setdefault(str(cfg.cleaning.item_time), str(cfg.cleaning.item_time))
    used = {*columns.values()}
    return Header(key, path, columns, tuple(name for name in available if name not in used))


def glimpse(found: Header, most: int = SAMPLE_ROWS) -> Glimpse:
    """Read some rows of a table.

    Args:
        found: Of the table.
        most: Rows that are read, about.

    Raises:
        DataError: They cannot be read.
    """
    key, path = found.key, found.path
    files, kind = locate(key, path)
    size = None if "://" in files[0] else sum(Path(file).stat().st_size for file in files)
    names = list(dict.fromkeys(found.columns.values()))
    with reading(key, path):
        lazy = scan(key, path).select(names)
        if kind == "csv":
            rows, total, counted, spread = _some_csv(lazy, files, size, names, most)
        else:
            (rows, total, counted), spread = _some_rows(lazy, most), True
    if rows.is_empty():
        raise DataError(f"{place_of(key, path)}: the table has no rows.")
    return Glimpse(key, path, kind, len(files), size, found.columns, found.unused, rows, total, counted, spread)


def _some_rows(lazy: pl.LazyFrame, most: int) -> tuple[pl.DataFrame, int, bool]:
    """Return rows of a Parquet or Arrow table, whose metadata tell how many there are."""
    total = int(lazy.select(pl.len()).collect().item())
    if total <= most:
        return lazy.collect(), total, True
    each = max(most // PIECES, 1)
    starts = [number * (total - each) // (PIECES - 1) for number in range(PIECES)]
    return pl.concat([lazy.slice(start, each).collect() for start in starts]), total, True


def _some_csv(
    lazy: pl.LazyFrame, files: Sequence[str], size: int | None, names: Sequence[str], most: int
) -> tuple[pl.DataFrame, int, bool, bool]:
    """Return rows of a CSV table as text, how many there are by their length, if it is sure, and if they are spread."""
    plain = size is not None and all(file.lower().endswith(PLAIN) for file in files)
    if size is not None and plain and size <= SMALL_BYTES:
        rows = lazy.collect()
        return rows, len(rows), True, True
    if size is not None and plain:
        pieces = list(_pieces(files, size, max(most // PIECES, 1)))
        mean = sum(len(body) for _, body in pieces) / max(sum(body.count(b"\n") for _, body in pieces), 1)
        total = int(size / max(mean, 1))
        # A line break inside quotes is none: then only the beginning of a file is surely the beginning of a line.
        if not any(b'"' in body for _, body in pieces):
            separator = separator_of(files[0])
            frames = (
                pl.read_csv(io.BytesIO(first + body), separator=separator, infer_schema=False).select(names)
                for first, body in pieces
            )
            return pl.concat(frames), total, False, True
        return lazy.head(most).collect(), total, False, False
    rows = lazy.head(most + 1).collect()
    if len(rows) <= most:
        return rows, len(rows), True, True
    mean = len(rows[:most].write_csv(include_header=False)) / most
    return rows[:most], max(int(PACKED * (size or 0) / max(mean, 1)), len(rows)), False, False


def _pieces(files: Sequence[str], size: int, lines: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield a header, and whole lines below it, from evenly spread places of all files; no line twice."""
    ends = list(accumulate(Path(file).stat().st_size for file in files))
    places = [number * max(size - PIECE_BYTES, 0) // (PIECES - 1) for number in range(PIECES)]
    for number, (place, until) in enumerate(pairwise([*places, size])):
        which = bisect_right(ends, place)
        begin = ends[which - 1] if which else 0
        at = place - begin
        with Path(files[which]).open("rb") as stream:
            first = stream.readline()
            if at > len(first):
                stream.seek(at - 1)
                stream.readline()
            first_line = begin + stream.tell()
            read = stream.readlines(PIECE_BYTES)
            starts = accumulate(map(len, read), initial=first_line)
            read = [line for line, its in zip(read, starts, strict=False) if its < until]
            body = b"".join(read[-lines:] if number == PIECES - 1 else read[:lines])
        if body:
            yield first, body if body.endswith(b"\n") else body + b"\n"
