"""Shares of the places that sources of candidates get: given, or by what they find after the first snapshot's cut."""

from dataclasses import replace
from typing import TYPE_CHECKING

from recsys.config.schema import Config
from recsys.entries.snapshots import embedded, groups_in, horizon, some_users, state_as_of, truths_of

if TYPE_CHECKING:
    from recsys.data.dataset import FittedData
    from recsys.data.log import InteractionLog
    from recsys.data.pair_plan import PairPlan
    from recsys.data.prepared import Prepared
    from recsys.models.two_tower import TwoTower

SHARE_USERS = 1000
"""Users whose truth says what shares of the places the sources get."""


def with_shares(cfg: Config, shares: dict[str, float]) -> Config:
    """Return a configuration with other shares of the sources of candidates."""
    return replace(cfg, ranker=replace(cfg.ranker, candidates=replace(cfg.ranker.candidates, shares=shares)))


def find_shares(
    cfg: Config,
    prepared: "Prepared",
    log: "InteractionLog",
    data: "FittedData",
    towers: "TwoTower",
    plan: "PairPlan",
    cut: int,
) -> dict[str, float]:
    """Return the share of the places of each source of candidates.

    Those that the configuration leaves open follow from what the sources find of the horizon after ``cut``, for some
    of its users.
    """
    import torch

    from recsys.data.asked import asked_as_of
    from recsys.data.candidates import learn_shares

    chosen = cfg.ranker.candidates
    if all(name in chosen.shares for name, size in chosen.sizes.items() if size):
        return chosen.shares
    truth = truths_of(cfg, prepared, log, cut, cut + horizon(cfg, prepared))[0]
    users = some_users(truth // log.n_items, SHARE_USERS, cfg.seed)
    state = state_as_of(cfg, prepared, log, data, towers, plan, cut)
    vectors = embedded(cfg, log, data, towers, users, cut, state)
    asked = asked_as_of(log, users, cut, vectors, groups_in(state))
    lists = {name: source(asked, chosen.sizes[name]) for name, source in state.sources().items()}
    truth = truth[torch.isin(truth // log.n_items, users)]
    wanted = torch.searchsorted(users, truth // log.n_items) * log.n_items + truth % log.n_items
    return learn_shares(lists, wanted, log.n_items, chosen.limit, chosen.shares)
