"""What rankers learn from and are chosen by: snapshots inside the training window, and the validation window."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.config.schema import Config
from recsys.entries.cuts import cuts, horizon
from recsys.entries.snapshots import pair_plan, snapshot

if TYPE_CHECKING:
    from torch import Tensor

    from recsys.data.dataset import FittedData
    from recsys.data.encode import Encoder
    from recsys.data.pair_plan import PairPlan
    from recsys.data.snapshots import RankingSet, Snapshot
    from recsys.entries.folds import FoldData
    from recsys.models.forest import Forest
    from recsys.models.two_tower import TwoTower
    from recsys.tracking.run import Run
    from recsys.training.boosting import Boosting
    from recsys.training.epochs import Fitted


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
class Trees:
    """Boosted trees, grown on snapshots.

    Attributes:
        settings: How they are grown; the number of trees is what the validation window found best.
        forest: They.
        scores: Of the pairs of the validation window, ``[P]``.
    """

    settings: "Boosting"
    forest: "Forest"
    scores: "Tensor"


@dataclass(frozen=True)
class Lesson:
    """What rankers learn from and are chosen by, whatever they look like.

    Attributes:
        plan: Features of pairs.
        snapshots: To train on, negatives thinned out.
        window: Who is asked on the validation window, and their candidates; its numbers are in ``pairs``.
        pairs: The candidates of the validation window with their features.
        thinned: The validation window as one more snapshot to train on.
        start: What every ranker starts its embeddings from; None for chance.
        trees: What joins every ranker, and is the same for all; None without.
    """

    plan: "PairPlan"
    snapshots: "list[Snapshot]"
    window: "Snapshot"
    pairs: "RankingSet"
    thinned: "Snapshot"
    start: TowerTables | None
    trees: Trees | None = None


def lessons(
    cfg: Config,
    main: "FoldData",
    folds: "Sequence[FoldData]",
    data: "FittedData",
    chosen: "Fitted[TwoTower]",
    tracked: "Run",
    folder: Path,
) -> "Iterator[tuple[FoldData, FittedData, Lesson]]":
    """Yield what rankers learn from in each fold, and what their ids are of.

    Args:
        cfg: With ``ranker``.
        main: The training window, with the validation window.
        folds: ``main``, or others, for which retrievers are fitted again.
        data: Fitted on the training window.
        chosen: The retriever of the training window.
        tracked: The open run.
        folder: Where checkpoints go.
    """
    from recsys.data.dataset import data_before
    from recsys.entries.retriever import refit

    for number, fold in enumerate(folds):
        its, towers, place = data, chosen.model, folder
        if fold is not main:
            its, place = fold.fit(), folder / f"fold{number}"
            towers = refit(cfg, its, cfg.model, chosen.epochs, tracked, place / "towers")
        first = data_before(its, cuts(cfg, fold.learned)[0], fold.learned.has_item_table)
        early = refit(cfg, first, cfg.model, chosen.epochs, tracked, place / "early")
        yield fold, its, make_lesson(cfg, fold, its, towers, early)


def make_lesson(cfg: Config, fold: "FoldData", data: "FittedData", towers: "TwoTower", early: "TwoTower") -> Lesson:
    """Take snapshots inside the window that is learned from, and of the one that is asked about.

    Args:
        cfg: With ``ranker``.
        fold: What is learned from, and what is asked.
        data: Fitted on what is learned from.
        towers: The retriever of the whole window.
        early: The retriever as of the first cut, with the same vocabularies. It is changed: its factors become those
            of the last cut.
    """
    from recsys.data.dataset import data_before, microseconds
    from recsys.data.snapshots import thin_out
    from recsys.training.fit import start_factors

    settings, prepared, log = cfg.ranker, fold.learned, fold.learned_log
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
    asked = fold.as_asked(data)
    window = snapshot(cfg, fold.asked, fold.asked_log, asked, towers, plan, data.cut, until, add_shown=False)
    pairs = with_ids(data, [window])
    thinned = thin_out(window, settings.training.negatives, len(snapshots))
    trees = grow(cfg, snapshots, thinned, pairs) if settings.trees else None
    return Lesson(plan, snapshots, replace(window, numbers=window.numbers[:0]), pairs, thinned, start, trees)


def grow(cfg: Config, snapshots: "list[Snapshot]", thinned: "Snapshot", pairs: "RankingSet") -> Trees:
    """Grow boosted trees on snapshots, as many as order the validation window best.

    Args:
        cfg: With the seed.
        snapshots: What they learn from.
        thinned: The validation window as a snapshot.
        pairs: All its pairs.

    Raises:
        DataError: No pair of the snapshots is positive.
    """
    from recsys.data.snapshots import ranking_set
    from recsys.training.boosting import Boosting, fit_boosting, predict_boosting

    settings = Boosting(seed=cfg.seed)
    grown = fit_boosting(ranking_set(snapshots, {}, {}), ranking_set([thinned], {}, {}), settings)
    chosen = replace(settings, rounds=max(grown.booster.best_iteration, 1))
    return Trees(chosen, grown.forest(), predict_boosting(grown, pairs.features))


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
