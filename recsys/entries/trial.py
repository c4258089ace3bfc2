"""What a trial of a study does: fit on the training window, measured on the validation window, and on nothing later."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.config.schema import Config
from recsys.config.tune import LATENCY
from recsys.entries.retriever import Watch

if TYPE_CHECKING:
    from recsys.data.dataset import FittedData
    from recsys.data.log import InteractionLog
    from recsys.data.prepared import Prepared
    from recsys.entries.folds import FoldData
    from recsys.entries.lesson import Lesson
    from recsys.models.two_tower import TwoTower
    from recsys.tracking.run import Run

TIMED_USERS, TIMES = 64, 5
"""Users of one request when the time of an answer is taken, and how often it is."""


def without_test(prepared: "Prepared") -> "Prepared":
    """Return the data set as if it ended where the test window begins.

    Gone are the events from there on, users who were not seen before, and, without a table of items, items that were
    not. A table of items is what a shop sells, whether or not it has been sold yet, and stays.
    """
    import polars as pl

    from recsys.columns import ITEM_ID, TIMESTAMP, USER_ID

    end = prepared.windows.test_start
    events = prepared.events.filter(pl.col(TIMESTAMP) < end)
    items = prepared.items
    if not prepared.has_item_table:
        items = items.filter(pl.col(ITEM_ID).is_in(events[ITEM_ID].unique().implode()))
    return replace(
        prepared,
        event_parts=(events.lazy(),),
        items=items,
        users=prepared.users.filter(pl.col(USER_ID).is_in(events[USER_ID].unique().implode())),
        impression_parts=tuple(part.filter(pl.col(TIMESTAMP) < end) for part in prepared.impression_parts),
        windows=replace(prepared.windows, end=end),
    )


@dataclass
class Bench:
    """What the trials of one worker share.

    Attributes:
        prepared: From :func:`without_test`.
        log: Its events.
        kept: Part to the settings that it was made with, and what was made.
    """

    prepared: "Prepared"
    log: "InteractionLog"
    kept: dict[str, tuple[str, Any]] = field(default_factory=dict)

    def once(self, part: str, settings: Any, make: Callable[[], Any]) -> Any:
        """Return what was made for equal settings, or make it; of each part one is kept."""
        key = json.dumps(settings, sort_keys=True, default=str)
        if part in self.kept and self.kept[part][0] != key:
            del self.kept[part]  # before the next takes as much memory
        if part not in self.kept:
            self.kept[part] = (key, make())
        return self.kept[part][1]


def make_bench(prepared: "Prepared") -> Bench:
    """Return what trials share, of data without the test window."""
    from recsys.data.dataset import interaction_log

    known = without_test(prepared)
    return Bench(known, interaction_log(known))


def run_trial(bench: Bench, cfg: Config, tracked: "Run", folder: Path, watch: Watch) -> dict[str, float]:
    """Fit what the configuration says, and return the metrics of its best epoch on the validation window.

    With ``ranker.enabled`` the ranker is measured, on candidates of a retriever that is fitted again only when its own
    settings differ from those of the trial before. Otherwise the retriever is.

    Args:
        bench: Data, and what earlier trials have left.
        cfg: Of this trial.
        tracked: The run of this trial.
        folder: Where its checkpoints go.
        watch: Told the metrics after each epoch; what it raises ends the trial.

    Returns:
        Flat keys, ``val/...``, and ``milliseconds_a_user``.
    """
    from recsys.entries.folds import average, best_epoch
    from recsys.entries.ranker import learn
    from recsys.entries.retriever import choose_epochs

    main, folds = asked_of(bench, cfg)
    if not cfg.ranker.enabled:
        data, fitted = choose_epochs(cfg, main, folds, cfg.model, tracked, folder, watch)
        return fitted.metrics | {LATENCY: answer_time(cfg, data, fitted.model)}
    found: list[Sequence[dict[str, float]]] = []
    for fold, data, lesson in taught(bench, cfg, main, folds, folder):
        place = folder / "checkpoints" / f"ranker{len(found)}"
        stage = learn(cfg, fold, data, lesson, tracked, place, watch if fold is main else None)
        found.append(stage.fitted.results)
        means = average(found, cfg.objective)
        best = means[best_epoch(means, cfg.objective) - 1]
        if fold is not main:
            watch(best)
    return best | {LATENCY: ranking_time(stage.fitted.model, lesson)}


def asked_of(bench: Bench, cfg: Config) -> "tuple[FoldData, list[FoldData]]":
    """Return the training window with the validation window, and the folds that a trial is judged by."""
    from recsys.entries.folds import make_folds
    from recsys.segments.features import with_segments

    def make() -> "tuple[FoldData, list[FoldData]]":
        prepared, _ = with_segments(bench.prepared, cfg.segments, cfg.seed)
        return make_folds(cfg, bench.prepared, prepared, bench.log)

    return bench.once("folds", [asdict(cfg.segments), cfg.seed, cfg.validation, cfg.folds], make)


def taught(
    bench: Bench, cfg: Config, main: "FoldData", folds: "Sequence[FoldData]", folder: Path
) -> "list[tuple[FoldData, FittedData, Lesson]]":
    """Return what rankers learn from in each fold; retrievers and pairs are made again only for other settings."""
    from recsys.entries.lesson import lessons
    from recsys.entries.retriever import choose_epochs
    from recsys.tracking.run import Run

    of_towers: list[Any] = [cfg.model, cfg.training, cfg.segments, cfg.objective, cfg.data.sessions]
    towers = [*(asdict(part) for part in of_towers), cfg.trainer, cfg.seed, cfg.validation, cfg.folds]
    place = folder / "towers"
    data, chosen = bench.once("towers", towers, lambda: choose_epochs(cfg, main, folds, cfg.model, Run(), place))

    def make() -> "list[tuple[FoldData, FittedData, Lesson]]":
        return list(lessons(cfg, main, folds, data, chosen, Run(), place))

    return bench.once("lessons", [towers, lesson_settings(cfg)], make)


def lesson_settings(cfg: Config) -> list[Any]:
    """Return what of the ranker's settings decides which pairs with which features it learns from, and which trees."""
    ranker, fits = cfg.ranker, cfg.ranker.training
    pairs = [asdict(ranker.candidates), ranker.groups, ranker.sessions, ranker.tasks, ranker.start_from_towers]
    history = ranker.history if ranker.attention else 0
    cuts = [fits.snapshots, fits.stride_days, fits.horizon_days, fits.max_users, fits.negatives]
    return [*pairs, history, *cuts, ranker.trees]


def answer_time(cfg: Config, data: "FittedData", towers: "TwoTower") -> float:
    """Return the milliseconds a user that scoring the catalogue takes, the median of a few requests."""
    import torch

    from recsys.evaluation.towers import TowerScorer

    scorer = TowerScorer(towers, data.log, data.tables, data.cut, cfg.model.history)
    users = torch.arange(min(TIMED_USERS, data.log.n_users))
    return _median_time(lambda: scorer.scores(users)) / len(users)


def ranking_time(model: Any, lesson: "Lesson") -> float:
    """Return the milliseconds a user that ranking the candidates takes, the median of a few requests."""
    from recsys.data.recent import take_pairs
    from recsys.training.fit_ranker import predict

    users = min(TIMED_USERS, len(lesson.window.users))
    rows = (lesson.window.query < users).nonzero().flatten()
    features = take_pairs(lesson.pairs.features, rows)
    return _median_time(lambda: predict(model, features)) / users


def _median_time(call: Callable[[], Any]) -> float:
    """Milliseconds."""
    import time
    from statistics import median

    taken = []
    for _ in range(TIMES):
        start = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - start))
    return median(taken)
