"""Who has been erased: a list of salted hashes beside the prepared data, so that the source cannot bring them back."""

import hashlib
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recsys.errors import DataError
from recsys.files import write_whole
from recsys.privacy.pseudonyms import each_distinct

ERASED = "erased_user"
"""Why an event of such a user is not used."""
FILE = "erased.json"


@dataclass(frozen=True)
class Erased:
    """People who must not come back.

    The hashes keep ids out of sight, not out of reach: who holds the list can try every id that may exist against it.

    Attributes:
        salt: Random, of this list; hexadecimal.
        people: SHA-256 over salt and id, hexadecimal.
    """

    salt: str
    people: frozenset[str] = frozenset()

    @property
    def digest(self) -> str:
        """Name the state of the list, 32 hex digits; empty while nobody is on it."""
        if not self.people:
            return ""
        return hashlib.sha256("\n".join([self.salt, *sorted(self.people)]).encode()).hexdigest()[:32]

    def hash(self, user: str) -> str:
        """Return what the list holds of a user id (as text)."""
        return hashlib.sha256(f"{self.salt}:{user}".encode()).hexdigest()

    def holds(self, ids: pl.Series) -> pl.Series:
        """Return which ids are on the list, bool ``[n]``; a null is not. Each distinct id is hashed once."""
        if not self.people:
            return pl.repeat(False, len(ids), eager=True)
        return each_distinct(ids, self.hash).is_in(sorted(self.people)).fill_null(False)


def as_text(ids: pl.Series) -> pl.Series:
    """Return ids as text; a whole number that came as a float is written as the integer."""
    text = ids.cast(pl.String, strict=False)
    return text.str.strip_suffix(".0") if ids.dtype.is_float() else text


def load_erased(cache_dir: Path) -> Erased:
    """Return the list of a folder of prepared data; without one, a new and empty list.

    Raises:
        DataError: The file is there and is no such list: going on would bring people back.
    """
    path = cache_dir / FILE
    if not path.exists():
        return Erased(secrets.token_hex(32))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Erased(content["salt"], frozenset(content["people"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: the list of erased people cannot be read ({error}); restore it from a copy. Without it, people"
            " who were erased would come back."
        ) from error


def add_erased(cache_dir: Path, users: Iterable[str]) -> Erased:
    """Put users (ids as text) on the list and return it; those who are on it already change nothing.

    Raises:
        DataError: The list cannot be read or written.
    """
    before = load_erased(cache_dir)
    after = Erased(before.salt, before.people | {before.hash(user) for user in users})
    if after != before:
        content = {"about": "SHA-256 of salt:id of erased people", "salt": after.salt, "people": sorted(after.people)}
        write_whole(cache_dir / FILE, json.dumps(content, indent=1).encode())
    return after
