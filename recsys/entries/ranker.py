"""Fits of the second stage: snapshots inside the training window, Wide & Deep, probabilities from validation.

::

    snapshots ◄─ a retriever that knows nothing after the first cut
        └─► ranker, epochs chosen on validation candidates ◄─ the retriever of the training window
                └─► calibration ─► fitted again on the snapshots and the validation window
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.config.schema import Config, RankerConfig
from recsys.entries.folds import average, best_epoch
from recsys.entries.lesson import Lesson, TowerTables, lessons, ranker_ids, with_ids
from recsys.entries.retriever import Watch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from recsys.data.dataset import FittedData
    from recsys.data.log import InteractionLog
    from recsys.data.pair_plan import PairPlan
    from recsys.data.snapshots import RankingSet, Snapshot
    from recsys.entries.folds import FoldData
    from recsys.models.two_tower import TwoTower
    from recsys.models.wide import Cross, IdInput
    from recsys.models.wide_deep import WideDeep
    from recsys.tracking.run import Run
    from recsys.training.epochs import Fitted

MAIN = "wide_deep"
"""Name of the ranker in tables and folders."""


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
    main: "FoldData",
    folds: "Sequence[FoldData]",
    data: "FittedData",
    chosen: "Fitted[TwoTower]",
    tracked: "Run",
    folder: Path,
) -> SecondStage:
    """Fit on snapshots inside the training window; choose epochs on the folds, calibration on the validation window.

    Args:
        cfg: With ``ranker``.
        main: The training window, with the validation window.
        folds: That epochs are chosen on; ``main`` alone, or others.
        data: Fitted on the training window.
        chosen: The retriever of the training window.
        tracked: The open run.
        folder: Where ``checkpoints`` go.

    Raises:
        DataError: No snapshot has a positive pair.
    """
    place = folder / "checkpoints"
    found, epochs = [], None
    if folds[0] is not main:
        for number, (fold, its, lesson) in enumerate(lessons(cfg, main, folds, data, chosen, tracked, place)):
            stage = learn(cfg, fold, its, lesson, tracked, place / f"fold{number}_ranker")
            found.append(stage.fitted.results)
        means = average(found, cfg.objective)
        epochs = best_epoch(means, cfg.objective)
    ((_, _, lesson),) = lessons(cfg, main, [main], data, chosen, tracked, place)
    stage = learn(cfg, main, data, lesson, tracked, place / "ranker", epochs=epochs)
    if epochs is None:
        return stage
    history = tuple(mean[cfg.objective.metric] for mean in means)
    fitted = replace(stage.fitted, best=history[epochs - 1], history=history, results=tuple(means))
    return replace(stage, fitted=fitted)


def learn(
    cfg: Config,
    fold: "FoldData",
    data: "FittedData",
    lesson: Lesson,
    tracked: "Run",
    folder: Path,
    watch: Watch | None = None,
    epochs: int | None = None,
) -> SecondStage:
    """Fit a ranker on the snapshots of a lesson; choose epochs and calibration by what is asked.

    Args:
        cfg: With ``ranker``.
        fold: Of the lesson.
        data: Fitted on what is learned from.
        lesson: From :func:`~recsys.entries.lesson.lessons`.
        tracked: The open run.
        folder: Where checkpoints go.
        watch: Told what validation found after each epoch.
        epochs: Number of epochs, when it has been chosen already.

    Raises:
        DataError: No snapshot has a positive pair.
    """
    from recsys.data.dataset import microseconds
    from recsys.training.fit_ranker import calibrate, predict

    until = microseconds(fold.asked.windows.test_start)
    measure = validator(cfg, fold.as_asked(data), fold.asked_log, lesson.window, lesson.pairs, until)

    def validate(model: "WideDeep") -> dict[str, float]:
        found = measure(model)
        if watch:
            watch(found)
        return found

    judge = None if epochs else validate
    fitted = fit(cfg, data, lesson.snapshots, tracked, folder, validate=judge, epochs=epochs, start=lesson.start)
    logits = predict(fitted.model, lesson.pairs.features)
    calibration = calibrate(logits, lesson.pairs.labels[:, 0], cfg.ranker.calibration)
    return SecondStage(lesson.plan, (*lesson.snapshots, lesson.thinned), fitted, calibration, lesson.start)


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
