"""What a run says is written on this disk first, one JSON line each, and stays until the tracking server has it.

FOLDER/KEY/journal.jsonl   one line for each thing said, in order
           sent.json       how many bytes of it the server has, the ids that it gave, what was put off
           files/          copies of files to upload: their originals may change, or go
           refused.jsonl   what the server will never take, with the reason

The folder is gone once the server has everything. A process holds a lock on its journal for as long as it lives, so
that another one can tell a run that goes on from one that was killed.
"""

import fcntl
import json
import logging
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from recsys.errors import DataError
from recsys.files import write_whole

log = logging.getLogger(__name__)

JOURNAL, SENT, REFUSED, FILES = "journal.jsonl", "sent.json", "refused.jsonl", "files"
FOLDER = "tracking"
"""Of journals, in the folder of a run."""

Entry = dict[str, Any]
"""A line: ``kind``, ``run`` (a key of our own, since the server may not have given an id yet), ``time``, and more."""


class Journal:
    """The journal of one process, for its run and the runs below it.

    Attributes:
        folder: Where it lies.
        runs: Key of a run to the id that the server gave it.
        models: Key of an entry to the URI of the version that it became.
        later: Entries that the server could not take when their turn came, such as files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / JOURNAL).open("ab", buffering=0)
        self._lock = threading.Lock()
        self._torn = False
        self._warned = False
        told = json.loads((folder / SENT).read_text()) if (folder / SENT).is_file() else {}
        self._offset: int = told.get("offset", 0)
        self.runs: dict[str, str] = told.get("runs", {})
        self.models: dict[str, str] = told.get("models", {})
        self.later: list[Entry] = told.get("later", [])

    @classmethod
    def begin(cls, folder: Path) -> "Journal":
        """Return a new journal below ``folder``.

        Raises:
            OSError: The folder cannot be written to.
        """
        journal = cls(folder / uuid.uuid4().hex[:12])
        journal.take()
        return journal

    def take(self) -> bool:
        """Lock the journal; return whether it was free, which it is once the process that wrote it has ended."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a disk without locks: nobody can tell, and sending twice does no harm
            pass
        return True

    def append(self, kind: str, run: str, **content: Any) -> str:
        """Write one entry, whole and at once, and return its key; a disk that is full costs the entry, not the job."""
        key = uuid.uuid4().hex[:12]
        entry = {"kind": kind, "run": run, "key": key, "time": int(time.time() * 1000)} | content
        line = json.dumps(entry, default=str).encode() + b"\n"
        with self._lock:
            line = b"\n" + line if self._torn else line  # what was cut off before stays alone on its line
            try:
                self._torn = self._file.write(line) < len(line)
                problem = "no space left" if self._torn else None
            except (OSError, ValueError) as error:  # ValueError: closed
                problem, self._torn = str(error), True
        if problem and not self._warned:
            self._warned = True
            log.warning("%s: cannot be written (%s); the job goes on, its tracking is lost.", self.folder, problem)
        return key

    def copy(self, path: Path) -> str:
        """Copy a file or folder into the journal and return its place there.

        Raises:
            OSError: It cannot be read, or there is no space.
        """
        (self.folder / FILES).mkdir(exist_ok=True)
        place = Path(tempfile.mkdtemp(dir=self.folder / FILES), path.name)
        if path.is_dir():
            shutil.copytree(path, place)
        else:
            shutil.copy2(path, place)
        return str(place.relative_to(self.folder))

    def waiting(self) -> Iterator[tuple[Entry, int]]:
        """Yield entries that have not been sent, each with the place where it ends; a torn last line is not there."""
        end = self._offset
        with (self.folder / JOURNAL).open("rb") as file:
            file.seek(end)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                with suppress(ValueError):  # cut off in the middle by a full disk
                    yield json.loads(line), end

    def count(self) -> int:
        """Return how many entries wait."""
        return sum(1 for _ in self.waiting()) + len(self.later)

    def advance(self, end: int | None = None) -> None:
        """Note on the disk what has been sent, up to ``end``; should that fail, it is sent again, to no harm."""
        self._offset = self._offset if end is None else end
        told = {"offset": self._offset, "runs": self.runs, "models": self.models, "later": self.later}
        with suppress(DataError):
            write_whole(self.folder / SENT, json.dumps(told).encode(), "position of the journal")

    def refuse(self, entry: Entry, reason: str) -> None:
        """Set an entry aside, with the reason, so that it does not hold up the others."""
        log.warning("%s: the tracking server refuses an entry for good: %s", self.folder / REFUSED, reason)
        with suppress(OSError), (self.folder / REFUSED).open("a") as file:
            file.write(json.dumps(entry | {"reason": reason}, default=str) + "\n")

    def uri(self) -> str | None:
        """Return the tracking server that the process began with; None where it was killed before its first line."""
        with (self.folder / JOURNAL).open("rb") as file:
            line = file.readline()
        return json.loads(line)["uri"] if line.endswith(b"\n") else None

    def last_written(self) -> int:
        """Return when the last entry was written, in milliseconds since 1970."""
        return int((self.folder / JOURNAL).stat().st_mtime * 1000)

    def refused(self) -> int:
        """Return how many entries have been set aside."""
        place = self.folder / REFUSED
        return len(place.read_text().splitlines()) if place.is_file() else 0

    def force(self) -> None:
        """Have everything on the disk itself, so that not even a loss of power takes it."""
        with suppress(OSError, ValueError):
            os.fsync(self._file.fileno())

    def discard(self) -> None:
        """Remove the folder if nothing waits in it and nothing was refused."""
        if self.count() == 0 and self.refused() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
            with suppress(OSError):
                self.folder.parent.rmdir()

    def close(self) -> None:
        """Close the file, and give back the lock with it."""
        self._file.close()
