"""A fit that can be stopped at any step, or killed, and ends with the same parameters when it goes on."""

import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback

from recsys.stop import SIGNALS
from recsys.training.checkpoint import RESUME, move
from recsys.training.random_state import random_states, set_random_state


class Resumable(Protocol):
    """Batches that know how far an epoch is."""

    def __len__(self) -> int:
        """Return the steps of an epoch."""
        ...

    def __iter__(self) -> Any:
        """Begin the next epoch, or go on in the one of a loaded state."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return ``cuts``, a list of ``[batches, taken]``, and what else tells where the epoch stands."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass go on where a state was returned."""
        ...

    def steps_left(self) -> int:
        """Return the steps that are left of the epoch of a loaded state."""
        ...


class Stopped(BaseException):
    """A signal has ended a fit, after its checkpoint was written.

    Attributes:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


class Preemption(Callback):
    """Writes a checkpoint inside epochs: every few minutes, and when a signal comes, after which the fit ends.

    It goes before the callbacks that validate. A signal is noted, and looked at when a batch ends, or before the
    validation of an epoch whose last batch it came in; one that comes while validating is looked at afterwards. Ctrl-C
    a second time does not wait. All processes stop at the same step, whichever of them was told to.

    Args:
        path: The checkpoint.
        minutes: Between checkpoints; 0 writes one after every batch.
        made_from: Settings and data that a fit has to share to go on from the checkpoint.

    Attributes:
        batches: Of the fit; to be set before it begins.
        signal: Number of the signal that came; 0 without.
    """

    def __init__(self, path: Path, minutes: float, made_from: Mapping[str, Any]) -> None:
        self.batches: Resumable | None = None
        self.signal = 0
        self._path, self._seconds, self._made_from = path, 60 * minutes, dict(made_from)
        self._saved_at = time.monotonic()
        self._inside = self._validates_next = False
        self._random: list[dict[str, torch.Tensor]] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ARG002
        """Go on with the random state of the checkpoint, and take the signals from Lightning, which would not save."""
        if self._random:
            set_random_state(self._random[trainer.global_rank % len(self._random)], trainer.strategy.root_device)
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:  # Lightning's teardown puts back what was there before the fit
                signal.signal(number, self._take)
        self._saved_at = time.monotonic()

    def _take(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.signal and number == signal.SIGINT:
            raise Stopped(number)
        self.signal = number

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Look whether to save and whether to stop; between the batches of one step there is nothing to go on from."""
        if not trainer.is_last_batch and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._look(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ARG002
        """Look once more before the validation, which may take long."""
        self._validates_next = True
        self._look(trainer)
        self._validates_next = False

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ARG002
        """Let all processes know of a signal that came during the last validation."""
        self.signal, _ = self._all(trainer, False)

    def _look(self, trainer: Trainer) -> None:
        number, is_due = self._all(trainer, time.monotonic() - self._saved_at >= self._seconds)
        if number or is_due:
            self._inside = True
            trainer.save_checkpoint(self._path, weights_only=False)
            self._inside = False
        if number:
            raise Stopped(number)

    def _all(self, trainer: Trainer, is_due: bool) -> tuple[int, bool]:
        """Return what signal any process has got, and whether a checkpoint is due for any: the same to all of them."""
        if trainer.world_size == 1:
            return self.signal, is_due
        mine = torch.tensor([self.signal, int(is_due)], device=trainer.strategy.root_device)
        found: torch.Tensor = trainer.strategy.reduce(mine, reduce_op="max")
        number, due = found.tolist()
        return number, bool(due)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Add what Lightning leaves out: random states, whether this is the end, and what the fit was made from."""
        fit = checkpoint["loops"]["fit_loop"]
        done = fit["epoch_progress"]["current"]["processed"]
        checkpoint[RESUME] = {
            "made_from": self._made_from,
            "complete": not self._inside and (trainer.should_stop or done >= (trainer.max_epochs or 0)),
            "epochs": done,
            "processes": trainer.world_size,
            "random": random_states(trainer.strategy.root_device),
        }
        if self._validates_next:  # Lightning would go on behind it: let the epoch be one without a batch left
            for progress in (fit["epoch_progress"]["current"], fit["epoch_progress"]["total"]):
                progress["processed"] -= 1
            (state,) = fit["state_dict"]["combined_loader"]
            state["cuts"][-1][1] = state["cuts"][-1][0]
        self._saved_at = time.monotonic()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Keep the random states; count the steps anew if there were more or fewer processes."""
        move(checkpoint, self._path.parent)
        self._random = checkpoint[RESUME]["random"]
        if checkpoint[RESUME]["processes"] == trainer.world_size:
            return
        assert self.batches is not None
        fit, steps, done = checkpoint["loops"]["fit_loop"], len(self.batches), 0
        epochs = fit["epoch_progress"]["current"]
        if epochs["processed"] < epochs["started"]:
            self.batches.load_state_dict(fit["state_dict"]["combined_loader"][0])
            done = steps - self.batches.steps_left()
            progress = fit["epoch_loop.batch_progress"]["current"]
            more = done - progress["processed"]
            progress |= {kind: count + more for kind, count in progress.items()}
        for schedule in checkpoint["lr_schedulers"]:  # of the same share of all epochs
            schedule["last_epoch"] = epochs["processed"] * steps + done
            schedule["_step_count"] = schedule["last_epoch"] + 1


def hand_on(number: int, trainer: Trainer) -> None:
    """Give a signal to whoever listened for it before the fit, who ends the process.

    Raises:
        SystemExit: Nobody did; or this process was started by Lightning, which kills the first process of a node when
            another one has failed, and takes any code but 0 for that.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if isinstance(environment, LightningEnvironment) and environment.local_rank() > 0:
        raise SystemExit(0)
    signal.raise_signal(number)
    raise SystemExit(128 + number)
