"""Cuts by hand; snapshots that know nothing from the cut on but their labels, and these nothing from ``until`` on."""

from collections import Counter
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.config.schema import Config
from recsys.data.dataset import fit_data, interaction_log, microseconds
from recsys.data.log import DAY, as_time
from recsys.data.snapshots import Snapshot
from recsys.data.topk import NONE
from recsys.entries import snapshots
from recsys.entries.snapshots import (
    group_codes,
    pair_plan,
    refuse_unknown,
    snapshot,
    some_of_each,
    truths_of,
)
from recsys.errors import ConfigError
from recsys.features import FeatureSpec


def changed(cfg: Config, training: dict[str, Any] | None = None, **values: Any) -> Config:
    return replace(cfg, ranker=replace(cfg.ranker, training=replace(cfg.ranker.training, **training or {}), **values))


def test_sessions_are_planned_where_asked_for_from_the_training_window(first_stage: Any) -> None:
    prepared, cfg = first_stage.prepared, first_stage.cfg
    assert pair_plan(cfg, prepared) == first_stage.plan
    wanted = replace(cfg.data.sessions, purchase=["buy"], cart=["cart"], timezone="Asia/Tokyo", by="basket_id")
    cfg = replace(changed(cfg, sessions=True), data=replace(cfg.data, sessions=wanted))
    late = pl.col("timestamp") >= prepared.windows.val_start
    carts = prepared.events.with_columns(event_type=pl.when(late).then(pl.lit("cart")).otherwise("event_type"))
    for events in (prepared.events, carts):
        plan = pair_plan(cfg, prepared.with_events(events))
        assert plan.sessions is not None
        assert (plan.sessions.purchase, plan.sessions.cart, plan.sessions.zone) == (("buy",), (), "Asia/Tokyo")
        assert plan.sessions.by_basket
    assert replace(pair_plan(cfg, prepared), sessions=None) == first_stage.plan


@pytest.fixture(scope="module")
def bounds(first_stage: Any) -> tuple[int, int]:
    return first_stage.data.cut, first_stage.data.cut + 3 * DAY


def take(stage: Any, bounds: tuple[int, int], events: pl.DataFrame | None = None, **changes: Any) -> Snapshot:
    """A snapshot, as if other events had been prepared."""
    prepared = stage.prepared if events is None else stage.prepared.with_events(events)
    log = stage.log if events is None else interaction_log(prepared)
    cfg = changes.pop("cfg", stage.cfg)
    return snapshot(cfg, prepared, log, stage.data, stage.towers, stage.plan, *bounds)


def test_users_and_labels_are_those_of_the_horizon(first_stage: Any, bounds: tuple[int, int]) -> None:
    found = take(first_stage, bounds)
    events = first_stage.prepared.events.filter(
        pl.col("timestamp").is_between(*map(as_time, bounds), closed="left"), event_type="buy"
    )
    people, items = first_stage.prepared.users["user_id"], first_stage.prepared.items["item_id"]
    taken = set(events.select("user_id", "item_id").iter_rows())
    assert 0 < len(found.users) < len(people)
    assert people.gather(found.users).to_list() == sorted({user for user, _ in taken})
    pairs = list(zip(people.gather(found.users[found.query]), items.gather(found.item), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert found.labels[:, 0].tolist() == [float(pair in taken) for pair in pairs]
    assert found.lost == len(taken - set(pairs))
    assert found.labels.sum() > 0


def test_what_was_shown_and_not_taken_is_a_candidate_to_learn_from(first_stage: Any, bounds: tuple[int, int]) -> None:
    prepared = first_stage.prepared
    few = changed(first_stage.cfg, candidates=replace(first_stage.cfg.ranker.candidates, limit=8))
    plain = take(first_stage, bounds, cfg=few)
    people, items = prepared.users["user_id"], prepared.items["item_id"]
    who = int(plain.query[plain.labels[:, 0] > 0][0])
    user = people[int(plain.users[who])]
    mine = plain.item[plain.query == who]
    taken = int(mine[plain.labels[plain.query == who, 0] > 0][0])
    bought = prepared.events.filter(user_id=user)["item_id"].to_list()
    far, late = [n for n, item in enumerate(items) if item not in bought and n not in mine.tolist()][:2]
    near = int(mine[plain.labels[plain.query == who, 0] == 0][0])
    rows = [(near, 0), (taken, 0), (far, 1), (late, 0)]  # days after the cut
    times = [as_time(bounds[0] + day * DAY) for _, day in rows[:3]] + [as_time(bounds[1])]
    shown = pl.DataFrame({"user_id": [user] * 4 + ["nobody"], "item_id": items.gather([n for n, _ in rows] + [near])})
    shown = shown.with_columns(pl.Series("timestamp", [*times, times[0]])).cast(
        {"timestamp": prepared.events.schema["timestamp"]}
    )
    stage = replace(first_stage, prepared=replace(prepared, impression_parts=(shown.lazy(),)))
    found = take(stage, bounds, cfg=few)
    assert found.shown is not None
    pairs = {(int(q), int(i)) for q, i in zip(found.query, found.item, strict=True)}
    assert pairs - {(int(q), int(i)) for q, i in zip(plain.query, plain.item, strict=True)} == {(who, far)}
    assert {(int(found.query[n]), int(found.item[n])) for n in found.shown.nonzero()} == {(who, near), (who, far)}
    assert found.labels[found.shown].sum() == 0
    place = int(((found.query == who) & (found.item == far)).nonzero())
    ranks = [n for n, name in enumerate(found.names) if name.startswith("rank_")]
    assert found.numbers[place, ranks].isnan().all()
    assert found.numbers[place, found.names.index("item_events_all")] >= 0
    rest = torch.arange(len(found)) != place
    torch.testing.assert_close(found.numbers[rest], plain.numbers, equal_nan=True)
    to_measure = snapshot(
        few, stage.prepared, stage.log, stage.data, stage.towers, stage.plan, *bounds, add_shown=False
    )
    assert torch.equal(to_measure.item, plain.item)


def test_what_was_shown_and_taken_is_a_positive_wherever_it_came_from(
    first_stage: Any, bounds: tuple[int, int]
) -> None:
    """Else a pair that no source names would always be a negative, and at serving such pairs are asked about."""
    prepared, n_items = first_stage.prepared, first_stage.log.n_items
    few = changed(first_stage.cfg, candidates=replace(first_stage.cfg.ranker.candidates, limit=1))
    plain = take(first_stage, bounds, cfg=few)
    assert plain.lost > 0
    (truth,) = truths_of(few, prepared, first_stage.log, *bounds)
    lost = truth[~torch.isin(truth, plain.users[plain.query] * n_items + plain.item)]
    pair = int(lost[0])
    shown = pl.DataFrame(
        {
            "user_id": [prepared.users["user_id"][pair // n_items]],
            "item_id": [prepared.items["item_id"][pair % n_items]],
        }
    )
    shown = shown.with_columns(timestamp=pl.lit(as_time(bounds[0])).cast(prepared.events.schema["timestamp"]))
    stage = replace(first_stage, prepared=replace(prepared, impression_parts=(shown.lazy(),)))
    found = take(stage, bounds, cfg=few)
    assert found.lost == plain.lost - 1
    own = found.users[found.query] * n_items + found.item == pair
    assert found.labels[own, 0].tolist() == [1.0]
    assert not found.shown[own].any()  # type: ignore[index]


@given(st.lists(st.integers(0, 59), unique=True), st.integers(1, 12), st.integers(0, 3))
def test_some_of_each_user(keys: list[int], most: int, seed: int) -> None:
    found = some_of_each(torch.tensor(sorted(keys), dtype=torch.int64), 10, most, seed).tolist()
    assert found == sorted(set(found) & set(keys))
    counts, kept = (Counter(key // 10 for key in of) for of in (keys, found))
    assert kept == {user: min(count, most) for user, count in counts.items()}


def test_nothing_at_or_after_until_matters(first_stage: Any, bounds: tuple[int, int]) -> None:
    events = first_stage.prepared.events
    one = take(first_stage, bounds)
    two = take(first_stage, bounds, events.filter(pl.col("timestamp") < as_time(bounds[1])))
    assert len(events.filter(pl.col("timestamp") >= as_time(bounds[1]))) > 100
    for part in ("users", "query", "item", "labels"):
        assert torch.equal(getattr(one, part), getattr(two, part)), part
    torch.testing.assert_close(one.numbers, two.numbers, equal_nan=True)


def test_between_cut_and_until_only_labels_change(first_stage: Any, bounds: tuple[int, int]) -> None:
    events = first_stage.prepared.events
    other = pl.when(pl.col("timestamp") >= as_time(bounds[0])).then((pl.col("item_id") + 5) % 48).otherwise("item_id")
    one, two = take(first_stage, bounds), take(first_stage, bounds, events.with_columns(other.alias("item_id")))
    assert torch.equal(one.item, two.item)
    torch.testing.assert_close(one.numbers, two.numbers, equal_nan=True)
    assert not torch.equal(one.labels, two.labels)


def test_max_users(first_stage: Any, bounds: tuple[int, int]) -> None:
    every = take(first_stage, bounds)
    few = take(first_stage, bounds, cfg=changed(first_stage.cfg, {"max_users": 5}))
    assert len(few.users) == 5
    assert few.users.tolist() == sorted(few.users.tolist())
    assert set(few.users.tolist()) < set(every.users.tolist())
    again = take(first_stage, bounds, cfg=changed(first_stage.cfg, {"max_users": 5}))
    other = take(first_stage, bounds, cfg=replace(changed(first_stage.cfg, {"max_users": 5}), seed=1))
    assert torch.equal(few.users, again.users)
    assert not torch.equal(few.users, other.users)


def test_a_horizon_without_events_is_empty(first_stage: Any) -> None:
    end = microseconds(first_stage.prepared.windows.end)
    found = take(first_stage, (end, end + DAY))
    assert (len(found), found.lost, found.labels.shape) == (0, 0, (0, 1))


def test_tasks_are_event_types(first_stage: Any, bounds: tuple[int, int]) -> None:
    cfg = changed(first_stage.cfg, tasks=["view"])
    bought, viewed = truths_of(cfg, first_stage.prepared, first_stage.log, *bounds)
    events = first_stage.prepared.events.filter(pl.col("timestamp").is_between(*map(as_time, bounds), closed="left"))
    people, items = first_stage.prepared.users["user_id"], first_stage.prepared.items["item_id"]
    for truth, kind in ((bought, "buy"), (viewed, "view")):
        pairs = events.filter(event_type=kind).select("user_id", "item_id").unique()
        assert truth.tolist() == sorted(truth.tolist())
        named = set(zip(people.gather(truth // 48), items.gather(truth % 48), strict=True))
        assert named == set(pairs.iter_rows())
        assert len(truth) == len(pairs)
    assert take(first_stage, bounds, cfg=cfg).labels.shape[1] == 2


def test_tasks_that_are_no_event_types_are_refused(first_stage: Any) -> None:
    refuse_unknown(changed(first_stage.cfg, tasks=["view"]), first_stage.prepared)
    with pytest.raises(ConfigError, match=r"ranker\.tasks: 'viw' is no event type; legal: buy, view\..*'view'"):
        refuse_unknown(changed(first_stage.cfg, tasks=["viw"]), first_stage.prepared)
    bare = first_stage.prepared.with_events(first_stage.prepared.events.drop("event_type"))
    with pytest.raises(ConfigError, match=r"'view' is no event type; the events have no column 'event_type'"):
        refuse_unknown(changed(first_stage.cfg, tasks=["view"]), bare)


def test_groups_of_users(first_stage: Any) -> None:
    prepared, log = first_stage.prepared, first_stage.log
    data = fit_data(prepared, log, prepared.windows.val_start)
    cut = microseconds(prepared.windows.test_start)  # later than that of the data
    past = log.between(None, cut)
    assert group_codes(None, prepared, data, past, cut) is None
    assert torch.equal(group_codes("segment", prepared, data, past, cut), data.tables.user["segment"])

    codes = group_codes("store", prepared, data, past, cut)
    assert codes is not None
    before = prepared.events.filter(pl.col("timestamp") < as_time(cut))
    stores = data.encoder.vocabularies["store"].values.to_list()
    for row, user in enumerate(prepared.users["user_id"]):
        usual = before.filter(user_id=user)["store"].mode()
        assert len(usual) != 1 or stores[codes[row] - 2] == usual[0]
    nobody = group_codes("store", prepared, data, log.between(None, 0), 0)
    assert nobody is not None
    assert nobody.unique().tolist() == [NONE]


def test_users_without_a_value_belong_to_no_group(first_stage: Any, bounds: tuple[int, int]) -> None:
    prepared, log = first_stage.prepared, first_stage.log
    users = prepared.users.with_columns(segment=pl.when(pl.int_range(pl.len()) % 4 > 0).then("segment"))
    some = pl.when(pl.col("user_id") != "u03", pl.int_range(pl.len()) % 3 > 0).then("store")  # for u03 never known
    gappy = replace(prepared.with_events(prepared.events.with_columns(store=some)), users=users)
    data = fit_data(gappy, log, prepared.windows.test_start)
    segments = group_codes("segment", gappy, data, data.log, data.cut)
    assert segments is not None
    assert [code == NONE for code in segments.tolist()] == users["segment"].is_null().to_list()

    stores = group_codes("store", gappy, data, data.log, data.cut)
    assert stores is not None
    assert set(stores.tolist()) == {NONE, 2, 3}  # one event in three has no store, which is nobody's usual one
    assert [user for user, code in zip(users["user_id"], stores.tolist(), strict=True) if code == NONE] == ["u03"]

    chosen = replace(first_stage.cfg.ranker.candidates, sizes={"popular_in_group": 10}, group="segment")
    cfg = changed(first_stage.cfg, candidates=chosen)
    found = snapshot(cfg, gappy, log, data, first_stage.towers, first_stage.plan, *bounds)
    overall = snapshots.state_as_of(
        cfg, gappy, log, data, first_stage.towers, first_stage.plan, bounds[0]
    ).tables.popular[-1].tolist()  # fmt: skip
    nameless = [place for place, user in enumerate(found.users.tolist()) if segments[user] == NONE]
    assert nameless
    for place in nameless:
        user = found.users[place]
        had = set(log.item[(log.user == user) & (log.time < bounds[0])].tolist())
        expected = [item for item in overall if item != NONE and item not in had][:10]
        assert found.item[found.query == place].tolist() == expected


def test_a_feature_with_the_name_of_a_number_is_refused(first_stage: Any) -> None:
    features = [replace(f, name="user_baskets") if f.name == "segment" else f for f in first_stage.prepared.spec]
    prepared = replace(first_stage.prepared, spec=FeatureSpec(tuple(features)))
    with pytest.raises(ConfigError, match=r"data\.features: 'user_baskets' is also the name of a number"):
        refuse_unknown(first_stage.cfg, prepared)


@pytest.mark.parametrize(
    ("name", "message"),
    [("segmnt", "Did you mean 'segment'"), ("kind", "is no user attribute"), ("time", "with one value")],
)
def test_what_is_no_group(first_stage: Any, name: str, message: str) -> None:
    chosen = replace(first_stage.cfg.ranker.candidates, group=name)
    with pytest.raises(ConfigError, match=rf"ranker\.candidates\.group: '{name}'.*{message}"):
        refuse_unknown(changed(first_stage.cfg, candidates=chosen), first_stage.prepared)


@pytest.mark.parametrize("group", ["segment", "store"])
def test_every_user_gets_what_is_popular_in_the_own_group(
    first_stage: Any, bounds: tuple[int, int], group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = replace(first_stage.cfg.ranker.candidates, sizes={"popular_in_group": 10, "history": 5}, group=group)
    cfg = changed(first_stage.cfg, candidates=chosen)
    whole = take(first_stage, bounds, cfg=cfg)
    monkeypatch.setattr(snapshots, "CHUNK_USERS", 7)
    parts = take(first_stage, bounds, cfg=cfg)
    assert torch.equal(whole.item, parts.item)
    torch.testing.assert_close(whole.numbers, parts.numbers, equal_nan=True)

    state = snapshots.state_as_of(*(cfg, *first_stage.parts[1:]), first_stage.plan, bounds[0])
    codes = state.tables.groups
    assert codes is not None
    had = first_stage.data.log.user * 48 + first_stage.data.log.item
    ranks = whole.numbers[:, whole.names.index("rank_popular_in_group")]
    for place, user in enumerate(whole.users.tolist()):
        rows = (whole.query == place) & ~ranks.isnan()
        found = whole.item[rows][ranks[rows].argsort()].tolist()
        listed = state.tables.popular[codes[user]].tolist()
        assert found == [i for i in listed if i != NONE and user * 48 + i not in set(had.tolist())][:10]
