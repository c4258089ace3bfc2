"""What the second stage reads: by hand, against the features it is made of, saved, and blind to the future."""

import tempfile
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.config.schema import CANDIDATE_SOURCES
from recsys.data.asked import asked_as_of
from recsys.data.log import DAY, POPULARITY_DAYS, InteractionLog
from recsys.data.log_rows import log_of_rows
from recsys.data.pair_features import as_of, pair_features
from recsys.data.pair_plan import PairPlan
from recsys.data.ranking_state import (
    GROUP,
    CandidatePlan,
    RankerPairs,
    RankingState,
    fit_ranking_state,
)
from recsys.data.ranking_store import load_state, save_state
from recsys.data.sessions import SessionPlan
from recsys.data.topk import NONE

CUT = 100 * DAY
ITEMS = pl.DataFrame(
    {
        "item_id": [10, 11, 12, 13, 14, 15],
        "kind": ["tea", "tea", "jam", "jam", None, "oil"],
        "context": ["x", "y", "x", "y", "x", "y"],
    }
)
FEATURES = {"item_id": torch.arange(2, 8), "kind": torch.tensor([4, 4, 2, 2, 0, 3])}
ELIGIBLE = torch.tensor([True, True, True, True, False, True])
PLAN = PairPlan(("kind", "context"), has_quantity=True, has_value=True)
SESSIONS = SessionPlan(
    zone="Asia/Tokyo", holidays=("1970-02-01",), weights={"buy": 2.0}, has_length=True, has_more=True
)
EVERY_SOURCE = CandidatePlan(5, dict.fromkeys(CANDIDATE_SOURCES, 4), {"history": 2.0}, "segment")
VECTORS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
PEOPLE = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
PARTS = {"code": (0, 1), "taste": (1, 4), "factor": (4, 4)}
SEGMENTS = torch.tensor([0, 0, 1, NONE])
IDS = pl.Series("user_id", [0, 1, 2, 3])
EVENT = st.tuples(
    st.integers(0, 3), st.integers(0, 5), st.integers(1, 99), st.none() | st.integers(0, 2), st.integers(0, 3)
)
EVENTS = st.lists(EVENT, max_size=20)


def tables(rows) -> tuple[InteractionLog, pl.DataFrame]:
    """Rows (user, item row, days before the cut, basket, quantity) as a log and as prepared events."""
    schema = {"user": pl.Int64, "item": pl.Int64, "time": pl.Int64, "basket_id": pl.Int64, "quantity": pl.Float64}
    frame = pl.DataFrame([(u, i, CUT - d * DAY, b, q) for u, i, d, b, q in rows], schema=schema, orient="row")
    frame = frame.sort("user", "time", "item").with_columns(
        user_id="user",
        item_id=pl.lit(ITEMS["item_id"]).gather("item"),
        timestamp=pl.from_epoch("time", time_unit="us").dt.replace_time_zone("UTC"),
        value=pl.col("quantity") * (1.5 + pl.col("item")),
    )
    return log_of_rows(frame, 4, 6, ()), frame


def fitted(
    rows, chosen: CandidatePlan = EVERY_SOURCE, codes=SEGMENTS, parts=PARTS, plan=PLAN, days=POPULARITY_DAYS
) -> RankingState:
    log, events = tables(rows)
    return fit_ranking_state(
        log, events, ITEMS, FEATURES, CUT, plan=plan, candidate_plan=chosen, eligible=ELIGIBLE, vectors=VECTORS,
        parts=parts, groups=codes, popularity_days=days,
    )  # fmt: skip


def pairs_of(state: RankingState, rows, users=(0, 1, 2, 3)) -> RankerPairs:
    log, events = tables(rows)
    who = torch.tensor(users, dtype=torch.int64)
    groups = {} if state.tables.groups is None else {GROUP: state.tables.groups}
    asked = asked_as_of(log, who, CUT, PEOPLE[who], groups)
    known = state.users(events)
    return state.pairs(asked, known, known.rows(IDS.gather(who.numpy())))


def check_equal(one: RankerPairs, other: RankerPairs, **tolerance: float) -> None:
    assert one.names == other.names
    assert one.query.tolist() == other.query.tolist()
    assert one.item.tolist() == other.item.tolist()
    for name, items in one.lists.items():
        assert torch.equal(items, other.lists[name]), name
        assert torch.equal(one.candidates.rank[name], other.candidates.rank[name]), name
    torch.testing.assert_close(one.numbers, other.numbers, equal_nan=True, **(tolerance or {"rtol": 0, "atol": 0}))


SHOP = [
    (0, 0, 40, 1, 1),
    (0, 2, 40, 1, 2),
    (0, 0, 10, 2, 3),
    (1, 1, 7, None, 1),
    (1, 4, 7, None, 1),
    (2, 3, 3, 1, 1),
    (2, 2, 3, 1, 1),
]


def test_popular_counts_over_the_days_that_are_given():
    assert fitted(SHOP).tables.popular[-1, :4].tolist() == [2, 0, 1, 3]  # one user each, and of 2 another before
    assert fitted(SHOP, days=5.0).tables.popular[-1, :2].tolist() == [2, 3]


def test_numbers_are_named_by_their_columns():
    state = fitted(SHOP)
    pairs = pairs_of(state, SHOP)
    assert len(state.names) == len(set(state.names)) == pairs.numbers.shape[1]
    found = dict(zip(pairs.names, pairs.numbers.T, strict=True))

    _, events = tables(SHOP)
    asked = pl.DataFrame({"user_id": pairs.query.numpy(), "item_id": ITEMS["item_id"].gather(pairs.item.numpy())})
    expected = pair_features(as_of(PLAN, events, ITEMS, CUT), asked)
    ours = [f.name for f in PLAN.features]
    assert [name for name in pairs.names if not name.startswith(("tower_", "rank_"))] == ours
    for name in ours:
        values = torch.tensor(expected[name].fill_null(float("nan")).to_list())
        torch.testing.assert_close(found[name], values, equal_nan=True, msg=name)
    assert found["context_count"].nansum() > 0

    product = PEOPLE[pairs.query] * VECTORS[pairs.item]
    torch.testing.assert_close(found["tower_code"], product[:, 0])
    torch.testing.assert_close(found["tower_taste"], product[:, 1:].sum(1))
    torch.testing.assert_close(found["tower_score"], product.sum(1))
    assert "tower_factor" not in found  # it covers no column
    for source in CANDIDATE_SOURCES:
        rank = found[f"rank_{source}"].nan_to_num(0)
        assert torch.equal(rank.int(), pairs.candidates.rank[source]), source
        assert (rank > 0).any(), source


def test_candidates_are_the_union_of_what_the_sources_name():
    state = fitted(SHOP, CandidatePlan(3, {"history": 2, "popular": 6}))
    pairs = pairs_of(state, SHOP, [0, 3])
    assert list(pairs.lists) == ["history", "popular"]
    assert pairs.lists["history"].tolist() == [[0, 2], [NONE, NONE]]
    # Item 2 has two users; 0, 1 and 3 have one each, 0 the most events ever; 4 must not be shown, 5 was never taken.
    popular = pairs.lists["popular"][1].tolist()
    assert popular[0] == 2
    assert set(popular[1:4]) == {0, 1, 3}
    assert popular[4:] == [NONE, NONE]
    assert torch.bincount(pairs.query).tolist() == [3, 3]
    assert set(pairs.item[pairs.query == 0].tolist()) >= {0, 2}
    assert pairs.item[pairs.query == 1].tolist() == popular[:3]
    assert (len(pairs), pairs.requests) == (6, 2)


def test_popular_in_the_group_of_the_user():
    rows = [(0, 0, 5, None, 1), (2, 3, 5, None, 1)]
    chosen = CandidatePlan(6, {"popular_in_group": 3}, group="segment")
    state = fitted(rows, chosen, torch.tensor([0, 0, 1, 1]))
    # What a user had is left out; users 1 and 3 had nothing.
    assert pairs_of(state, rows).lists["popular_in_group"].tolist() == [
        [3, NONE, NONE],
        [0, 3, NONE],
        [0, NONE, NONE],
        [3, 0, NONE],
    ]
    assert pairs_of(state, rows, [3, 1]).lists["popular_in_group"][:, 0].tolist() == [3, 0]
    assert state.groups_of(torch.tensor([2, -1, 0]))[GROUP].tolist() == [1, NONE, 0]
    assert fitted(rows, codes=None).groups_of(torch.tensor([2, -1])) == {}


def test_users_are_summed_up_to_the_cut():
    state = fitted(SHOP)
    _, events = tables([*SHOP, (3, 1, -2, None, 1)])
    assert 3 not in state.users(events).ids
    later = replace(state, cut=CUT + 3 * DAY).users(events)
    (row,) = later.rows(pl.Series([3]))
    assert later.numbers[row, later.names.index("user_days_since")] == 1.0


@pytest.mark.parametrize("chosen", [EVERY_SOURCE, CandidatePlan(3, {"history": 2})])
def test_nobody_and_nothing(chosen):
    state = fitted([], chosen)
    nobody = pairs_of(state, [], [])
    assert (len(nobody), nobody.requests) == (0, 0)
    assert nobody.numbers.shape == (0, len(state.names))
    strangers = pairs_of(fitted(SHOP, CandidatePlan(3, {"history": 2})), SHOP, [3])
    assert (len(strangers), strangers.requests) == (0, 1)


def test_a_retriever_without_a_part_for_ids_or_without_anything_else():
    for parts in ({"code": (0, 0), "taste": (0, 4)}, {"code": (0, 4), "taste": (4, 4)}):
        pairs = pairs_of(fitted(SHOP, parts=parts), SHOP)
        score = dict(zip(pairs.names, pairs.numbers.T, strict=True))["tower_score"]
        torch.testing.assert_close(score, (PEOPLE[pairs.query] * VECTORS[pairs.item]).sum(1))


@given(past=EVENTS, future=EVENTS, other=EVENTS, chance=st.randoms(use_true_random=False))
@settings(max_examples=25)
def test_nothing_at_or_after_the_cut_matters(past, future, other, chance):
    found = []
    for later in (future, other):
        rows = past + [(u, i, 1 - d, b and b + 10, q) for u, i, d, b, q in later]  # from the cut itself on
        chance.shuffle(rows)
        state = fitted(rows)
        found.append((state, pairs_of(state, rows)))
    (one, pairs), (two, others) = found
    check_equal(pairs, others, rtol=1e-5, atol=1e-6)
    assert torch.equal(one.tables.popular, two.tables.popular)
    assert torch.equal(one.tables.events, two.tables.events)
    assert torch.equal(one.tables.links.item, two.tables.links.item)


@given(rows=EVENTS, grouped=st.booleans())
@settings(max_examples=15)
def test_saved_and_loaded_it_answers_the_same_bit_for_bit(rows, grouped):
    sizes = {name: 4 for name in CANDIDATE_SOURCES if grouped or name != "popular_in_group"}
    chosen = replace(EVERY_SOURCE, sizes=sizes, group="segment" if grouped else "")
    plan = replace(PLAN, sessions=SESSIONS) if grouped else PLAN
    state = replace(fitted(rows, chosen, SEGMENTS if grouped else None, plan=plan), history=3 * grouped)
    assert ("user_session_minutes" in state.names) == grouped
    with tempfile.TemporaryDirectory() as folder:
        save_state(state, Path(folder) / "state")
        loaded = load_state(Path(folder) / "state", VECTORS, FEATURES, ELIGIBLE)
    assert loaded.plan == state.plan
    assert loaded.candidate_plan == state.candidate_plan
    assert (loaded.cut, loaded.parts, loaded.names) == (state.cut, state.parts, state.names)
    assert loaded.history == state.history
    check_equal(pairs_of(loaded, rows), pairs_of(state, rows))
