"""Fits of the second stage: snapshots inside the training window, Wide & Deep, probabilities from validation.

::

    snapshots ◄─ a retriever that knows nothing after the first cut
        └─► ranker, epochs chosen on validation candidates ◄─ the retriever of the training window
                └─► calibration ─► fitted again on the snapshots and the validation window
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.config.schema import Config, RankerConfig
from recsys.entries.snapshots import cuts, horizon, pair_plan, snapshot

if TYPE_CHECKING:
    from torch import Tensor, nn

    from recsys.data.dataset import FittedData
    from recsys.data.encode import Encoder
    from recsys.data.log import InteractionLog
    from recsys.data.pair_plan import PairPlan
    from recsys.data.prepared import Prepared
    from recsys.data.snapshots import RankingSet, Snapshot
    from recsys.models.two_tower import TwoTower
    from recsys.models.wide import Cross, IdInput
    from recsys.models.wide_deep import WideDeep
    from recsys.tracking.run import Run
    from recsys.training.epochs import Fitted

MAIN = "wide_deep"
"""Name of the ranker in tables and folders."""


@dataclass(frozen=True)
class TowerTables:
    """Embeddings of a retriever that those of a ranker start from.

    Attributes:
        tables: Feature name to embeddings ``[rows, W]``, a row an id.
        encoder: Which value an id stands for.
    """

    tables: "dict[str, Tensor]"
    encoder: "Encoder"


@dataclass(frozen=True)
class SecondStage:
    """What the ranker learned from, and what was chosen.

    Attributes:
        plan: Features of pairs.
        snapshots: To train on, negatives thinned out, with the validation window as the last one.
        fitted: Ranker of the snapshots before the validation window.
        calibration: Logit to probability, fitted on the validation window; None for the sigmoid.
        start: What every fit of the ranker starts its embeddings from; None for chance.
    """

    plan: "PairPlan"
    snapshots: "tuple[Snapshot, ...]"
    fitted: "Fitted[WideDeep]"
    calibration: "nn.Module | None"
    start: TowerTables | None = None


def choose_ranker(
    cfg: Config,
    prepared: "Prepared",
    log: "InteractionLog",
    data: "FittedData",
    towers: "TwoTower",
    early: "TwoTower",
    tracked: "Run",
    folder: Path,
) -> SecondStage:
    """Fit on snapshots inside the training window; choose epochs and calibration on the validation window.

    Args:
        cfg: With ``ranker``.
        prepared: The data set.
        log: All its events.
        data: Fitted on the training window.
        towers: The retriever of the training window.
        early: The retriever as of the first cut, with the vocabularies of the training window.
        tracked: The open run.
        folder: Where checkpoints go.

    Raises:
        DataError: No snapshot has a positive pair.
    """
    from recsys.data.dataset import data_before, microseconds
    from recsys.data.snapshots import thin_out
    from recsys.training.fit import start_factors
    from recsys.training.fit_ranker import calibrate, predict

    settings = cfg.ranker
    # Towers that are fitted on more have seen what the labels of the snapshots say, and a ranker would trust them.
    start = TowerTables(early.id_tables(), data.encoder) if settings.start_from_towers else None
    plan = pair_plan(cfg, prepared)
    snapshots = []
    for number, cut in enumerate(cuts(cfg, prepared)):
        known = data_before(data, cut, prepared.has_item_table)
        if number:  # its factors take seconds to fit again, its towers minutes
            start_factors(early, known.log, known.tables, cfg.model, cfg.seed)
        taken = snapshot(cfg, prepared, log, known, early, plan, cut, cut + horizon(cfg, prepared))
        snapshots.append(thin_out(taken, settings.training.negatives, number))
    until = microseconds(prepared.windows.test_start)
    window = snapshot(cfg, prepared, log, data, towers, plan, data.cut, until, add_shown=False)
    validation = with_ids(data, [window])
    thinned = thin_out(window, settings.training.negatives, len(snapshots))
    window = replace(window, numbers=window.numbers[:0])  # its numbers are in `validation`
    validate = validator(cfg, data, log, window, validation, until)
    fitted = fit(cfg, data, snapshots, tracked, folder / "checkpoints" / "ranker", validate=validate, start=start)
    logits = predict(fitted.model, validation.features)
    calibration = calibrate(logits, validation.labels[:, 0], settings.calibration)
    return SecondStage(plan, (*snapshots, thinned), fitted, calibration, start)


def with_ids(data: "FittedData", snapshots: "list[Snapshot]") -> "RankingSet":
    """Add the ids of items and of users as of each snapshot, by the vocabularies that the ranker is fitted with."""
    import torch

    from recsys.data.snapshots import ranking_set

    item_ids, user_ids = ranker_ids(data)
    if data.user_at is not None:  # tables as of the snapshots lie one below the other
        known = [data.user_at(taken.cut) for taken in snapshots]
        user_ids = {name: torch.cat([table[name] for table in known]) for name in user_ids}
        snapshots = [replace(s, users=s.users + place * data.log.n_users) for place, s in enumerate(snapshots)]
    return ranking_set(snapshots, item_ids, user_ids)


def ranker_ids(data: "FittedData") -> "tuple[dict[str, Tensor], dict[str, Tensor]]":
    """Return the categorical features of items and users by name."""
    encoder = data.encoder
    items = {f.name: data.tables.item[f.name] for f in encoder.spec.side("item") if f.is_categorical}
    users = {f.name: data.tables.user[f.name] for f in encoder.spec.side("user") if f.is_categorical}
    return items, users


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

    from recsys.entries.retriever import trainer_factory
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


def validator(
    cfg: Config, data: "FittedData", log: "InteractionLog", window: "Snapshot", pairs: "RankingSet", until: int
) -> "Callable[[WideDeep], dict[str, float]]":
    """Return a function that measures a ranker on the validation window: metric keys such as ``val/ndcg_at_20``."""
    from recsys.evaluation.evaluate import evaluate
    from recsys.evaluation.slices import make_targets
    from recsys.evaluation.two_stage import PairScorer
    from recsys.training.fit_ranker import predict

    targets = make_targets(data.log, log.between(data.cut, until), data.eligible).only(window.users)
    parts = tuple(dict.fromkeys(["all", "repeat", "new", *cfg.objective.metric.split("/")[1:-1]]))

    def validate(model: "WideDeep") -> dict[str, float]:
        values = predict(model, pairs.features)
        scorer = PairScorer(MAIN, log.n_items, window.users, window.query, window.item, values)
        return evaluate(scorer, targets, cfg.evaluation.ks, parts, cfg.evaluation.chunk_users).flat("val")

    return validate


def fit_rankers(
    cfg: Config, data: "FittedData", stage: SecondStage, tracked: "Run", folder: Path
) -> "dict[str, WideDeep]":
    """Fit again on all snapshots, the validation window among them: the ranker, and its parts to compare with.

    Returns:
        Name to model: ``wide_deep`` and those of ``evaluation.rankers`` that are parts of it.
    """
    settings = {MAIN: cfg.ranker}
    if cfg.ranker.use_wide and cfg.ranker.use_deep:
        parts = {"wide_only": replace(cfg.ranker, use_deep=False), "deep_only": replace(cfg.ranker, use_wide=False)}
        settings |= {name: part for name, part in parts.items() if name in cfg.evaluation.rankers}
    places = folder / "checkpoints"
    return {name: fit_again(cfg, data, stage, tracked, places / name, chosen) for name, chosen in settings.items()}


def fit_again(
    cfg: Config,
    data: "FittedData",
    stage: SecondStage,
    tracked: "Run",
    folder: Path,
    settings: RankerConfig | None = None,
) -> "WideDeep":
    """Fit on all snapshots with the ids of other vocabularies, for the number of epochs that was chosen."""
    snapshots, epochs = list(stage.snapshots), stage.fitted.epochs
    start = stage.start
    return fit(cfg, data, snapshots, tracked, folder, settings=settings, epochs=epochs, start=start).model
