"""Measures training: ours beside the plain Lightning module, for speed and for what is learnt from an example."""

import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as lightning
import torch
from plain_lightning import PlainTask, PositiveEvents, plain_loader

from recsys.config.compose import compose
from recsys.config.schema import Config
from recsys.data.batches import Batch, MomentBatches
from recsys.data.dataset import FittedData, fit_data, interaction_log, microseconds
from recsys.data.moments import moments_of
from recsys.data.prepare import prepare
from recsys.data.tables import FeatureTables
from recsys.entries.retriever import tower_inputs
from recsys.evaluation.evaluate import ModelResult, evaluate
from recsys.evaluation.significance import paired_difference
from recsys.evaluation.slices import Targets, make_targets
from recsys.evaluation.towers import TowerScorer
from recsys.models.two_tower import TwoTower
from recsys.training.fit import make_model
from recsys.training.task import LearningRates, RetrieverTask

SETTING = (
    "model.width=64",
    "model.code_width=64",
    "model.history=50",
    "model.factor_width=0",  # fitted before the first step: no part of the training that is timed
    "tracking.enabled=false",
)
PLAIN_BATCH = 512
PLAIN_RATES = (1e-3, 3e-3, 1e-2)
WARM_UP = 2
"""Steps before the clock starts."""


@dataclass(frozen=True)
class Fit:
    """A task and the loader it is trained from."""

    task: RetrieverTask | PlainTask
    loader: Any


@dataclass(frozen=True)
class Bench:
    """One data set, and the two ways to train on it; ``tables`` and ``batches`` are on the device."""

    cfg: Config
    data: FittedData
    targets: Targets
    device: torch.device
    tables: FeatureTables
    batches: MomentBatches
    events: PositiveEvents

    def ours(self) -> Fit:
        """Blocks of moments, one gather a history, row-wise Adagrad; rates of the configuration, constant."""
        training = self.cfg.training
        rates = LearningRates(
            training.learning_rate, training.embedding_learning_rate, training.weight_decay, total_steps=10**12
        )
        self.batches.epoch = 0
        return Fit(RetrieverTask(self._model(sparse=True), self.batches, self.tables, rates), self.batches)

    def plain(self, lr: float) -> Fit:
        """One row an event, dense Adam."""
        task = PlainTask(self._model(sparse=False), self.batches, self.tables, lr)
        return Fit(task, plain_loader(self.events, PLAIN_BATCH, self.cfg.seed))

    def _model(self, sparse: bool) -> TwoTower:
        """Both start from the same parameters."""
        lightning.seed_everything(self.cfg.seed, verbose=False)
        model = make_model(tower_inputs(self.data), list(self.tables.context), self.cfg.model, sparse)
        log = self.data.log
        first = log.item[log.relevant & (log.repeats == 0)]
        model.item_tower.start_from_popularity(
            self.data.tables.item["item_id"], torch.bincount(first, minlength=log.n_items)
        )
        return model

    def validate(self, model: TwoTower) -> ModelResult:
        """Rank the whole catalogue for the users of the validation window."""
        data, model = self.data, model.to(self.device).eval()
        scorer = TowerScorer(model, data.log, data.tables, data.cut, self.cfg.model.history)
        return evaluate(scorer, self.targets, (20,), ("all",), self.cfg.evaluation.chunk_users)


def open_bench(overrides: Sequence[str], device: torch.device) -> Bench:
    """Prepare the data and encode the training window, as `recsys train` does."""
    cfg = compose("train", [*SETTING, *overrides])
    prepared = prepare(cfg.data)
    log = interaction_log(prepared)
    data = fit_data(prepared, log, prepared.windows.val_start)
    truth = log.between(data.cut, microseconds(prepared.windows.test_start))
    batches = MomentBatches(
        data.log.to(device),
        history=cfg.model.history,
        batch_moments=cfg.training.batch_moments,
        epoch_batches=cfg.training.epoch_batches,
        moments_per_block=cfg.training.moments_per_block,
        negatives=cfg.training.negatives,
        popularity_days=data.tables.popularity_days,
        catalogue=data.eligible.nonzero().squeeze(1),
        seed=cfg.seed,
    )
    events = PositiveEvents(data.log, moments_of(data.log), data.tables, cfg.model.history)
    return Bench(
        cfg, data, make_targets(data.log, truth, data.eligible), device, data.tables.to(device), batches, events
    )


class Meter(lightning.Callback):
    """Ends a fit after so many positives, seconds or steps; its clock starts after ``warm_up`` steps."""

    def __init__(
        self, warm_up: int = 0, positives: float = float("inf"), seconds: float = float("inf"), steps: int = 2**62
    ) -> None:
        self._warm_up, self._most = warm_up, (positives, seconds, steps)
        self.positives, self.seconds, self.steps = 0, 0.0, 0

    @property
    def rate(self) -> float:
        """Positives per second."""
        return self.positives / self.seconds

    def on_train_start(self, trainer: lightning.Trainer, _: lightning.LightningModule) -> None:
        self._start = now(trainer.strategy.root_device)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, _: lightning.LightningModule, __: Any, batch: Any, ___: int
    ) -> None:
        if self._warm_up:
            self._warm_up -= 1
            self._start = now(trainer.strategy.root_device)
            return
        self.positives += len(batch.positive_query) if isinstance(batch, Batch) else len(batch["item"])
        self.steps += 1
        self.seconds = time.perf_counter() - self._start
        done = (self.positives, self.seconds, self.steps)
        if any(a >= b for a, b in zip(done, self._most, strict=True)):
            self.seconds = now(trainer.strategy.root_device) - self._start
            trainer.should_stop = True


def now(device: torch.device) -> float:
    """Return the time when the device has done all it was told to, in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def train(fit: Fit, meter: Meter, device: torch.device) -> Meter:
    """Train until the meter ends it."""
    trainer = lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[meter],
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers")  # they would be further processes
        warnings.filterwarnings("ignore", message=".*LeafSpec")  # of Lightning's own making
        trainer.fit(fit.task, train_dataloaders=fit.loader)
    return meter


def quality(bench: Bench, positives: int, rates: Sequence[float] = PLAIN_RATES) -> dict[str, Any]:
    """Train both on ``positives`` examples, the plain one at each of its learning rates, and validate."""

    def reach(fit: Fit, at_least: int) -> tuple[ModelResult, int]:
        seen = train(fit, Meter(positives=at_least), bench.device).positives
        return bench.validate(fit.task.model), seen

    ours, seen = reach(bench.ours(), positives)
    plain = {lr: reach(bench.plain(lr), seen) for lr in rates}  # never fewer than ours has seen
    ndcg = {lr: result.metrics["all"]["ndcg_at_20"] for lr, (result, _) in plain.items()}
    best = max(ndcg, key=lambda lr: ndcg[lr])
    first, second = (result.per_user["all"]["ndcg_at_20"] for result in (ours, plain[best][0]))
    return {
        "users": len(bench.targets.users),
        "ours": {"positives": seen, "ndcg_at_20": ours.metrics["all"]["ndcg_at_20"]},
        "plain": {"positives": plain[best][1], "ndcg_at_20": ndcg[best], "learning_rate": best},
        "plain_by_learning_rate": {str(lr): value for lr, value in ndcg.items()},
        "difference": paired_difference(first, second).to_plain(),
    }


def speed(bench: Bench, lr: float, seconds: float, repetitions: int) -> dict[str, Any]:
    """Train in turns, so that both meet the same neighbours on the machine."""
    rates: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(repetitions):
        for name, fit in (("ours", bench.ours()), ("plain", bench.plain(lr))):
            rates[name].append(train(fit, Meter(WARM_UP, seconds=seconds), bench.device).rate)
    ratios = [a / b for a, b in zip(rates["ours"], rates["plain"], strict=True)]
    return {**{name: spread(values) for name, values in rates.items()}, "ratio": spread(ratios)}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return median and range; ``all`` in the order measured."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "all": list(values)}
