"""Files that are whole or not there: written beside their place, forced to the disk, then renamed."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import polars as pl

from recsys.errors import DataError


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Give a temporary file to write, in the folder of ``path``; it takes that place when the block ends well.

    The folder is made where it is missing. After an error the place is as it was, and the temporary file gone.

    Raises:
        OSError: The place cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


@contextmanager
def replacing(path: Path, what: str = "file") -> Iterator[Path]:
    """Do as :func:`beside`, and say what could not be written, and where.

    Raises:
        DataError: The place cannot be written to.
    """
    try:
        with beside(path) as temporary:
            yield temporary
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{path}: the {what} cannot be written: {error}. Free some space there, or choose another place."
        ) from error


def write_whole(path: Path, content: bytes, what: str = "file") -> Path:
    """Write a file, whole or not at all, and return its path.

    Raises:
        DataError: The place cannot be written to.
    """
    with replacing(path, what) as temporary:
        temporary.write_bytes(content)
    return path


def write_all(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write files by name into a folder, each whole or not at all, and return their paths.

    Raises:
        DataError: The folder cannot be written to.
    """
    return [write_whole(folder / name, content) for name, content in contents.items()]


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hashes(place: Path) -> dict[str, str]:
    """Return the SHA-256 of a file, or of every file below a folder, by path as text; empty when nothing is there."""
    files = sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place] * place.is_file()
    return {str(file): sha256(file) for file in files}
