"""What rankers learn from and are chosen by: snapshots inside the training window, and the validation window."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from recsys.config.schema import Config
from recsys.entries.snapshots import cuts, horizon, pair_plan, snapshot

if TYPE_CHECKING:
    from torch import Tensor

    from recsys.data.dataset import FittedData
    from recsys.data.encode import Encoder
    from recsys.data.log import InteractionLog
    from recsys.data.pair_plan import PairPlan
    from recsys.data.prepared import Prepared
    from recsys.data.snapshots import RankingSet, Snapshot
    from recsys.models.two_tower import TwoTower


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
class Lesson:
    """What rankers learn from and are chosen by, whatever they look like.

    Attributes:
        plan: Features of pairs.
        snapshots: To train on, negatives thinned out.
        window: Who is asked on the validation window, and their candidates; its numbers are in ``pairs``.
        pairs: The candidates of the validation window with their features.
        thinned: The validation window as one more snapshot to train on.
        start: What every ranker starts its embeddings from; None for chance.
    """

    plan: "PairPlan"
    snapshots: "list[Snapshot]"
    window: "Snapshot"
    pairs: "RankingSet"
    thinned: "Snapshot"
    start: TowerTables | None


def make_lesson(
    cfg: Config,
    prepared: "Prepared",
    log: "InteractionLog",
    data: "FittedData",
    towers: "TwoTower",
    early: "TwoTower",
) -> Lesson:
    """Take snapshots inside the training window, and of the validation window; the arguments of ``choose_ranker``.

    The early retriever is changed: its factors become those of the last cut.
    """
    from recsys.data.dataset import data_before, microseconds
    from recsys.data.snapshots import thin_out
    from recsys.training.fit import start_factors

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
    pairs = with_ids(data, [window])
    thinned = thin_out(window, settings.training.negatives, len(snapshots))
    return Lesson(plan, snapshots, replace(window, numbers=window.numbers[:0]), pairs, thinned, start)


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
