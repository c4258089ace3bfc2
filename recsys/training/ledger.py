"""A ledger of a fit: which samples each step took, so that anyone can see that an epoch took each of them once."""

from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback

from recsys.files import beside

COLUMNS = "epoch,step,rank,sample"


class Ledger(Callback):
    """Writes ``ledger.RANK.csv`` into the folder of the checkpoints, a line for each sample, before each checkpoint.

    A fit that goes on takes back the lines of steps after its checkpoint: those are done again.

    Args:
        folder: Of the checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines: list[str] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ARG002
        """Keep what led to the checkpoint, of whatever number of processes."""
        if trainer.is_global_zero:
            for path in self._folder.glob("ledger.*.csv"):
                take_back(path, trainer.global_step)
        trainer.strategy.barrier("ledger")

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Note the samples of a step."""
        start = f"{trainer.current_epoch},{trainer.global_step},{trainer.global_rank}"
        self._lines += [f"{start},{sample}\n" for sample in batch.samples.tolist()]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Write what has been noted: a checkpoint never knows of more steps than the ledger."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"ledger.{trainer.global_rank}.csv"
        if not path.exists():
            self._lines.insert(0, f"{COLUMNS}\n")
        with path.open("a") as file:
            file.writelines(self._lines)
        self._lines.clear()


def take_back(path: Path, step: int) -> None:
    """Leave only the lines of steps up to ``step`` in a ledger; one that was cut short in writing is of a later one."""
    with beside(path) as temporary, path.open() as old, temporary.open("w") as new:
        new.write(next(old, f"{COLUMNS}\n"))
        new.writelines(line for line in old if line.endswith("\n") and _step(line) <= step)


def _step(line: str) -> int:
    return int(line.split(",")[1])
