"""Find and open the files of a table: Parquet, CSV or Arrow, one file, a glob, a directory or a URI."""

import gzip
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from recsys.errors import DataError, did_you_mean

FORMATS = {
    "parquet": ("parquet", "pq"),
    "csv": ("csv", "csv.gz", "csv.zst", "tsv", "tsv.gz", "tsv.zst"),
    "arrow": ("arrow", "ipc", "feather"),
}

_SEPARATORS = "\t;|"
_LONGEST_HEADER = 1_000_000
_SECOND = re.compile(r"(.+)_duplicated_\d+")  # what polars calls a column whose name was there before
_REMEDIES = {
    "invalid utf-8": "text has to be UTF-8: iconv -f LATIN1 -t UTF-8 OLD > NEW",
    "found more fields": "a row has more values than the header names: quote values that hold the separator",
}
"""What polars says of a file, and what to do about it."""


def locate(key: str, path: str) -> tuple[list[str], str]:
    """Return the files of a table in the order of their names, and their format.

    ``path`` is a file, a glob, a directory (searched recursively; what is hidden or a marker, such as ``_SUCCESS`` and
    ``_delta_log``, is passed over) or a URI, which polars resolves itself.
    """
    place = place_of(key, path)
    local = path.removeprefix("file://")
    if "://" in local:
        return [local], _format(local, place)
    at = Path(local).expanduser()
    if at.is_dir():
        found = sorted(
            f for f in at.rglob("*") if f.is_file() and _suffix(f.name) and not _is_hidden(f.relative_to(at))
        )
        if not found:
            raise DataError(f"{place}: the directory holds no file that can be read; legal: {_legal()}.")
    elif at.is_file():
        found = [at]
    elif any(c in local for c in "*?["):
        anchor = Path(at.anchor or ".")
        found = sorted(f for f in anchor.glob(str(at.relative_to(at.anchor))) if f.is_file())
        if not found:
            raise DataError(f"{place}: no file matches this glob; check the path (relative to {Path.cwd()}).")
    else:
        beside = [f.name for f in at.parent.iterdir()] if at.parent.is_dir() else []
        raise DataError(
            f"{place}: no such file or directory.{did_you_mean(at.name, beside)} Set data.{key} to the table."
        )
    formats = {_format(f.name, place) for f in found}
    if len(formats) > 1:
        raise DataError(f"{place}: files of several formats ({', '.join(sorted(formats))}); keep one, or give a glob.")
    return [str(f) for f in found], formats.pop()


def scan(key: str, path: str, only: str | None = None) -> pl.LazyFrame:
    """Open a table without reading it; CSV columns come as text, whose type is decided later.

    Args:
        key: Of the table.
        path: As in the configuration.
        only: One of its files, to be read as it is read among the others.
    """
    files, kind = locate(key, path)
    opened = files if only is None else [only]
    remote = "://" in files[0]  # locate has already resolved what is local
    with reading(key, path):
        if kind == "parquet":
            # Folders such as day=2024-01-01 are columns, but only below the directory that the user named.
            hive = any("=" in part for part in Path(below(path, files[0])).parent.parts)
            types = None
            if hive and only is not None:  # day=7 and day=x are text in both files
                known = pl.scan_parquet(files, hive_partitioning=True, glob=False).collect_schema()
                folders = {part.partition("=")[0] for part in Path(only).parts if "=" in part}
                types = {name: dtype for name, dtype in known.items() if name in folders}
            lazy = pl.scan_parquet(opened, hive_partitioning=hive, hive_schema=types, glob=remote)
            if hive:
                above = [part.partition("=")[0] for part in Path(path).parts if "=" in part]
                own = pl.scan_parquet(files[0], hive_partitioning=False, glob=False).collect_schema()
                lazy = lazy.drop([name for name in above if name not in own])
        elif kind == "csv":
            # Types are decided over all rows: a guess from the first ones depends on the order of rows and files.
            lazy = pl.scan_csv(opened, separator=separator_of(files[0]), infer_schema=False, glob=remote)
        else:
            lazy = pl.scan_ipc(opened, glob=remote)
        names = lazy.collect_schema().names()
    twice = [found[1] for name in names if (found := _SECOND.fullmatch(name)) and found[1] in names]
    if twice:
        raise DataError(f"{place_of(key, path)}: the header names '{twice[0]}' twice; rename one of the columns.")
    return lazy


def separator_of(file: str) -> str:
    """Return what separates the columns of a CSV: a comma, or the tab, ``;`` or ``|`` of a header without one.

    That of files that are elsewhere, or packed by Zstandard, is told by their names.
    """
    by_name = "\t" if ".tsv" in Path(file).name.lower() else ","
    if by_name == "\t" or "://" in file or file.lower().endswith(".zst"):
        return by_name
    with gzip.open(file) if file.lower().endswith(".gz") else Path(file).open("rb") as opened:
        header = opened.readline(_LONGEST_HEADER).decode("utf-8", errors="replace")
    others = [separator for separator in _SEPARATORS if separator in header]
    return by_name if by_name in header or not others else max(others, key=header.count)


@contextmanager
def reading(key: str, path: str) -> Iterator[None]:
    """Turn what polars and the file system raise into a DataError that names the table."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{place_of(key, path)}: cannot be read: {_finding(error)}. Legal: {_legal()}.") from error


def read_file(
    key: str, file: str, columns: Sequence[str] | None = None, also: Sequence[str] = (), **csv: Any
) -> pl.DataFrame:
    """Read a .csv or .parquet file that is given on the command line.

    Args:
        key: Of the configuration, for messages.
        file: Its value.
        columns: That are read; None: all.
        also: Read where they are there.
        csv: How a CSV is read, as ``polars.scan_csv`` takes it.

    Raises:
        DataError: It is not there, cannot be read, or lacks a column.
    """
    path = Path(file)
    try:
        is_csv = path.suffix.lower() == ".csv" and path.is_file()
        table = pl.scan_csv(path, separator=separator_of(file), **csv) if is_csv else pl.scan_parquet(path)
        found = table.collect_schema().names()
        for column in columns or ():
            if column not in found:
                near = did_you_mean(column, found)
                raise DataError(f"{key}={file}: no column '{column}'; columns: {', '.join(found)}.{near}")
        return table.select([*columns, *(c for c in also if c in found)] if columns else found).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        kind = "csv" if path.suffix.lower() == ".csv" else "parquet"
        finding = _finding(error) if path.is_file() else "no such file"
        raise DataError(f"{key}={file}: cannot be read as {kind} ({finding}).") from error


def place_of(key: str, path: str | None) -> str:
    """Return the place of a table for messages: the config key and its value."""
    return f"data.{key}={path}"


def below(path: str, file: str) -> str:
    """Return the file's path below the directory of a table, empty when the table is no directory."""
    top = Path(path.removeprefix("file://")).expanduser()
    return str(Path(file).relative_to(top)) if top.is_dir() else ""


def _is_hidden(file: Path) -> bool:
    """Tell whether a path below a directory is no part of its table; a folder such as ``_day=7`` holds a column."""
    return any(part[0] == "." or (part[0] == "_" and "=" not in part) for part in file.parts)


def _finding(error: Exception) -> str:
    """Return the first line of what polars says, and what to do about it."""
    finding = str(error).strip().split("\n")[0]
    return finding + next((f" ({remedy})" for sign, remedy in _REMEDIES.items() if sign in finding), "")


def _legal() -> str:
    return ", ".join(f"{kind} ({', '.join('.' + s for s in suffixes)})" for kind, suffixes in FORMATS.items())


def _suffix(name: str) -> str | None:
    return next((kind for kind, ends in FORMATS.items() for s in ends if name.lower().endswith("." + s)), None)


def _format(name: str, place: str) -> str:
    kind = _suffix(name)
    if kind is None:
        raise DataError(f"{place}: the ending of '{Path(name).name}' is not one of {_legal()}.")
    return kind
