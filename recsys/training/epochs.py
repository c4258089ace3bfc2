"""Runs the epochs of a fit: as many as validation finds best, or a number that was chosen before."""

import logging
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint

from recsys.config.schema import ObjectiveConfig

ADVICE = ("GPU available:", "TPU available:", "💡 Tip:", "`Trainer.fit` stopped:")
"""How the notes begin that Lightning gives on every fit: a job fits several times and itself says what matters."""
logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
    lambda record: not record.getMessage().startswith(ADVICE)
)

Validate = Callable[[Any], dict[str, float]]
"""Measures a model on the validation window; returns metric keys such as ``val/ndcg_at_20``."""


Model = TypeVar("Model")


@dataclass(frozen=True)
class Fitted(Generic[Model]):
    """A fitted model, on the CPU and in evaluation mode.

    Attributes:
        model: With the parameters of the best epoch.
        epochs: Number of epochs that gave them.
        best: The objective there; NaN without validation.
        results: What validation found after each epoch.
    """

    model: Model
    epochs: int
    best: float
    results: tuple[dict[str, float], ...] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """What validation found after the best epoch."""
        return self.results[self.epochs - 1]


class Validation(Callback):
    """Measures the task's ``model`` after every epoch, on all processes, before the callbacks that judge it.

    Attributes:
        results: What ``validate`` returned after each epoch.
    """

    def __init__(self, validate: Validate) -> None:
        self._validate = validate
        self.results: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Measure and log."""
        model: Any = pl_module.model
        model.eval()
        with torch.no_grad():
            metrics = self._validate(model)
        model.train()
        self.results.append(metrics)
        pl_module.log_dict(metrics, sync_dist=True)  # equal on all processes


class Course:
    """A Trainer with what watches its epochs.

    With ``validate`` and ``objective`` the best epoch is kept and fitting stops when it no longer improves; without,
    it goes on for ``max_epochs``. Checkpoints are ``best.ckpt`` and ``last.ckpt``.

    Args:
        trainer_of: Called with further keyword arguments of Lightning's Trainer; returns the Trainer.
        folder: Where checkpoints go.
        max_epochs: The most epochs.
        patience: Epochs without a better objective before it stops.
        objective: What ``validate`` is judged by.
        validate: Measures the model after every epoch.
        logger: Lightning logger, or False.
    """

    def __init__(
        self,
        trainer_of: Any,
        folder: Path,
        *,
        max_epochs: int,
        patience: int,
        objective: ObjectiveConfig | None = None,
        validate: Validate | None = None,
        logger: Any = False,
    ) -> None:
        self._objective = objective
        self._validation = Validation(validate) if validate else None
        self._best: ModelCheckpoint | None = None
        watch: list[Callback] = [self._validation] if self._validation else []
        if objective and validate:
            watch.append(
                EarlyStopping(objective.metric, patience=patience, mode=objective.mode, check_on_train_epoch_end=True)
            )
            self._best = _checkpoint(folder, "best", monitor=objective.metric, mode=objective.mode)
            watch.append(self._best)
        watch.append(_checkpoint(folder, "last"))  # after the best, whose score it remembers
        self.trainer: lightning.Trainer = trainer_of(max_epochs=max_epochs, logger=logger, callbacks=watch)

    def run(self, task: lightning.LightningModule, batches: Iterable[Any], ckpt_path: str | None = None) -> Fitted[Any]:
        """Fit, and return the task's model with the parameters of the best epoch.

        Args:
            task: Its ``model`` is what is fitted and validated.
            batches: Of the window to fit on.
            ckpt_path: Checkpoint to go on from, or ``last``.
        """
        with warnings.catch_warnings():
            # Lightning asks torch's pytree for a leaf in the old way whenever it is given a data loader
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            self.trainer.fit(task, train_dataloaders=batches, ckpt_path=ckpt_path)
        if self.trainer.interrupted:
            raise KeyboardInterrupt
        results = tuple(self._validation.results) if self._validation else ()
        epochs, best = self.trainer.current_epoch, float("nan")
        if self._best and self._best.best_model_score is not None:
            saved = torch.load(self._best.best_model_path, weights_only=True, map_location="cpu")
            task.load_state_dict(saved["state_dict"])
            epochs, best = saved["epoch"] + 1, float(self._best.best_model_score)
        model: Any = task.model
        return Fitted(model.cpu().eval(), epochs, best, results)


def _checkpoint(folder: Path, name: str, **settings: Any) -> ModelCheckpoint:
    """Write ``folder/NAME.ckpt`` at the end of epochs: of every one, or of those that improve a monitored metric."""
    return ModelCheckpoint(
        folder, filename=name, save_on_train_epoch_end=True, enable_version_counter=False, **settings
    )
