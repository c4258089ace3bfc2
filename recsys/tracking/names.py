"""Names and values as every store of MLflow takes them."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

MAX_KEY, MAX_VALUE = 250, 6000
"""MLflow's limits: characters of a name, characters of a parameter's value."""
MAX_ROWS, MAX_BYTES = 100, 500_000
"""Entries and bytes of one request; MLflow's own limits are 100 parameters and a million bytes."""


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return ``{"a.b": value}`` for nested mappings; lists stay one value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat


def legal_name(name: str) -> str:
    """Return ``name`` as MLflow takes it: letters, digits, ``_ - . : / `` and blanks, 250 characters at most.

    MLflow also reads a name as a path, which must not lead anywhere else: ``a//b``, ``/a``, ``../a`` become ``a/b``,
    ``a``, ``a``.
    """
    clean = re.sub(r"[^\w\-./: ]", "_", name)
    path = "/".join(part for part in clean.split("/") if part not in ("", ".", ".."))
    path = re.sub(r"^\.\.", "__", path)
    return path[:MAX_KEY].rstrip("/") or "_"


def legal_value(value: Any) -> str:
    """Return ``value`` as text of 6,000 characters at most, without what no database takes: NUL, half characters."""
    return str(value).replace("\0", "\ufffd").encode("utf-8", "replace").decode()[:MAX_VALUE]


class Names:
    """Legal names of one run: names that differ stay different, and a name gets the same one every time."""

    def __init__(self) -> None:
        self._owner: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        """Return the legal name, with a hash of the own one where another has it already."""
        legal = legal_name(name)
        if self._owner.setdefault(legal, name) == name:
            return legal
        return f"{legal[: MAX_KEY - 9]}_{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}"


def in_batches(rows: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows in pieces that one request can take, by number and by size."""
    batch: dict[str, Any] = {}
    size = 0
    for key, value in rows.items():
        bytes_of_row = len(json.dumps([key, value]))  # as MLflow sends it: a letter beyond ASCII takes six bytes
        if batch and (len(batch) == MAX_ROWS or size + bytes_of_row > MAX_BYTES):
            yield batch
            batch, size = {}, 0
        batch[key] = value
        size += bytes_of_row
    if batch:
        yield batch
