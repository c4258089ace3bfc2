"""Pseudonyms: keyed HMAC-SHA-256 of user ids. The key lies elsewhere, and is neither stored, nor logged, nor shown."""

import hmac
import os
from collections.abc import Callable
from pathlib import Path

import polars as pl

from recsys.errors import ConfigError

MIN_BYTES = 16
"""Of a key; a shorter one can be guessed."""
_CONSTANT = b"recsys: which key"


def read_key(place: str, name: str = "data.privacy.pseudonym_key") -> bytes:
    """Return the key that lies at ``file:PATH`` or ``env:NAME``; white space around it does not count.

    Args:
        place: As in the configuration.
        name: Of the configuration's key, for messages.

    Raises:
        ConfigError: Nothing is there, or it is shorter than 16 bytes.
    """
    kind, _, where = place.partition(":")
    if kind == "file":
        try:
            key = Path(where).expanduser().read_bytes().strip()
        except OSError as error:
            raise ConfigError(f"{name}={place}: cannot be read ({error.strerror}); give the key's file.") from error
    elif kind == "env":
        key = os.environ.get(where, "").strip().encode()
        if not key:
            raise ConfigError(f"{name}={place}: the environment variable is not set; set it to the key.")
    else:  # what is given may be the key itself, so it is not shown
        raise ConfigError(f"{name}: must say where the key lies, file:PATH or env:NAME, and never be the key itself.")
    if len(key) < MIN_BYTES:
        raise ConfigError(
            f"{name}={place}: a key of {len(key)} bytes; at least {MIN_BYTES} random ones are needed, such as the"
            " output of: openssl rand -hex 32"
        )
    return key


def key_digest(key: bytes) -> str:
    """Return what tells one key from another and says nothing about either: the HMAC of a constant, 32 hex digits."""
    return hmac.digest(key, _CONSTANT, "sha256").hex()[:32]


def pseudonym(key: bytes, user: str) -> str:
    """Return the HMAC-SHA-256 of a user id as text, 64 hex digits."""
    return hmac.digest(key, user.encode(), "sha256").hex()


def pseudonyms(ids: pl.Series, key: bytes) -> pl.Series:
    """Replace user ids by their pseudonyms, String of the same length and name; each distinct id is hashed once."""
    return each_distinct(ids, lambda user: pseudonym(key, user))


def each_distinct(ids: pl.Series, hashed: Callable[[str], str]) -> pl.Series:
    """Apply a function of text to every distinct id and return the result a row; null stays null."""
    distinct = ids.drop_nulls().unique()
    results = [hashed(user) for user in distinct.cast(pl.String).to_list()]
    table = pl.DataFrame({"id": distinct, "result": pl.Series(results, dtype=pl.String)})
    asked = pl.DataFrame({"id": ids})
    return asked.join(table, on="id", how="left", maintain_order="left")["result"].rename(ids.name)
