"""Look for people in files: every byte for ids that are long enough to mean something, else the places of ids."""

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import polars as pl

from recsys.columns import USER_ID
from recsys.privacy.erased import as_text

LONG = 6
"""An id of so many characters is looked for in every byte; a shorter one, such as 17, is found everywhere."""
WORD = r"(?<![0-9A-Za-z_]){0}(?![0-9A-Za-z_])"
"""How a text names a person: no letter or digit continues the id."""
NUMBER = r"""^{0}\s*$|(["']){0}\1|\buser(?:s|_id)?["']?\s*[:=]\s*\[?{0}(?![\w.])"""
"""How a text names a person whose id is a number, for most numbers count something: on a line of its own, in quotes, or
behind the word."""
CHUNK = 2**26
_ID_FILES = ("user_embeddings.parquet", f"vocabularies/{USER_ID}.parquet")
"""Parts of a bundle whose only column of ids has another name."""


def traces(place: Path, users: Collection[str]) -> list[str]:
    """Return the files at or below a place that still name one of the users, and tables that cannot be read.

    Parquet is read, since its bytes are compressed; of all else the bytes are searched, as :data:`WORD` says, and for
    numbers, but in a CSV table with a column of user ids, as :data:`NUMBER`.

    Args:
        place: A file or folder; one that is not there holds nobody.
        users: Ids as text, and pseudonyms.
    """
    files = sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place] * place.is_file()
    search = Search(users)
    return [str(path) for path in files if search.finds(path)]


class Search:
    """Ids to look for, prepared once for many files.

    Args:
        users: Ids as text, and pseudonyms.
    """

    def __init__(self, users: Collection[str]) -> None:
        self.users = sorted(users)
        long = [user for user in self.users if len(user.strip()) >= LONG]
        # as text, as the characters that its bytes are read as, and as JSON writes it
        forms = ((user, user.encode().decode("latin-1"), json.dumps(user)[1:-1]) for user in long)
        self.long = sorted({form for user in forms for form in user})

    def finds(self, path: Path) -> bool:
        """Return whether a file names one of them, or is a table that cannot be read, such as half of one."""
        if path.suffix == ".parquet" or (path.suffix == ".tmp" and ".parquet" in path.suffixes):
            try:
                return self._in_table(path)
            except pl.exceptions.PolarsError:
                return True
        if path.name == "sample.json" and self._in_sample(path):
            return True
        number = WORD if _has_users(path) else NUMBER
        return any(self._in_text(chunk, number) for chunk in _chunks(path, max(map(len, self.long), default=0)))

    def _in_table(self, path: Path) -> bool:
        for column in pl.read_parquet(path):
            if column.name == USER_ID or path.as_posix().endswith(_ID_FILES):
                plain = not column.dtype.is_nested()
                if plain and as_text(column).is_in(self.users).any():
                    return True
            text = column.drop_nulls().unique() if column.dtype == pl.String else None
            if text is not None and any(self._in_text(cell) for cell in _candidates(text, self.long)):
                return True
        return False

    def _in_sample(self, path: Path) -> bool:
        requests = json.loads(path.read_text(encoding="utf-8")).get("requests", [])
        return any(str(request.get(USER_ID)) in self.users for request in requests)

    def _in_text(self, text: str, number: str = NUMBER) -> bool:
        """Look for whole names; an automaton first, since there may be many."""
        if not self.long:
            return False
        found = pl.DataFrame({"text": [text]}).select(pl.col("text").str.extract_many(self.long, overlapping=True))
        return any(
            re.search((number if name.isdecimal() else WORD).format(re.escape(name)), text, re.MULTILINE)
            for name in found.to_series().explode().drop_nulls().unique()
        )


def _has_users(path: Path) -> bool:
    if path.suffix.lower() != ".csv":
        return False
    with path.open("rb") as file:
        return USER_ID.encode() in file.readline()


def _candidates(text: pl.Series, names: list[str]) -> list[str]:
    if not names:
        return []
    return text.to_frame("text").filter(pl.col("text").str.contains_any(names))["text"].to_list()


def _chunks(path: Path, overlap: int) -> Iterator[str]:
    """Yield the bytes of a file as characters of their own, in pieces that overlap by more than a name is long."""
    tail = b""
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            yield (tail + piece).decode("latin-1")
            tail = (tail + piece)[-(4 * overlap + 2) :]
