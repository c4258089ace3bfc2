"""Fits of the second stage: snapshots inside the training window, Wide & Deep, probabilities from validation.

::

    snapshots ◄─ a retriever that knows nothing after the first cut
        ├─► boosted trees, as many as validation finds best
        └─► ranker, epochs chosen on validation candidates ◄─ the retriever of the training window
                └─► joined with the trees, calibrated ─► all fitted again on the snapshots and the validation window
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.config.schema import Config, RankerConfig
from recsys.entries.folds import average, best_epoch
from recsys.entries.lesson import Lesson, TowerTables, lessons
from recsys.entries.ranker_fit import fit
from recsys.entries.retriever import Watch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from recsys.data.dataset import FittedData
    from recsys.data.log import InteractionLog
    from recsys.data.pair_plan import PairPlan
    from recsys.data.snapshots import Snapshot
    from recsys.entries.folds import FoldData
    from recsys.models.forest import Forest
    from recsys.models.two_tower import TwoTower
    from recsys.models.wide_deep import WideDeep
    from recsys.tracking.run import Run
    from recsys.training.boosting import Boosting
    from recsys.training.epochs import Fitted

MAIN = "wide_deep"
"""Name of the ranker in tables and folders."""

TREES_WEIGHT = 0.5
"""How far the trees move the order within a list, beside how far the model does: chosen on shops of many shapes."""


@dataclass(frozen=True)
class SecondStage:
    """What the ranker learned from, and what was chosen.

    Attributes:
        plan: Features of pairs.
        snapshots: To train on, negatives thinned out, with the validation window as the last one.
        fitted: Ranker of the snapshots before the validation window.
        calibration: Logit to probability, fitted on the validation window; None for the sigmoid.
        start: What every fit of the ranker starts its embeddings from; None for chance.
        boosting: How the trees are grown that join the ranker; None without.
        share: What their score counts beside the logit of the ranker.
    """

    plan: "PairPlan"
    snapshots: "tuple[Snapshot, ...]"
    fitted: "Fitted[WideDeep]"
    calibration: "nn.Module | None"
    start: TowerTables | None = None
    boosting: "Boosting | None" = None
    share: float = 0.0

    @cached_property
    def forest(self) -> "Forest | None":
        """The trees of all snapshots, those of the validation window among them."""
        from recsys.data.snapshots import ranking_set
        from recsys.training.boosting import fit_boosting

        if self.boosting is None:
            return None
        return fit_boosting(ranking_set(self.snapshots, {}, {}), settings=self.boosting).forest()


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
    from recsys.models.ranking_losses import spread_within
    from recsys.training.fit_ranker import calibrate, predict

    until = microseconds(fold.asked.windows.test_start)
    measure = validator(cfg, fold.as_asked(data), fold.asked_log, lesson.window, until)
    pairs, trees = lesson.pairs, lesson.trees if cfg.ranker.trees else None

    def joined(logits: "Tensor") -> "tuple[float, Tensor]":
        """Return what the trees' score counts beside logits, so that it moves the order half as far, and the sum."""
        if trees is None:
            return 0.0, logits
        spread = spread_within(trees.scores, pairs.group)
        share = TREES_WEIGHT * spread_within(logits, pairs.group) / spread if spread else 0.0
        return share, logits + share * trees.scores

    def validate(model: "WideDeep") -> dict[str, float]:
        found = measure(joined(predict(model, pairs.features))[1])
        if watch:
            watch(found)
        return found

    judge = None if epochs else validate
    fitted = fit(cfg, data, lesson.snapshots, tracked, folder, validate=judge, epochs=epochs, start=lesson.start)
    share, logits = joined(predict(fitted.model, pairs.features))
    if trees:
        fitted.model.add_trees(trees.forest, share)
    calibration = calibrate(logits, pairs.labels[:, 0], cfg.ranker.calibration)
    return SecondStage(
        lesson.plan,
        (*lesson.snapshots, lesson.thinned),
        fitted,
        calibration,
        lesson.start,
        trees.settings if trees else None,
        share,
    )


def validator(
    cfg: Config, data: "FittedData", log: "InteractionLog", window: "Snapshot", until: int
) -> "Callable[[Tensor], dict[str, float]]":
    """Return a function of the window's logits ``[P]`` that measures them: metric keys such as ``val/ndcg_at_20``."""
    from recsys.evaluation.evaluate import evaluate
    from recsys.evaluation.slices import make_targets
    from recsys.evaluation.two_stage import PairScorer

    targets = make_targets(data.log, log.between(data.cut, until), data.eligible).only(window.users)
    targets.require(cfg.objective.metric)
    parts = tuple(dict.fromkeys(["all", "repeat", "new", *cfg.objective.metric.split("/")[1:-1]]))

    def measure(logits: "Tensor") -> dict[str, float]:
        scorer = PairScorer(MAIN, log.n_items, window.users, window.query, window.item, logits)
        return evaluate(scorer, targets, cfg.evaluation.ks, parts, cfg.evaluation.chunk_users).flat("val")

    return measure


def fit_rankers(
    cfg: Config, data: "FittedData", stage: SecondStage, tracked: "Run", folder: Path
) -> "dict[str, WideDeep]":
    """Fit again on all snapshots, the validation window among them: the ranker, and its parts to compare with.

    Returns:
        Name to model: ``wide_deep`` and those of ``evaluation.rankers`` that are parts of it.
    """
    settings: dict[str, RankerConfig | None] = {MAIN: None}
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
    """Fit on all snapshots with the ids of other vocabularies, for the number of epochs that was chosen.

    Args:
        cfg: Trainer and seed.
        data: Vocabularies that the ids are of.
        stage: What was chosen.
        tracked: The open run.
        folder: Where checkpoints go.
        settings: Of a part of the ranker; None: the whole, with its trees.
    """
    snapshots, epochs = list(stage.snapshots), stage.fitted.epochs
    start = stage.start
    model = fit(cfg, data, snapshots, tracked, folder, settings=settings, epochs=epochs, start=start).model
    if settings is None and stage.forest is not None:  # a part of the ranker goes without
        model.add_trees(stage.forest, stage.share)
    return model
