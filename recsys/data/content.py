"""Hashes of what the input tables hold: what is the same is not prepared again."""

import hashlib
from functools import lru_cache
from pathlib import Path

from recsys.config.data import DataConfig
from recsys.data.files import below, locate, reading, scan
from recsys.data.sources import columns_of, paths_of


def content_digest(cfg: DataConfig) -> str:
    """Hash the content of every input table of a resolved config: same content, same digest, wherever it lies.

    Local files are hashed by their bytes in the order of their names; a remote table by the columns that are used of
    its rows, read once for it.
    """
    digest = hashlib.blake2b(digest_size=16)
    for key, path in paths_of(cfg):
        files, _ = locate(key, path)
        digest.update(f"{key}:{len(files)}".encode())
        with reading(key, path):
            for file in files:
                if "://" in file:
                    lazy = scan(key, file)
                    used = columns_of(key, cfg, lazy.collect_schema().names())
                    digest.update(lazy.select(used.values()).collect().hash_rows().to_numpy().tobytes())
                else:
                    digest.update(below(path, file).encode())
                    digest.update(file_digest(file))
    return digest.hexdigest()


def file_digest(file: str) -> bytes:
    """Return the hash of a local file's bytes; one that stays as it is is read once a process."""
    found = Path(file).stat()
    return _file_digest(file, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _file_digest(file: str, _size: int, _changed: int) -> bytes:
    with Path(file).open("rb") as stream:
        return hashlib.file_digest(stream, "blake2b").digest()
