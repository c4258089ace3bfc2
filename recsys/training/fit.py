"""Fits a retriever: chooses the number of epochs on validation, or fits for a number that was chosen."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor

from recsys.config.schema import ModelConfig, ObjectiveConfig, TrainingConfig
from recsys.data.batches import MomentBatches
from recsys.data.log import DAY, POPULARITY_DAYS, InteractionLog
from recsys.data.tables import FeatureTables
from recsys.models.tower_shape import TowerInputs, TowerShape
from recsys.models.two_tower import TwoTower
from recsys.training.checkpoint import digest, plain
from recsys.training.epochs import Course, Fitted, Validate
from recsys.training.factors import fit_item_factors
from recsys.training.optimizers import may_be_sparse
from recsys.training.task import LearningRates, RetrieverTask
from recsys.training.warm import WarmStart, start_warm


def make_model(inputs: TowerInputs, context: Sequence[str], config: ModelConfig, sparse: bool) -> TwoTower:
    """Build an unfitted retriever.

    Args:
        inputs: Features and table sizes, from the encoder of the window to fit on.
        context: Names of the context features among ``inputs.user``.
        config: Sizes and switches.
        sparse: Whether large tables take sparse gradients.
    """
    shape = TowerShape(
        width=config.width,
        code_width=config.code_width,
        hidden=config.hidden,
        heads=config.heads,
        dropout=config.dropout,
        id_dropout=config.id_dropout,
        user_id_dropout=config.user_id_dropout,
        history_dropout=config.history_dropout,
        context_dropout=config.context_dropout,
        use_ids=config.use_ids,
        use_content=config.use_content,
        factor_width=config.factor_width,
        factor_weight=config.factor_weight,
        factor_confidence=config.factor_confidence,
        factor_decay=config.factor_decay,
        sparse_rows=TowerShape.sparse_rows if sparse else 2**62,
    )
    return TwoTower(inputs, shape, context, config.temperature, config.temperature_bounds)


def fit_retriever(
    log: InteractionLog,
    tables: FeatureTables,
    eligible: Tensor,
    inputs: TowerInputs,
    model_config: ModelConfig,
    training: TrainingConfig,
    *,
    trainer_of: Any,
    folder: Path,
    seed: int,
    objective: ObjectiveConfig | None = None,
    validate: Validate | None = None,
    epochs: int | None = None,
    logger: Any = False,
    ckpt_path: str | None = None,
    warm: WarmStart | None = None,
) -> Fitted[TwoTower]:
    """Fit a two-tower retriever on a window.

    With ``validate`` the best epoch by ``objective`` is kept and fitting stops when it no longer improves; without,
    the model is fitted for exactly ``epochs``, along the same learning-rate schedule.

    Args:
        log: Events of the window to fit on, and nothing later.
        tables: Features encoded as of the end of the window.
        eligible: Items that may be recommended, bool ``[N]``.
        inputs: What the towers read.
        model_config: Sizes and switches of the model.
        training: Batches, epochs, learning rates.
        trainer_of: Called with further keyword arguments of Lightning's Trainer; returns the Trainer.
        folder: Where checkpoints go.
        seed: Of parameters, batch order, negatives and dropout.
        objective: What ``validate`` is judged by.
        validate: Measures the model after every epoch.
        epochs: Number of epochs, when it has been chosen already.
        logger: Lightning logger, or False.
        ckpt_path: Checkpoint to go on from, or ``last``, which begins anew where there is none.
        warm: An earlier retriever to start from; then only the moments from its cut on are trained on.

    Raises:
        ConfigError: The checkpoint cannot be read, or is of other settings or data.
    """
    lightning.seed_everything(seed, verbose=False)
    course = Course(
        trainer_of,
        folder,
        max_epochs=epochs or training.max_epochs,
        patience=training.patience,
        made_from=made_from(log, tables, model_config, training, seed) | {"warm": warm.cut if warm else 0},
        objective=objective,
        validate=validate,
        logger=logger,
        checkpoint_minutes=training.checkpoint_minutes,
        ledger=training.ledger,
    )
    trainer = course.trainer
    sparse = may_be_sparse(trainer.world_size, trainer.gradient_clip_val)
    context = list(tables.context)
    model = make_model(inputs, context, model_config, sparse)
    device = trainer.strategy.root_device
    past = log.to(device)
    batches = MomentBatches(
        past,
        history=model_config.history,
        batch_moments=training.batch_moments,
        epoch_batches=1 if warm else training.epoch_batches,  # what is fitted already needs no more steps
        moments_per_block=training.moments_per_block,
        negatives=training.negatives,
        catalogue=eligible.nonzero().squeeze(1),
        popularity_days=tables.popularity_days,
        since=warm.cut if warm else None,
        seed=seed,
        rank=trainer.global_rank,
        world_size=trainer.world_size,
    )
    model.user_tower.start_from_repeats(tables.repeat_share)
    if model_config.use_ids:  # a content-only model has neither prior nor factors of its own for an item
        start_from_log(model, log, tables, model_config, seed)
    if warm:
        start_warm(model, warm)
    speed = training.warm_rate if warm else 1.0
    rates = LearningRates(
        speed * training.learning_rate,
        speed * training.embedding_learning_rate,
        training.weight_decay,
        total_steps=training.max_epochs * len(batches),
    )
    task = RetrieverTask(model, batches, tables.to(device), rates)
    return course.run(task, batches, ckpt_path)


def made_from(
    log: InteractionLog, tables: FeatureTables, model: ModelConfig, training: TrainingConfig, seed: int
) -> dict[str, Any]:
    """Name what the steps of a fit depend on, beside the number of processes: settings, seed, events and features."""
    settings = asdict(training)
    for key in ("checkpoint_minutes", "ledger"):  # how often it is saved changes nothing
        del settings[key]
    columns = [log.user, log.item, log.time, log.relevant, *tables.item.values(), *tables.user.values()]
    if log.weight is not None:
        columns.append((2**20 * log.weight).long())
    return plain({"model": asdict(model), "training": settings}) | {"seed": seed, "data": digest(columns)}


def start_from_log(model: TwoTower, log: InteractionLog, tables: FeatureTables, config: ModelConfig, seed: int) -> None:
    """Set what a model knows before its first step: how popular the items of the window are, and their factors.

    Where items come and go, those are popular that are so at the end of the window.
    """
    taken = log.only_relevant()  # whose repeats do not count what was only looked at
    first = taken.repeats == 0
    if tables.popularity_days < POPULARITY_DAYS:
        first &= taken.time > log.time.max() - int(tables.popularity_days * DAY)
    buyers = torch.bincount(taken.item[first], minlength=log.n_items).cpu()
    model.item_tower.start_from_popularity(tables.item["item_id"].cpu(), buyers)
    start_factors(model, log, tables, config, seed)


def start_factors(model: TwoTower, log: InteractionLog, tables: FeatureTables, config: ModelConfig, seed: int) -> None:
    """Fit the item factors of a window, which no step trains, and put them into a model."""
    if not (config.factor_width and config.use_ids):
        return
    fitted = fit_item_factors(
        log,
        config.factor_width,
        confidence=config.factor_confidence,
        decay=config.factor_decay,
        regularization=config.factor_regularization,
        seed=seed,
    )
    spread = 1.0 / max(fitted.spread, 1e-9)
    model.fold_in.start_from(tables.item["item_id"].cpu(), fitted.factors, config.factor_regularization, spread)
