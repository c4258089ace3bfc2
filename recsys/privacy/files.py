"""Small files, each whole or not there."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from recsys.errors import DataError


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file beside its place, force it to the disk, rename it, and return its path.

    Raises:
        DataError: The place cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise DataError(
            f"{path}: cannot be written ({error.strerror}); free some space or choose another place."
        ) from error


def hashes(place: Path) -> dict[str, str]:
    """Return the SHA-256 of a file, or of every file below a folder, by path as text; empty when nothing is there."""
    files = sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place] * place.is_file()
    found = {}
    for file in files:
        with file.open("rb") as stream:
            found[str(file)] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found
