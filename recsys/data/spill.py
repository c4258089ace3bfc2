"""Arrays that need not be in memory: files that are mapped into it, read where they are looked at."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recsys.errors import DataError

PIECE = 2**23
"""Entries that are copied at a time."""


@dataclass(frozen=True)
class Spill:
    """A folder on a disk for arrays of this process; its files have no name and are gone with the process.

    Attributes:
        folder: On a disk of this machine: what is looked at is read from there, a page at a time.
    """

    folder: Path

    def empty(self, n: int, dtype: torch.dtype) -> Tensor:
        """Return an array ``[n]`` of zeros that is in a file: the system takes back its memory where it needs some.

        Raises:
            DataError: The disk is full, or the folder cannot be written to.
        """
        if n == 0:
            return torch.empty(0, dtype=dtype)
        size = n * torch.empty(0, dtype=dtype).element_size()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix="log-") as file:
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is found out here, and not by a signal later
                # Mapped, it lives on without its name until nobody holds it: a crash leaves nothing behind.
                return torch.from_file(file.name, shared=True, size=n, dtype=dtype)
        except OSError as error:
            raise DataError(
                f"{self.folder}: {size / 2**30:.2f} GiB of the interaction log cannot be written ({error}). Free some"
                " space there, set data.cache_dir to another disk, or take data.log=memory."
            ) from error

    def keep(self, values: Tensor) -> Tensor:
        """Return the same values ``[n]`` from a file, so that the memory of these can be given back.

        Raises:
            DataError: As :meth:`empty`.
        """
        out = self.empty(len(values), values.dtype)
        for start in range(0, len(values), PIECE):
            out[start : start + PIECE] = values[start : start + PIECE]
        return out
