"""One GPU for each worker of a machine."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def own_device(devices: int) -> Iterator[int]:
    """Hold the first device that no other worker of this machine holds, for as long as the block lasts.

    The lock is the operating system's, so that of a killed worker is free. Where there are more workers than devices,
    they share.

    Args:
        devices: How many this process sees; those of ``CUDA_VISIBLE_DEVICES``, where it is set.
    """
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = seen if len(seen) == devices and all(seen) else [str(number) for number in range(devices)]
    for number, device in enumerate(names):
        path = Path(tempfile.gettempdir(), f"recsys-tune-{os.getuid()}-gpu-{device}.lock")
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            yield number
            return
    yield os.getpid() % devices
