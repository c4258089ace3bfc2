"""One fit of the ranker: what it reads of ids, and what its embeddings start from."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.config.schema import Config, RankerConfig
from recsys.entries.lesson import TowerTables, ranker_ids, with_ids

if TYPE_CHECKING:
    from torch import Tensor

    from recsys.data.dataset import FittedData
    from recsys.data.snapshots import Snapshot
    from recsys.models.wide import Cross, IdInput
    from recsys.models.wide_deep import WideDeep
    from recsys.tracking.run import Run
    from recsys.training.epochs import Fitted


def id_inputs(data: "FittedData") -> "tuple[IdInput, ...]":
    """Return what the ranker must know of the categorical features: sizes and slots."""
    from recsys.models.wide import IdInput

    items, users = ranker_ids(data)
    spec = {f.name: f for f in data.encoder.spec}
    tables = items | users
    return tuple(
        IdInput(name, data.encoder.size(spec[name]), ids.shape[1] if ids.dim() == 2 else 0, spec[name].width)
        for name, ids in tables.items()
    )


def crosses(settings: RankerConfig, data: "FittedData") -> "tuple[Cross, ...]":
    """Return the configured crosses, or that of the user with each attribute of the item."""
    from recsys.columns import ITEM_ID, USER_ID
    from recsys.models.wide import Cross

    wanted = settings.crosses
    if wanted is None:
        items, _ = ranker_ids(data)
        wanted = [[USER_ID, name] for name, ids in items.items() if ids.dim() == 1 and name != ITEM_ID]
    return tuple(Cross(tuple(features), settings.cross_buckets) for features in wanted)


def fit(
    cfg: Config,
    data: "FittedData",
    snapshots: "list[Snapshot]",
    tracked: "Run",
    folder: Path,
    *,
    settings: RankerConfig | None = None,
    validate: "Callable[[WideDeep], dict[str, float]] | None" = None,
    epochs: int | None = None,
    start: TowerTables | None = None,
) -> "Fitted[WideDeep]":
    """Fit a ranker on snapshots: with ``validate`` for the best number of epochs, else for ``epochs``.

    Args:
        cfg: Trainer, objective and seed.
        data: Vocabularies that the ids are of.
        snapshots: What it learns from.
        tracked: The open run.
        folder: Where checkpoints go.
        settings: Of the model; by default ``cfg.ranker``.
        validate: Measures the ranker after every epoch.
        epochs: Number of epochs, when it has been chosen already.
        start: What embeddings start from.
    """
    import gc

    from recsys.entries.retriever import last_only, trainer_factory
    from recsys.tracking.lightning import RunLogger
    from recsys.training.fit_ranker import fit_ranker

    settings = settings or cfg.ranker
    fitted = fit_ranker(
        with_ids(data, snapshots),
        settings,
        id_inputs=id_inputs(data),
        crosses=crosses(settings, data),
        trainer_of=trainer_factory(cfg, again=True),
        folder=folder,
        seed=cfg.seed,
        objective=cfg.objective if validate else None,
        validate=validate,
        epochs=epochs,
        logger=RunLogger(tracked, f"{folder.name}/"),
        starts=tower_starts(start, data) if start else None,
        ckpt_path=last_only(cfg),
        checkpoint_minutes=cfg.training.checkpoint_minutes,
        ledger=cfg.training.ledger,
    )
    gc.collect()  # a Trainer and its task refer to each other, and keep gigabytes of encoded pairs until then
    return fitted


def tower_starts(start: TowerTables, data: "FittedData") -> "dict[str, tuple[Tensor, Tensor]]":
    """Return ids of ``data`` and vectors by the name of each feature that both ranker and towers embed.

    The towers may be of other vocabularies than the ranker: a vector goes to the id of its value, whatever id that
    value had for the towers.
    """
    features = {f.name: f for f in data.encoder.spec}
    names = [one.name for one in id_inputs(data) if one.name in start.tables]
    return {name: (start.encoder.ids_in(features[name], data.encoder), start.tables[name]) for name in names}
