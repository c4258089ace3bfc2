"""What models are probed on: the data set, or a sample with what is known of the whole, and inputs made of it."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from recsys.config.schema import Config
from recsys.entries.lesson import ranker_ids
from recsys.entries.retriever import tower_inputs
from recsys.entries.snapshots import pair_plan
from recsys.planning.forecast import POSITIVE_SHARE, expected_distinct

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from recsys.data.dataset import FittedData
    from recsys.data.log import InteractionLog
    from recsys.data.prepared import Prepared
    from recsys.data.snapshots import RankingSet
    from recsys.data.tables import FeatureTables
    from recsys.models.tower_shape import TowerInputs

STEPS = 4
"""Steps that are taken of each model, the first to warm up."""
MADE_ITEMS, MADE_EVENTS = 100_000, 500_000
"""Rows of made inputs, at most: the time of a step hardly depends on more."""
MOST_EVENTS = 3_000_000
"""Events of a prepared data set that are all read; of more, those of some users."""


@dataclass(frozen=True)
class Basis:
    """What the models are probed on.

    Attributes:
        prepared: The data set, or one made of a sample.
        log: Its events.
        data: As of the start of the validation window.
        share: Of the events of the whole that it has; 1: it is the whole.
        users: U of the whole.
        items: N of the whole.
        events: E of the whole.
    """

    prepared: "Prepared"
    log: "InteractionLog"
    data: "FittedData"
    share: float
    users: int
    items: int
    events: int

    @property
    def is_exact(self) -> bool:
        """Whether it is the whole."""
        return self.share >= 1

    @property
    def train(self) -> int:
        """Events of the training window of the whole."""
        return round(len(self.data.log) / max(len(self.log), 1) * self.events)


def basis_of(
    cfg: Config, prepared: "Prepared", events: int, users: int | None = None, items: int | None = None
) -> Basis:
    """Encode a data set, or one of a sample, as a fit on the training window would.

    Args:
        cfg: With ``segments``.
        prepared: The data set.
        events: How many the whole has.
        users: At least, where a table has so many; None: nobody knows.
        items: Likewise.

    Raises:
        RecsysError: What the run would be refused for.
    """
    from recsys.columns import ITEM_ID, TIMESTAMP, USER_ID
    from recsys.data.dataset import fit_data, interaction_log
    from recsys.segments.features import with_segments

    share = min(len(prepared.events) / max(events, 1), 1.0)
    settings = cfg.segments if share >= 1 else replace(cfg.segments, ks=cfg.segments.ks[:1], seeds=1)
    prepared, _ = with_segments(prepared, settings, cfg.seed)
    log = interaction_log(prepared)
    data = fit_data(prepared, log, prepared.windows.val_start)

    def count(key: str, rows: int, at_least: int | None) -> int:
        # Lines of one time are one draw: rows that stand together are mostly of one user.
        draws = prepared.events.select(USER_ID, TIMESTAMP).unique() if key == USER_ID else prepared.events
        counts = draws[key].value_counts()["count"]
        return rows if share >= 1 else max(expected_distinct(counts, share), at_least or 0)

    n_users = count(USER_ID, log.n_users, users)
    n_items = count(ITEM_ID, log.n_items, items)
    return Basis(prepared, log, data, share, n_users, n_items, events)


def whole_inputs(basis: Basis) -> "TowerInputs":
    """Return what towers of the whole would read: tables of a sample are as large as those of the whole may be."""
    inputs = tower_inputs(basis.data)
    if basis.is_exact:
        return inputs
    grown = grown_rows(basis)
    return replace(
        inputs,
        item_rows=grown["item_id"],
        user_rows=grown["user_id"],
        item=tuple(replace(one, rows=grown.get(one.name, one.rows)) for one in inputs.item),
        user=tuple(replace(one, rows=grown.get(one.name, one.rows)) for one in inputs.user),
    )


def grown_rows(basis: Basis) -> dict[str, int]:
    """Return rows of the tables of ids that the whole would need; those of attributes hardly grow."""
    from recsys.features import FIRST_ID

    seen = basis.train / max(basis.events, 1)  # of users and items, those of the training window have ids
    encoder, grown = basis.data.encoder, {}
    for feature in encoder.spec:
        if feature.is_own_id and feature.is_categorical:
            whole = basis.users if feature.side == "user" else basis.items
            known = encoder.size(feature)
            grown[feature.name] = max(known, FIRST_ID + int(whole * (0.5 + 0.5 * seen)))
    return grown


def made_log(cfg: Config, basis: Basis, inputs: "TowerInputs") -> "tuple[InteractionLog, FeatureTables]":
    """Make users who are as active as those of the whole, for a few batches; their features are those of the sample."""
    import torch

    from recsys.data.log import DAY, InteractionLog
    from recsys.data.moments import moments_of
    from recsys.data.tables import FeatureTables
    from recsys.features import FIRST_ID

    chance = torch.Generator().manual_seed(cfg.seed)
    known = basis.data
    moment = max(round(len(known.log) / max(len(moments_of(known.log)), 1)), 1)
    each = max(min(basis.train // max(basis.users, 1), 2 * cfg.model.history), 2 * moment)
    wanted = STEPS * cfg.training.batch_moments * moment
    users = max(min(wanted, MADE_EVENTS) // each, 2)
    items = min(basis.items, MADE_ITEMS)
    n = users * each
    user = torch.arange(users).repeat_interleave(each)
    place = torch.arange(each).repeat(users)
    basket = user * each + place // moment
    item = _drawn_items(known.log.item, items, n, chance)
    log = InteractionLog(
        user,
        item,
        place // moment * DAY,
        basket.unique(return_inverse=True)[1],
        torch.ones(n, dtype=torch.bool),
        users,
        items,
    )

    def drawn(table: "dict[str, Tensor]", rows: int) -> "dict[str, Tensor]":
        return {name: values[torch.randint(len(values), (rows,), generator=chance)] for name, values in table.items()}

    own_items, own_users = drawn(known.tables.item, items), drawn(known.tables.user, users)
    own_items["item_id"] = FIRST_ID + torch.arange(items) % max(inputs.item_rows - FIRST_ID, 1)
    own_users["user_id"] = FIRST_ID + torch.arange(users) % max(inputs.user_rows - FIRST_ID, 1)
    return log, FeatureTables(own_items, own_users, drawn(known.tables.context, n), known.tables.popularity_days)


def _drawn_items(seen: "Tensor", items: int, n: int, chance: "Generator") -> "Tensor":
    """Draw items as a sample has them, and any of the catalogue as often as it would name one for the first time.

    That share is Good's estimate (1953): of the lines of the sample, those whose item it has once.
    """
    import torch

    once = float((torch.bincount(seen) == 1).sum()) / max(len(seen), 1)
    known = seen[torch.randint(len(seen), (n,), generator=chance)] % items
    return torch.where(torch.rand(n, generator=chance) < once, torch.randint(items, (n,), generator=chance), known)


def made_pairs(cfg: Config, basis: Basis) -> "RankingSet":
    """Make pairs of the features that the data allow, with numbers by chance, for a few batches."""
    import torch

    from recsys.data.recent import Recent, history_inputs
    from recsys.data.snapshots import RankingSet, pair_inputs

    chance = torch.Generator().manual_seed(cfg.seed)
    settings = cfg.ranker
    each = min(settings.candidates.limit, basis.items) * min(settings.training.negatives + POSITIVE_SHARE, 1.0)
    each, n_groups = max(int(each), 2), STEPS * settings.training.batch_groups
    n = n_groups * each
    item_ids, user_ids = ranker_ids(basis.data)
    names = [feature.name for feature in pair_plan(cfg, basis.prepared).features]
    group = torch.arange(n_groups).repeat_interleave(each)
    item = torch.randint(basis.log.n_items, (n,), generator=chance)
    user = torch.randint(basis.log.n_users, (n_groups,), generator=chance)[group]
    numbers = torch.randn(n, len(names), generator=chance)
    numbers[1] = float("nan")  # what may be missing has a bin of its own
    features = pair_inputs(names, numbers, item, user, item_ids, user_ids)
    if settings.attention:
        shape = (n_groups, settings.history)
        recent = Recent(torch.randint(basis.log.n_items, shape, generator=chance), torch.rand(shape, generator=chance))
        features |= history_inputs(recent, group, item_ids)
    labels = (torch.rand(n, 1 + len(settings.tasks), generator=chance) < POSITIVE_SHARE).float()
    labels[0] = 1.0
    return RankingSet(group, features, labels, torch.ones(n))


def learners(cfg: Config, basis: Basis) -> int:
    """Return how many users at a cut a ranker learns from: those who take something after each of its cuts."""
    from recsys.entries.cuts import cuts, horizon

    length, most, total = horizon(cfg, basis.prepared), cfg.ranker.training.max_users, 0
    for cut in cuts(cfg, basis.prepared):
        taken = basis.log.between(cut, cut + length).only_relevant()
        users = len(taken.user.unique())
        if not basis.is_exact:  # as many as have one event or more, if all are alike
            users = round(basis.users * -math.expm1(-len(taken) / basis.share / max(basis.users, 1)))
        total += min(users, most)
    return max(total, 1)


def exact_or_first(prepared: "Prepared") -> "tuple[Prepared, int]":
    """Return a prepared data set, with the events of its first users where there are very many, and their number."""
    import polars as pl

    heights = [int(part.select(pl.len()).collect().item()) for part in prepared.event_parts]
    total = sum(heights)
    if total > MOST_EVENTS:
        return prepared.with_events(prepared.event_parts[0].head(MOST_EVENTS // 4).collect()), total
    return prepared, total
