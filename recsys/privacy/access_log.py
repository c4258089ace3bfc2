"""An append-only log of who read whose data: JSON lines, each with the hash of the one before, so that edits show.

A line that was changed, removed or moved breaks the chain after it. The end of the file cannot be proven by the file
itself: keep :attr:`Chain.head` elsewhere, as the receipts of erasures do.
"""

import fcntl
import hashlib
import json
import os
import platform
import pwd
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from recsys.errors import DataError

START = "0" * 64
"""What the first line follows."""


@dataclass(frozen=True)
class Chain:
    """A log whose lines follow each other.

    Attributes:
        entries: The lines, oldest first.
        head: Hash of the last line.
    """

    entries: list[dict[str, Any]]
    head: str


def log_access(
    path: str | Path,
    verb: str,
    *,
    columns: Mapping[str, Sequence[str]],
    users: int,
    purpose: str,
    run: str,
) -> str:
    """Append one line and return its hash; several processes may write at a time.

    Args:
        path: Of the log; made, with its folder, where it is missing.
        verb: What was done, such as ``train``.
        columns: Table -> names of the columns that were read.
        users: How many people the data are about.
        purpose: That the data were read for.
        run: Where the results lie.

    Raises:
        DataError: The log cannot be written: without it, nothing shall be read.
    """
    place = Path(path).expanduser()
    entry = {
        "when": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "who": f"{_user()}@{platform.node()}",
        "what": verb,
        "columns": {table: list(names) for table, names in columns.items()},
        "users": users,
        "purpose": purpose,
        "run": run,
    }
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file closes
            line = _line(entry | {"previous": _head(file)})
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DataError(
            f"access log {place}: cannot be written ({error.strerror}); nothing is read without it. Free some space or"
            " choose another file."
        ) from error
    return _hash(line)


def verify_log(path: str | Path, holds: str | None = None) -> Chain:
    """Read the log and check every link.

    Args:
        path: Of the log.
        holds: The hash of a line that must be there, such as the head that a receipt names.

    Raises:
        DataError: The file cannot be read, lacks that line, or names the first that does not follow the one before.
    """
    place = Path(path).expanduser()
    try:
        lines = place.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise DataError(f"access log {place}: cannot be read ({error.strerror}).") from error
    head, entries, met = START, [], holds is None
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            follows = entry["previous"] == head and line == _line(entry)
        except (ValueError, KeyError, TypeError):
            follows = False
        if not follows:
            raise DataError(
                f"access log {place}: line {number} does not follow the one before; one of the two was changed, moved"
                " or removed. Compare with a copy."
            )
        head = _hash(line)
        met |= head == holds
        entries.append(entry)
    if not met:
        raise DataError(f"access log {place}: its end was cut off; the line with the hash {holds} is not there.")
    return Chain(entries, head)


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, sort_keys=True).encode() + b"\n"


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _head(file: BinaryIO) -> str:
    """Return the hash of the last line; one without an end was cut off by a crash, and is taken back."""
    file.seek(0)
    last, whole = b"", 0
    for line in file:
        if line.endswith(b"\n"):
            last, whole = line, whole + len(line)
    file.truncate(whole)
    file.seek(0, os.SEEK_END)
    return _hash(last) if last else START


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run as a number
        return str(os.getuid())
