"""What the second stage learns from and is asked: states, candidates and labels as of a cut."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from recsys.config.schema import Config
from recsys.entries.cuts import cuts

if TYPE_CHECKING:
    from torch import Tensor

    from recsys.data.dataset import FittedData
    from recsys.data.log import InteractionLog
    from recsys.data.pair_plan import PairPlan
    from recsys.data.prepared import Prepared
    from recsys.data.ranking_state import RankerPairs, RankingState
    from recsys.data.snapshots import Snapshot
    from recsys.models.two_tower import TwoTower

CHUNK_USERS = 512
"""Requests whose features are computed at a time: bounds memory."""


def refuse_unknown(cfg: Config, prepared: "Prepared") -> None:
    """Refuse what the ranker cannot find in the data, before anything is fitted.

    Raises:
        ConfigError: A task is no event type, the group of ``popular_in_group`` is no feature of a user or moment, or
            a feature is called as a number of pairs is.
        DataError: The training window is too short for a snapshot.
    """
    from recsys.columns import EVENT_TYPE
    from recsys.data.snapshots import refuse_shared_names
    from recsys.errors import ConfigError, did_you_mean

    types = []
    if EVENT_TYPE in prepared.events.columns:
        types = prepared.events[EVENT_TYPE].drop_nulls().unique().sort().to_list()
    for task in cfg.ranker.tasks:
        if task not in types:
            legal = f"legal: {', '.join(types)}" if types else f"the events have no column '{EVENT_TYPE}'"
            raise ConfigError(f"ranker.tasks: '{task}' is no event type; {legal}.{did_you_mean(task, types)}")
    group = cfg.ranker.candidates.group
    names = [f.name for f in prepared.spec.side("user", "context") if f.kind == "id"]
    if group is not None and group not in names:
        raise ConfigError(
            f"ranker.candidates.group: '{group}' is no user attribute or context column with one value; legal: "
            f"{', '.join(names)}." + did_you_mean(group, names)
        )
    plan = pair_plan(cfg, prepared)
    ids = (f.name for f in prepared.spec.side("item", "user") if f.is_categorical)
    refuse_shared_names([f.name for f in plan.features], ids)
    cuts(cfg, prepared)


def pair_plan(cfg: Config, prepared: "Prepared") -> "PairPlan":
    """Decide which features of pairs the data allow and the configuration wants.

    Raises:
        ConfigError: A group of ``ranker.groups`` is no column of the items, or is named twice.
    """
    from recsys.columns import BASKET_ID, TIMESTAMP
    from recsys.data.pair_plan import plan_pairs
    from recsys.data.sessions import SessionPlan, plan_sessions

    sessions = None
    if cfg.ranker.sessions:
        wanted = cfg.data.sessions
        known = prepared.events.filter(prepared.events[TIMESTAMP] < prepared.windows.val_start)
        plan = SessionPlan(
            by_basket=wanted.by == BASKET_ID,
            gap_minutes=wanted.gap_minutes,
            zone=wanted.timezone or cfg.data.timezone,
            holidays=tuple(wanted.holidays),
            weights=dict(wanted.weights),
            half_life_days=wanted.half_life_days,
            cart_days=wanted.cart_days,
            purchase=tuple(wanted.purchase),
            cart=tuple(wanted.cart),
            wishlist=tuple(wanted.wishlist),
        )
        sessions = plan_sessions(plan, known)
    return plan_pairs(prepared.events, prepared.items, prepared.spec, cfg.ranker.groups, prepared.relevant, sessions)


def snapshot(
    cfg: Config,
    prepared: "Prepared",
    log: "InteractionLog",
    data: "FittedData",
    towers: "TwoTower",
    plan: "PairPlan",
    cut: int,
    until: int,
    *,
    add_shown: bool = True,
) -> "Snapshot":
    """Collect candidates with features as of ``cut``, and what was taken in ``[cut, until)``.

    Only users who took something take part, the first ``max_users`` of a random order. What they were shown in that
    time, taken or not, is among their candidates with ``add_shown``, at most as much of each user as there are other
    candidates: to learn from, not to measure by.
    """
    import torch

    from recsys.data.asked import asked_as_of
    from recsys.data.recent import recent_items
    from recsys.data.snapshots import take_snapshot
    from recsys.training.task import embed_users

    truths = truths_of(cfg, prepared, log, cut, until)
    users = (truths[0] // log.n_items).unique()
    drawn = torch.randperm(len(users), generator=torch.Generator().manual_seed(cfg.seed))
    users = users[drawn[: cfg.ranker.training.max_users].sort().values]
    state = state_as_of(cfg, prepared, log, data, towers, plan, cut)
    vectors = state.vectors[:0]  # of nobody
    if len(users):
        vectors = embed_users(towers, log, data.tables, users, cut, cfg.model.history) / towers.temperature.detach()
    shown, missed = shown_in(prepared, log.n_items, cut, until), None
    if shown is not None:
        shown = some_of_each(shown, log.n_items, cfg.ranker.candidates.limit, cfg.seed)
        missed = shown[~torch.isin(shown, torch.cat(truths))]
    pairs = list(pairs_of(prepared, log, state, users, vectors, shown if add_shown else None))
    recent = recent_items(asked_as_of(log, users, cut), state.history) if state.history else None
    return take_snapshot(users, pairs, truths, log.n_items, cut, recent, missed)


def truths_of(cfg: Config, prepared: "Prepared", log: "InteractionLog", start: int, end: int) -> "list[Tensor]":
    """Return what users took, by task, as distinct ``user * N + item``: what is relevant, then each configured type."""
    import torch

    from recsys.columns import EVENT_TYPE

    inside = (log.time >= start) & (log.time < end)
    keys = log.user * log.n_items + log.item
    truths = [keys[inside & log.relevant].unique()]
    for task in cfg.ranker.tasks:
        # The log has one row for each of the prepared events, in their order.
        is_task = torch.from_numpy((prepared.events[EVENT_TYPE] == task).fill_null(False).to_numpy().copy())
        truths.append(keys[inside & is_task].unique())
    return truths


def shown_in(prepared: "Prepared", n_items: int, start: int, end: int) -> "Tensor | None":
    """Return what users were shown in ``[start, end)``, as distinct ``user * N + item``; None without impressions."""
    import torch

    from recsys.columns import ITEM_ID, TIMESTAMP, USER_ID
    from recsys.data.log import as_time

    if prepared.impressions.is_empty():
        return None
    time = prepared.impressions[TIMESTAMP]
    rows = prepared.impressions.filter((time >= as_time(start)) & (time < as_time(end)))
    for frame, key in ((prepared.users, USER_ID), (prepared.items, ITEM_ID)):
        rows = rows.join(frame.select(key).with_row_index(f"{key}_row"), on=key)
    user, item = (torch.from_numpy(rows[f"{key}_row"].to_numpy().astype("int64")) for key in (USER_ID, ITEM_ID))
    return (user * n_items + item).unique()


def some_of_each(keys: "Tensor", n_items: int, most: int, seed: int) -> "Tensor":
    """Draw at most so many items of each user among distinct ``user * N + item``; ascending."""
    import torch

    drawn = keys[torch.randperm(len(keys), generator=torch.Generator().manual_seed(seed))]
    user = drawn // n_items
    order = user.argsort(stable=True)
    place = torch.arange(len(keys)) - torch.searchsorted(user[order], user[order])
    return drawn[order[place < most]].sort().values


def state_as_of(
    cfg: Config,
    prepared: "Prepared",
    log: "InteractionLog",
    data: "FittedData",
    towers: "TwoTower",
    plan: "PairPlan",
    cut: int,
) -> "RankingState":
    """Sum up the events before ``cut`` for the second stage."""
    from recsys.data.ranking_state import CandidatePlan, fit_ranking_state
    from recsys.training.task import embed_items

    past = log.between(None, cut)
    chosen = cfg.ranker.candidates
    eligible = data.eligible.clone()  # of the cut that the data was fitted at, which may be an earlier one
    eligible[past.item] = True
    return fit_ranking_state(
        past,
        prepared.events,
        prepared.items,
        data.tables.item,
        cut,
        plan=plan,
        candidate_plan=CandidatePlan(
            chosen.limit, {k: n for k, n in chosen.sizes.items() if n}, dict(chosen.shares), chosen.group or ""
        ),
        eligible=eligible,
        vectors=embed_items(towers, data.tables, data.tables.clock(past), cut),
        parts=towers.parts,
        groups=group_codes(chosen.group, prepared, data, past, cut),
        history=cfg.ranker.history if cfg.ranker.attention else 0,
        popularity_days=data.tables.popularity_days,
    )


def group_codes(
    name: str | None, prepared: "Prepared", data: "FittedData", past: "InteractionLog", cut: int
) -> "Tensor | None":
    """Return the group of each user by an attribute, or by the value of a context column that is usual for them.

    Returns:
        int64 ``[U]``, :data:`~recsys.data.topk.NONE` for a user whose value is missing or unknown to the vocabulary:
        such users have nothing in common. None without a name.
    """
    import torch

    from recsys.columns import TIMESTAMP
    from recsys.data.candidate_tables import usual_codes
    from recsys.data.log import as_time
    from recsys.data.topk import NONE
    from recsys.features import FIRST_ID

    if name is None:
        return None

    def known(ids: "Tensor") -> "Tensor":
        return torch.where(ids >= FIRST_ID, ids, NONE)

    if name in data.tables.user:
        return known(data.tables.user[name])
    # The data's own codes are of the events before its cut, which may be an earlier one.
    events = prepared.events.filter(prepared.events[TIMESTAMP] < as_time(cut))
    return usual_codes(past, known(data.encoder.encode(events, "context")[name]), cut)


def pairs_of(
    prepared: "Prepared",
    log: "InteractionLog",
    state: "RankingState",
    users: "Tensor",
    vectors: "Tensor",
    also: "Tensor | None" = None,
) -> "Iterator[RankerPairs]":
    """Yield the candidates of users with their features, a few hundred users at a time; ``also`` as user * N + item."""
    import torch

    from recsys.columns import USER_ID
    from recsys.data.asked import asked_as_of
    from recsys.data.ranking_state import GROUP

    codes = state.tables.groups
    groups = {} if codes is None else {GROUP: codes}
    for rows in torch.arange(len(users)).split(CHUNK_USERS):
        some = users[rows]
        asked = asked_as_of(log, some, state.cut, vectors[rows], groups)
        ids = prepared.users[USER_ID].gather(some.numpy())
        events = prepared.events.filter(prepared.events[USER_ID].is_in(ids.implode()))
        further = None
        if also is not None:
            keys = also[torch.isin(also // log.n_items, some)]
            further = torch.searchsorted(some, keys // log.n_items), keys % log.n_items
        theirs = state.users(events)
        yield state.pairs(asked, theirs, theirs.rows(ids), further)
