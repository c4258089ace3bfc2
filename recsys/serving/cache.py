"""Lists of a bundle in Redis, one generation beside the other: readers change over at one moment, and all at once.

::

    NAME:current                  the generation that readers take
    NAME:GENERATION:user:ID       {"generation": ..., "items": [...], "scores": [...]}, the best first
    NAME:GENERATION:segment:VALUE the same for people of a segment who are not known
    NAME:GENERATION:stranger      the same for people of whom nothing is known
    NAME:GENERATION:about         bundle, k, users, when it was made
    NAME:publishing               who is writing

Every key lives for a time: lists that nobody renews shall not be shown for ever.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from recsys.errors import ConfigError, DataError

GENERATION = re.compile(r"\d{8}T\d{12}-[0-9a-f]{8}")
"""What :func:`new_generation` returns; only keys of such are removed, for ``NAME:...`` may be the name of another."""
LOCK_SECONDS = 600
"""That a publisher may be silent before another one may begin."""
SCANNED = 1000
"""Keys that the server looks at for one answer of a scan."""


@dataclass(frozen=True)
class Written:
    """What a publication did.

    Attributes:
        generation: That readers take now.
        lists: Keys with lists.
        pruned: Keys of generations that were given up.
    """

    generation: str
    lists: int
    pruned: int


class Publication:
    """One generation on its way into Redis.

    Args:
        client: Of ``redis``.
        name: That all keys begin with.
        generation: Of :func:`new_generation`.
        seconds: That its keys live.
        keep_seconds: That the generation before it lives on, for readers who have just asked which is current.
    """

    def __init__(self, client: Any, name: str, generation: str, seconds: int, keep_seconds: int) -> None:
        self._client, self._name = client, name
        self.generation, self._seconds, self._keep = generation, seconds, keep_seconds
        self._written = 0

    def write(self, lists: Mapping[str, Mapping[str, Any]]) -> None:
        """Write lists by the end of their keys, such as ``user:7``.

        Raises:
            DataError: The server refused one, or another publisher has taken over.
        """
        pipe = self._client.pipeline(transaction=False)
        for end, content in lists.items():
            text = json.dumps({"generation": self.generation} | dict(content), separators=(",", ":"))
            pipe.set(self._key(end), text, ex=self._seconds)
        pipe.get(f"{self._name}:publishing")
        pipe.expire(f"{self._name}:publishing", LOCK_SECONDS)
        *_, owner, _ = pipe.execute()
        if owner != self.generation:
            raise DataError(
                f"{self._name}:publishing: another publisher ({owner}) has taken over; nothing was switched."
            )
        self._written += len(lists)

    def switch(self, about: Mapping[str, Any]) -> Written:
        """Let readers take this generation, after a look whether all of it is there; the ones before go.

        Raises:
            DataError: Keys are missing.
        """
        self.write({"about": about})
        there = sum(1 for _ in self._keys(self.generation))
        if there != self._written:
            raise DataError(
                f"{self._name}: {self._written:,} keys were written and {there:,} are there: the server evicts or "
                "loses some (maxmemory-policy must not be allkeys-*). Readers stay with the generation before."
            )
        before = self._client.getset(f"{self._name}:current", self.generation)
        self._client.expire(f"{self._name}:current", self._seconds)
        pruned = self._expire(before) if before and before != self.generation else 0
        return Written(self.generation, self._written - 1, pruned + self.prune({before, self.generation}))

    def prune(self, kept: set[str | None]) -> int:
        """Remove keys of all generations but some; returns their number."""
        pruned = 0
        for batch in _batches(self._keys("*"), SCANNED):
            parts = {key: key.removeprefix(f"{self._name}:").split(":")[0] for key in batch}
            gone = [key for key, part in parts.items() if GENERATION.fullmatch(part) and part not in kept]
            pruned += self._client.unlink(*gone) if gone else 0
        return pruned

    def _expire(self, generation: str) -> int:
        """Let the keys of a generation go soon; returns their number."""
        count = 0
        for batch in _batches(self._keys(generation), SCANNED):
            pipe = self._client.pipeline(transaction=False)
            for key in batch:
                pipe.expire(key, self._keep)
            count += len(pipe.execute())
        return count

    def _key(self, end: str) -> str:
        return f"{self._name}:{self.generation}:{end}"

    def _keys(self, generation: str) -> Iterator[str]:
        """Yield the keys of a generation, or of all, each once."""
        seen: set[str] = set()
        for key in self._client.scan_iter(f"{_literal(self._name)}:{generation}:*", count=SCANNED):
            if key not in seen:
                seen.add(key)
                yield key


def new_generation(fingerprint: str) -> str:
    """Return a generation that nobody has used before: the time, and the bundle's fingerprint in short."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{fingerprint[:8]}"


@contextmanager
def publication(url: str, name: str, generation: str, seconds: int, keep_seconds: int) -> Iterator[Publication]:
    """Open a generation; where the block fails, its keys are removed and readers stay with the one before.

    Args:
        url: ``redis://[user:password@]host:port/db``, or ``rediss://``.
        name: That all keys begin with.
        generation: Of :func:`new_generation`.
        seconds: That its keys live.
        keep_seconds: That the generation before it lives on.

    Raises:
        ConfigError: The client is not installed, or the URL is none.
        DataError: The server does not answer or refuses, or another publisher is at work.
    """
    try:
        import redis
    except ImportError as error:
        raise ConfigError("publish: the client of Redis is not installed; pip install 'recsys[redis]'.") from error
    try:
        client: Any = redis.Redis.from_url(url, decode_responses=True)
    except ValueError as error:
        raise ConfigError(f"to={without_password(url)}: {error}.") from error
    lock = f"{name}:publishing"
    try:
        if not client.set(lock, generation, nx=True, ex=LOCK_SECONDS):
            raise DataError(
                f"{lock}: another publisher ({client.get(lock)}) is at work; wait for it, or delete the key if it has "
                f"died (it goes by itself after {LOCK_SECONDS // 60} minutes)."
            )
        opened = Publication(client, name, generation, seconds, keep_seconds)
        try:
            opened.prune({client.get(f"{name}:current"), generation})  # what interrupted ones have left
            yield opened
        except BaseException:
            if client.get(f"{name}:current") != generation:
                opened.prune({client.get(f"{name}:current")})
            raise
        finally:
            if client.get(lock) == generation:
                client.delete(lock)
    except redis.RedisError as error:
        told = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"to={without_password(url)}: {told}. Readers stay with the generation before.") from error
    finally:
        client.close()


def without_password(url: str) -> str:
    """Return a URL that may be shown."""
    scheme, found, rest = url.partition("://")
    return f"{scheme}{found}{rest.rpartition('@')[2]}"


def _batches(keys: Iterator[str], size: int) -> Iterator[Sequence[str]]:
    batch: list[str] = []
    for key in keys:
        batch.append(key)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _literal(name: str) -> str:
    """Return a name as a pattern that stands for nothing else."""
    return "".join(f"\\{letter}" if letter in "*?[]^\\" else letter for letter in name)
