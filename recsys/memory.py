"""How the process gets memory for large tensors."""

import ctypes
import os

KEPT = 2**30
"""Bytes: up to so much a block is taken from, and left free at the end of, what the process has already."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> None:
    """Let the C library use freed memory again, and PyTorch take large blocks in huge pages; call it before its import.

    Without this, glibc hands every freed block of a large tensor back to the kernel and waits for zeroed pages the
    next time: a seventh of the processor time of a training run. Where the C library has no ``mallopt``, and where
    ``THP_MEM_ALLOC_ENABLE`` is set already, that part stays as it is.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, KEPT)
        mallopt(_TRIM_THRESHOLD, KEPT)
