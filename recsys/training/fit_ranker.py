"""Fits the ranker of the second stage: chooses its epochs on validation, or fits for a number that was chosen."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as lightning
import torch
from torch import Tensor, nn

from recsys.columns import ITEM_ID
from recsys.config.schema import ObjectiveConfig, RankerConfig
from recsys.data.pair_batches import PairBatches
from recsys.data.recent import AGE, pairs_at_once, take_pairs
from recsys.errors import ConfigError, DataError
from recsys.features import HISTORY, REQUEST
from recsys.models.calibration import fit_isotonic, fit_platt
from recsys.models.transforms import fit_numeric
from recsys.models.wide import Cross, IdInput
from recsys.models.wide_deep import RankerInputs, RankerShape, WideDeep
from recsys.training.boosting import numbers
from recsys.training.checkpoint import plain
from recsys.training.epochs import Course, Fitted
from recsys.training.optimizers import may_be_sparse
from recsys.training.ranker_task import RankerTask

if TYPE_CHECKING:
    from recsys.data.snapshots import RankingSet  # brings Polars, which a bare training node lacks

log = logging.getLogger(__name__)

CHUNK = 65536
"""Pairs that are encoded or scored at a time."""
CALIBRATIONS: dict[str, Callable[[Tensor, Tensor], nn.Module]] = {
    "isotonic": fit_isotonic,
    "platt": fit_platt,
    "temperature": partial(fit_platt, use_bias=False),
}
"""Name to what fits it to logits and labels ``[n]``."""


def make_ranker(
    train: "RankingSet", config: RankerConfig, id_inputs: Sequence[IdInput], crosses: Sequence[Cross], sparse: bool
) -> WideDeep:
    """Build an unfitted ranker, which predicts the share of positives among all candidates of the set.

    Args:
        train: Pairs that the transforms of numbers are fitted on; every feature of floating point is one of these.
        config: Sizes and switches.
        id_inputs: Categorical features.
        crosses: Of these.
        sparse: Whether large tables take sparse gradients.

    Raises:
        ConfigError: Attention is asked for, and the set has no histories.
    """
    history: list[str] = []
    if config.attention:
        # The first says where there is an event: an attribute may be missing, an item id is not.
        by_use = sorted(id_inputs, key=lambda i: (i.slots > 0, i.name != ITEM_ID))
        told = train.features.keys() - {AGE}  # the days of events, whatever an attribute is called
        history = [i.name for i in by_use if HISTORY + i.name in told]
        if not history:
            raise ConfigError(
                f"ranker.attention is {config.attention}, but the pairs come without histories (no feature "
                f"'{HISTORY}...'); set it to 0."
            )
    inputs = RankerInputs(
        ids=tuple(id_inputs),
        numerics=tuple(fit_numeric(name, train.features[name], config.knots) for name in numbers(train.features)),
        crosses=tuple(crosses),
        history=tuple(history),
    )
    shape = RankerShape(
        width=config.width,
        hidden=tuple(config.hidden),
        dropout=config.dropout,
        id_dropout=config.id_dropout,
        norm=config.norm,
        forms=tuple(config.forms),
        attention=config.attention,
        use_wide=config.use_wide,
        use_deep=config.use_deep,
        sparse_rows=RankerShape.sparse_rows if sparse else 2**62,
    )
    weights = 1.0 / train.rate.double()
    return WideDeep(inputs, shape, ((weights @ train.labels.double()) / weights.sum()).tolist())


def fit_ranker(
    train: "RankingSet",
    config: RankerConfig,
    *,
    id_inputs: Sequence[IdInput],
    crosses: Sequence[Cross],
    trainer_of: Any,
    folder: Path,
    seed: int,
    objective: ObjectiveConfig | None = None,
    validate: Callable[[WideDeep], dict[str, float]] | None = None,
    epochs: int | None = None,
    logger: Any = False,
    starts: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    ckpt_path: str | None = None,
    checkpoint_minutes: float = 5.0,
    ledger: bool = False,
) -> Fitted[WideDeep]:
    """Fit a Wide & Deep ranker on snapshots.

    With ``validate`` the best epoch by ``objective`` is kept and fitting stops when it no longer improves; without,
    the model is fitted for exactly ``epochs``, along the same learning-rate schedule.

    Args:
        train: Pairs with labels; negatives count for as many as they were drawn from.
        config: Sizes and switches of the model, batches, losses, learning rates.
        id_inputs: Categorical features.
        crosses: Of these.
        trainer_of: Called with further keyword arguments of Lightning's Trainer; returns the Trainer.
        folder: Where checkpoints go.
        seed: Of parameters, batch order and dropout.
        objective: What ``validate`` is judged by.
        validate: Measures the model after every epoch.
        epochs: Number of epochs, when it has been chosen already.
        logger: Lightning logger, or False.
        starts: Name of a categorical feature to ids and vectors that its embedding starts from, as
            :meth:`WideDeep.start_from` takes them; the others start by chance, as all do in a model without deep part.
        ckpt_path: Checkpoint to go on from, or ``last``, which begins anew where there is none.
        checkpoint_minutes: Between checkpoints inside an epoch.
        ledger: Whether it is written down which groups each step took.

    Raises:
        ConfigError: The checkpoint cannot be read, or is of other settings or data.
        DataError: No pair of the set is positive, or there are fewer groups than processes.
    """
    if not train.labels[:, 0].any():
        raise DataError(
            f"the ranker's training set: none of its {len(train)} pairs is positive ({train.lost} items that users "
            "took are not among their candidates); at least one is needed. Take a longer horizon "
            "(ranker.training.horizon_days), fewer snapshots (ranker.training.snapshots), so that more lies before "
            "each, or more candidates (ranker.candidates.limit and sizes)."
        )
    lightning.seed_everything(seed, verbose=False)
    training = config.training
    course = Course(
        trainer_of,
        folder,
        max_epochs=epochs or training.max_epochs,
        patience=training.patience,
        # The pairs follow from these and the retriever, but for ties of scores, which another device breaks otherwise.
        made_from=plain({"ranker": asdict(config)}) | {"seed": seed, "groups": train.n_groups},
        objective=objective,
        validate=validate,
        logger=logger,
        checkpoint_minutes=checkpoint_minutes,
        ledger=ledger,
    )
    trainer = course.trainer
    sparse = may_be_sparse(trainer.world_size, trainer.gradient_clip_val)
    device = trainer.strategy.root_device
    model = make_ranker(train, config, id_inputs, crosses, sparse)
    if config.use_deep:
        for name, (ids, vectors) in (starts or {}).items():
            model.start_from(name, ids, vectors)
    model.to(device)
    batches = PairBatches(
        encode_pairs(model, train.features),
        train.labels.to(device),
        train.rate.reciprocal().to(device),
        train.group.to(device),
        batch_groups=training.batch_groups,
        epoch_batches=training.epoch_batches,
        seed=seed,
        rank=trainer.global_rank,
        world_size=trainer.world_size,
    )
    del train  # raw numbers take as much memory as encoded ones
    task = RankerTask(model, batches, training)
    return course.run(task, batches, ckpt_path)


@torch.no_grad()
def encode_pairs(model: WideDeep, features: dict[str, Tensor], chunk: int = CHUNK) -> dict[str, Tensor]:
    """Encode P pairs once, on the model's device, and keep what :meth:`WideDeep.score` reads.

    Args:
        model: Whose transforms and tables the codes are for.
        features: As :meth:`WideDeep.forward` takes them.
        chunk: Pairs that are encoded at a time.
    """
    device = model.bias.device
    wanted = score_keys(model)
    kept = {name: values.to(device) for name, values in features.items() if name in wanted}
    made: dict[str, list[Tensor]] = {name: [] for name in wanted - kept.keys()}
    of_pairs = {name: values for name, values in features.items() if not name.startswith(HISTORY)}
    for rows in torch.arange(len(features[model.first_name])).split(chunk):
        encoded = model.encode({name: values[rows].to(device) for name, values in of_pairs.items()})
        for name, parts in made.items():
            parts.append(encoded[name])
    return kept | {name: torch.cat(made.pop(name)) for name in list(made)}  # popped: never all of them twice


def score_keys(model: WideDeep) -> set[str]:
    """Name what :meth:`WideDeep.score` reads of what :meth:`WideDeep.encode` returns."""
    keys = {model.first_name}
    if model.use_wide:
        keys |= {"wide/rows", "wide/bins"}
    if model.use_deep:
        names, in_history = model.deep.names, model.deep.in_history
        keys |= {*names}
        if model.has_numerics:
            keys |= {"numeric/position", "numeric/log"}
        if model.deep.use_history:
            keys |= {REQUEST, AGE}
            keys |= {HISTORY + name for name, also in zip(names, in_history, strict=True) if also}
    return keys


@torch.no_grad()
def predict(model: WideDeep, features: dict[str, Tensor], chunk: int = CHUNK) -> Tensor:
    """Score P pairs by the first task.

    Args:
        model: In evaluation mode, on any device.
        features: As :meth:`WideDeep.forward` takes them, on one device.
        chunk: Pairs that are scored at a time; fewer with a history.

    Returns:
        Logits, float32 ``[P]``, on the CPU.
    """
    device, some = model.bias.device, features[model.first_name]
    logits = []
    for rows in torch.arange(len(some), device=some.device).split(pairs_at_once(features, chunk)):
        part = {name: values.to(device) for name, values in take_pairs(features, rows).items()}
        logits.append(model(part).view(len(rows), len(model.base_rates))[:, 0].cpu())
    return torch.cat(logits)


def calibrate(logits: Tensor, labels: Tensor, kind: str) -> nn.Module | None:
    """Fit what turns logits into probabilities; None where the sigmoid shall, or has to, do.

    Args:
        logits: ``[n]``.
        labels: 0 or 1, ``[n]``; if they are all of one kind, nothing can be fitted, which is logged.
        kind: ``isotonic``, ``platt``, ``temperature`` or ``none``.
    """
    if kind == "none":
        return None
    positives = int((labels > 0).sum())
    if positives in (0, len(labels)):
        log.warning(
            "calibration: %d of %d labels are positive, and it needs both kinds; probabilities are the ranker's own.",
            positives,
            len(labels),
        )
        return None
    return CALIBRATIONS[kind](logits, labels)
