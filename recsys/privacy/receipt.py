"""The receipt of an erasure: what was touched, its hashes before and after, and what is left to do. It names nobody."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recsys.errors import DataError
from recsys.files import hashes, write_whole

SEAL = "sha256"
NOT_COVERED = (
    "What models learned from everybody together stays until they are trained again. Lists that were published to"
    " Redis stay until they expire or are published again. Bundles that were downloaded stay, too: by Bundle.load until"
    " its process ends, or for good if it was killed (recsys-bundle-* among its temporary files); by MLflow itself,"
    " such as for mlflow.pyfunc and mlflow models serve, until somebody deletes them."
)


@dataclass(frozen=True)
class Change:
    """One artifact that was touched.

    Attributes:
        kind: ``list``, ``prepared``, ``rejects``, ``bundle``, ``checkpoints``, ``table``, ``model``, ``run``.
        place: Path or URI.
        action: ``rewritten``, ``deleted``, ``replaced by URI`` or ``pending``.
        before: File -> SHA-256 as it was.
        after: File -> SHA-256 as it is; empty where it is gone.
        on_disk: Whether the files are local, so that the receipt can be verified against them.
    """

    kind: str
    place: str
    action: str
    before: dict[str, str]
    after: dict[str, str] = field(default_factory=dict)
    on_disk: bool = True


@dataclass(frozen=True)
class Checked:
    """What was looked at after everything was done.

    Attributes:
        searched: Every place.
        left: Files that still name somebody, and places that cannot be read.
        bundles: Folder of each bundle that was loaded, answered its golden sample, and its users as strangers.
        in_no_folder: How many of the people no table of the folders named before anything was erased.
    """

    searched: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    bundles: list[str] = field(default_factory=list)
    in_no_folder: int = 0


def write_receipt(path: Path, people: int, changes: Sequence[Change], check: Checked | None, head: str | None) -> Path:
    """Write the receipt and return its path.

    Args:
        path: Of the file.
        people: How many were to be erased.
        changes: What was touched, in order.
        check: What was looked at afterwards; None while the erasure is going on.
        head: Of the access log; it proves later that the log was not cut short.
    """
    content: dict[str, Any] = {
        "about": "receipt of recsys erase",
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "finished": check is not None,
        "people": people,
        "changes": [asdict(change) for change in changes],
        "pending": [change.place for change in changes if change.action == "pending"],
        "check": None if check is None else asdict(check),
        "access_log_head": head,
        "not_covered": NOT_COVERED,
    }
    return write_whole(path, json.dumps(content | {SEAL: _seal(content)}, indent=1).encode() + b"\n")


def verify_receipt(path: Path) -> dict[str, Any]:
    """Compare a receipt with itself and with the disk, and return it.

    Raises:
        DataError: It was changed, its erasure was interrupted, or names the first file that is not as it was left.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        seal = content.pop(SEAL)
        changes = [Change(**change) for change in content["changes"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a receipt of recsys erase ({error}).") from error
    if seal != _seal(content):
        raise DataError(f"{path}: the receipt was changed after it was written.")
    if not content["finished"]:
        raise DataError(f"{path}: the erasure was interrupted; erase the same people again.")
    expected: dict[str, str | None] = {}
    for change in changes:
        if change.on_disk:
            expected |= dict.fromkeys(change.before) | change.after
    for file, digest in expected.items():
        found = hashes(Path(file)).get(file)
        if found != digest:
            state = "is gone" if found is None else "is there again" if digest is None else "has other bytes"
            raise DataError(f"{path}: '{file}' {state}; it was changed after the erasure. Erase again to be sure.")
    return dict(content)


def _seal(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
