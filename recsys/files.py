"""Files that are whole or not there: written beside their place, forced to the disk, then renamed; folders, too."""

import errno
import fcntl
import hashlib
import json
import logging
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from recsys.errors import DataError

NODE = platform.node()
_STALE_SECONDS = 86_400
_EXISTS = (errno.ENOTEMPTY, errno.EEXIST)
_log = logging.getLogger(__name__)


def json_bytes(value: Any) -> bytes:
    """Return JSON data as a text file holds it."""
    return (json.dumps(value, indent=1) + "\n").encode()


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Give a temporary file to write, in the folder of ``path``; it takes that place when the block ends well.

    The folder is made where it is missing. After an error the place is as it was, and the temporary file gone.

    Raises:
        OSError: The place cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{NODE}.{os.getpid()}.0.tmp")
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
    from polars.exceptions import PolarsError  # a bare training node lacks Polars

    try:
        with beside(path) as temporary:
            yield temporary
    except (OSError, PolarsError) as error:
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


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill, beside ``path``; it is for the block to rename it, and gone after the block.

    What interrupted runs have left for this path is removed first.

    Raises:
        OSError: The place cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, path.name)
    owner = f".{path.name}.{NODE}.{os.getpid()}."
    temporary = Path(tempfile.mkdtemp(prefix=owner, suffix=".tmp", dir=path.parent))
    temporary.chmod(0o755)  # mkdtemp's folder is private, a shared one is not
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Let one process at a time run the block, of all that name the same folder; the others wait.

    Raises:
        OSError: The folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file closes, or the process ends
        yield


def take_place(temporary: Path, path: Path) -> bool:
    """Rename a finished folder to ``path``; return whether the place was free. What is there stays."""
    try:
        temporary.rename(path)
    except OSError as error:
        if error.errno not in _EXISTS:
            raise
        return False
    return True


def remove_leftovers(parent: Path, name: str) -> None:
    """Remove what interrupted runs left half done: their process on this node is gone, or it is a day old.

    Args:
        parent: Where it lies.
        name: That the folder or file was to have; a glob.
    """
    for left in parent.glob(f".{name}.*.tmp"):
        owner, process, _, _ = left.name.rsplit(".", 3)
        is_ours = owner.endswith(f".{NODE}") and process.isdigit()
        with suppress(FileNotFoundError):  # it has taken its place meanwhile
            if (is_ours and not _is_running(int(process))) or time.time() - left.stat().st_mtime > _STALE_SECONDS:
                _log.info("removing %s, left by an interrupted run", left)
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink()


def remove_leftovers_below(root: Path) -> None:
    """Do as :func:`remove_leftovers` in a folder and in all below it."""
    for folder in sorted({left.parent for left in root.rglob(".*.*.tmp")}):
        remove_leftovers(folder, "*")


def _is_running(process: int) -> bool:
    """Tell whether another process of this number exists; our own has made no folder yet."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
