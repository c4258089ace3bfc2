"""Runs the epochs of a fit: as many as validation finds best, or a number that was chosen before."""

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint

from recsys.config.schema import ObjectiveConfig
from recsys.training.checkpoint import RESUME, WholeFiles, bring_best, find, move, read, refuse_other_version
from recsys.training.ledger import Ledger
from recsys.training.preemption import Preemption, Resumable, Stopped, hand_on

log = logging.getLogger(__name__)

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
        history: Objective after each epoch.
        results: All that validation found after each epoch.
    """

    model: Model
    epochs: int
    best: float
    history: tuple[float, ...] = ()
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

    def state_dict(self) -> dict[str, Any]:
        """Return the results so far, for a checkpoint."""
        return {"results": [dict(metrics) for metrics in self.results]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on below the results of a checkpoint."""
        self.results = list(state_dict["results"])

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Measure and log."""
        model: Any = pl_module.model
        model.eval()
        with torch.no_grad():
            metrics = self._validate(model)
        model.train()
        self.results.append({name: float(value) for name, value in metrics.items()})
        pl_module.log_dict(metrics, sync_dist=True)  # equal on all processes


class Course:
    """A Trainer with what watches its epochs.

    With ``validate`` and ``objective`` the best epoch is kept and fitting stops when it no longer improves; without,
    it goes on for ``max_epochs``. Checkpoints are ``best.ckpt`` and ``last.ckpt``; the last one is also written inside
    epochs, so that a fit can be stopped at any step.

    Args:
        trainer_of: Called with further keyword arguments of Lightning's Trainer; returns the Trainer.
        folder: Where checkpoints go.
        max_epochs: The most epochs.
        patience: Epochs without a better objective before it stops.
        made_from: Settings and data: a checkpoint made from others is refused. Plain types.
        objective: What ``validate`` is judged by.
        validate: Measures the model after every epoch.
        logger: Lightning logger, or False.
        checkpoint_minutes: Between checkpoints inside an epoch.
        ledger: Whether it is written down which samples each step took.
    """

    def __init__(
        self,
        trainer_of: Any,
        folder: Path,
        *,
        max_epochs: int,
        patience: int,
        made_from: Mapping[str, Any],
        objective: ObjectiveConfig | None = None,
        validate: Validate | None = None,
        logger: Any = False,
        checkpoint_minutes: float = 5.0,
        ledger: bool = False,
    ) -> None:
        self._folder, self._objective = folder, objective
        self._made_from = dict(made_from) | {"max_epochs": max_epochs, "patience": patience}
        if objective:
            self._made_from |= {"objective.metric": objective.metric, "objective.mode": objective.mode}
        self._preemption = Preemption(folder / "last.ckpt", checkpoint_minutes, self._made_from)
        self._validation = Validation(validate) if validate else None
        self._best: ModelCheckpoint | None = None
        watch: list[Callback] = [Ledger(folder)] if ledger else []
        watch.append(self._preemption)
        if self._validation:
            watch.append(self._validation)
        if objective and validate:
            watch.append(
                EarlyStopping(objective.metric, patience=patience, mode=objective.mode, check_on_train_epoch_end=True)
            )
            self._best = _checkpoint(folder, "best", monitor=objective.metric, mode=objective.mode)
            watch.append(self._best)
        watch.append(_checkpoint(folder, "last"))  # after the best, whose score it remembers
        self.trainer: lightning.Trainer = trainer_of(max_epochs=max_epochs, logger=logger, callbacks=watch)
        self.trainer.strategy.checkpoint_io = WholeFiles()

    def run(self, task: lightning.LightningModule, batches: Resumable, ckpt_path: str | None = None) -> Fitted[Any]:
        """Fit, and return the task's model with the parameters of the best epoch.

        Args:
            task: Its ``model`` is what is fitted and validated.
            batches: Of the window to fit on.
            ckpt_path: Checkpoint to go on from, or ``last``, which begins anew where there is none. A fit that was
                complete is passed over.

        Raises:
            ConfigError: The checkpoint cannot be read, or is of other settings, data or version.
            SystemExit: Ctrl-C or SIGTERM, unless whoever listens for them does something else; ``last.ckpt`` stands
                where the fit was.
        """
        path = find(self._folder, ckpt_path)
        saved = None
        if path:
            saved = read(path, self._made_from)
            refuse_other_version(path, saved, task)
            if self._best and saved["callbacks"][self._best.state_key]["best_model_score"] is not None:
                bring_best(path, self._folder)
        if ckpt_path and self.trainer.is_global_zero:
            log.info("%s: %s", path or self._folder, _where(saved))
        epochs = self._take_over(task, saved) if saved and saved[RESUME]["complete"] else self._fit(task, batches, path)
        results = tuple(self._validation.results) if self._validation else ()
        history: tuple[float, ...] = ()
        if self._objective:
            history = tuple(metrics[self._objective.metric] for metrics in results)
        best = float("nan")
        if self._best and self._best.best_model_score is not None:
            best_one = torch.load(self._folder / "best.ckpt", weights_only=True, map_location="cpu")
            task.load_state_dict(best_one["state_dict"])
            epochs, best = best_one["epoch"] + 1, float(self._best.best_model_score)
        model: Any = task.model
        return Fitted(model.cpu().eval(), epochs, best, history, results)

    def _take_over(self, task: lightning.LightningModule, saved: dict[str, Any]) -> int:
        """Take the end of a complete fit from its checkpoint, and return its epochs."""
        move(saved, self._folder)
        task.load_state_dict(saved["state_dict"])
        for callback in (self._validation, self._best):
            if callback:
                callback.load_state_dict(saved["callbacks"][callback.state_key])
        return int(saved[RESUME]["epochs"])

    def _fit(self, task: lightning.LightningModule, batches: Resumable, path: Path | None) -> int:
        """Run the epochs, or those that a checkpoint has left, and return the number of all."""
        self._preemption.batches = batches
        trainer: Any = self.trainer
        trainer.log_every_n_steps = min(trainer.log_every_n_steps, len(batches))  # a short epoch tells its loss, too
        with warnings.catch_warnings():
            # Lightning asks torch's pytree for a leaf in the old way whenever it is given a data loader
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            if path:
                warnings.filterwarnings("ignore", r"Checkpoint directory .* is not empty", UserWarning)
            try:
                self.trainer.fit(task, batches, ckpt_path=path, weights_only=True if path else None)
            except Stopped as stop:
                hand_on(stop.number, self.trainer)
        if self._preemption.signal:
            hand_on(self._preemption.signal, self.trainer)
        return self.trainer.current_epoch


def _where(saved: dict[str, Any] | None) -> str:
    """Say where a fit begins."""
    if saved is None:
        return "no checkpoint, this fit begins"
    if saved[RESUME]["complete"]:
        return f"complete after {saved[RESUME]['epochs']} epochs, passed over"
    return f"goes on in epoch {saved['epoch'] + 1}, after step {saved['global_step']}"


def _checkpoint(folder: Path, name: str, **settings: Any) -> ModelCheckpoint:
    """Write ``folder/NAME.ckpt`` at the end of epochs: of every one, or of those that improve a monitored metric."""
    return ModelCheckpoint(
        folder, filename=name, save_on_train_epoch_end=True, enable_version_counter=False, **settings
    )
