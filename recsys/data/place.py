"""Where an epoch stands: which of its batches have been taken, by however many processes.

An epoch cuts its samples into batches, a multiple of the processes, and takes them by turns. A run that goes on with
another number of processes takes the batches that are left, if they come out even; if not, it cuts what is left again::

    2 processes   a b | c d | e f | g h    4 steps
    3 processes   x x | c d e | f g h      went on after the first: 6 batches come out even
    4 processes   x x | 1 2 3 4            they do not: what is in c to h is cut into 4
"""

import math
from collections.abc import Mapping
from typing import Any

from recsys.errors import DataError

SHRINK = 4
"""How many times smaller a batch of few samples may become."""


class Place:
    """How far a pass over one epoch's batches has come, so that it can go on after a restart.

    Attributes:
        epoch: Its number.
        cuts: ``[batches, taken]``: into how many batches the samples were cut, and how many of them have been taken by
            all processes together. Each cut after the first is of what the one before it left.
    """

    def __init__(self, samples: int) -> None:
        self.epoch = 0
        self.cuts: list[list[int]] = []
        self._samples = samples
        self._goes_on = False

    def begin(self, epoch: int) -> None:
        """Begin an epoch; the one of a restored state goes on instead, once."""
        if self._goes_on:
            self._goes_on = False
        else:
            self.epoch, self.cuts = epoch, []

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`load_state_dict` takes, in plain types."""
        return {"epoch": self.epoch, "cuts": [list(cut) for cut in self.cuts], "samples": self._samples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the state was returned.

        Raises:
            DataError: It is of another number of samples.
        """
        if state["samples"] != self._samples:
            raise DataError(
                f"the checkpoint stands inside an epoch of {state['samples']} samples, but here an epoch has "
                f"{self._samples}: the data have changed. Begin anew: leave ckpt_path out."
            )
        self.epoch, self.cuts = state["epoch"], [list(cut) for cut in state["cuts"]]
        self._goes_on = True


def batch_size(samples: int, size: int, least: int, processes: int) -> int:
    """Return ``size``, or as much less, to a quarter, as gives each process ``least`` batches of an epoch.

    Steps, not samples, move a model from where it started: an epoch of a few large batches hardly does. Of hundreds of
    samples not even small batches make a good model, and very small ones learn them by heart.
    """
    return max(min(size, samples // (least * processes)), math.ceil(size / SHRINK))


def comes_out_even(cut: list[int], processes: int) -> bool:
    """Tell whether the processes can share the batches that are left of a cut."""
    return (cut[0] - cut[1]) % processes == 0


def batches_for(samples: int, size: int, processes: int) -> int:
    """Return how many batches of about ``size`` samples there are, a multiple of the processes.

    Raises:
        DataError: There are fewer samples than processes.
    """
    if samples < processes:
        raise DataError(
            f"{samples} samples are left of the epoch that the checkpoint stands in, for {processes} processes; "
            "go on with fewer, and with more from a later checkpoint."
        )
    return max(samples // (size * processes), 1) * processes
