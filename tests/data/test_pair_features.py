import math
import statistics
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from recsys.data.dataset import microseconds
from recsys.data.pair_features import PairState, as_of, pair_features, users_as_of
from recsys.data.pair_plan import PairPlan, plan_pairs
from recsys.errors import ConfigError
from recsys.features import Feature, FeatureSpec

CUT = datetime(2024, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
FULL = PairPlan(("kind",), ("buy",), has_quantity=True, has_value=True, has_others=True)
BARE = PairPlan()
ITEMS = pl.DataFrame({"item_id": [10, 11, 12, 13, 14], "kind": ["tea", "tea", "jam", None, "jam"]})


def days_before(days: float) -> datetime:
    return CUT - days * DAY


def log(rows, start=CUT) -> pl.DataFrame:
    """Events of rows (user, item, days before ``start``, basket, quantity, value[, type])."""
    full = [(*row, "buy")[:7] for row in rows]
    schema = {"user_id": pl.Int64, "item_id": pl.Int64, "timestamp": pl.Datetime("us", "UTC"), "basket_id": pl.Int64}
    schema |= {"quantity": pl.Float64, "value": pl.Float64, "event_type": pl.String}
    rows = [(u, i, start - d * DAY, b, q, v, t) for u, i, d, b, q, v, t in full]
    return pl.DataFrame(rows, schema=schema, orient="row")


SHOP = log(
    [
        (1, 10, 70, 1, 1, 2.0),
        (1, 10, 70, 1, 1, 2.0),  # the same basket: counts once
        (1, 11, 70, 1, 1, 8.0),
        (1, 10, 50, 2, 1, 2.0),
        (1, 12, 40, 3, 2, 6.0),
        (1, 10, 10, 4, 3, 12.0),
        (1, 13, 10, 4, 1, 1.0),
        (2, 10, 20, 1, 1, 3.0),  # another user's basket of the same number
        (2, 12, 5, 2, 1, 5.0),
        (1, 11, 3, None, 1, None, "view"),
        (1, 11, 2, None, 1, None, "view"),
        (3, 12, 2, None, 1, None, "view"),
        (1, 10, 0, 9, 1, 99.0),  # at the cut
        (1, 12, -1, 10, 1, 99.0),
    ]
)


def features(plan: PairPlan, pairs, events=SHOP, cut=CUT, items=ITEMS) -> list[dict[str, float | None]]:
    users, asked = zip(*pairs, strict=True)
    frame = pl.DataFrame({"user_id": users, "item_id": asked})
    return pair_features(as_of(plan, events, items, microseconds(cut)), frame).to_dicts()


def check(row: dict[str, float | None], expected: dict[str, float | None]) -> None:
    found = {name: row[name] for name in expected}
    assert {name for name in found if found[name] is None} == {name for name in expected if expected[name] is None}
    known = {name: value for name, value in expected.items() if value is not None}
    assert {name: found[name] for name in known} == pytest.approx(known, rel=1e-4, abs=1e-5)


def test_pair_by_hand() -> None:
    (row,) = features(FULL, [(1, 10)])
    check(
        row,
        {
            "pair_count": 3,
            "pair_days_since": 10,
            "pair_baskets_since": 0,
            "pair_gap_mean": 30,  # gaps of 20 and 40 days
            "pair_gap_spread": 10,
            "pair_gap_ratio": 1 / 3,
            "pair_due": 0,
            "pair_share": 3 / 4,
            "pair_rate": 3 / 4,
            "pair_quantity": 6 / 3,
            "pair_trend": math.log(2 / (3 * 28 / 70 + 1)),
            "pair_frequency": (1 + 70 / 30) ** -0.5 + (1 + 50 / 30) ** -0.5 + (1 + 10 / 30) ** -0.5,
            "pair_other_count": 0,
            "pair_other_days_since": None,
            "pair_item_gap_ratio": 10 / 30,
            "pair_price_ratio": 4 / 2.5,  # the last price over the median of 2, 8, 2, 3, 4, 1
        },
    )


def test_pair_with_little_or_no_history_by_hand() -> None:
    viewed, once, never = features(FULL, [(1, 11), (1, 12), (2, 11)])
    check(viewed, {"pair_count": 1, "pair_other_count": 2, "pair_other_days_since": 2, "pair_baskets_since": 3})
    check(once, {"pair_gap_mean": None, "pair_gap_spread": None, "pair_gap_ratio": None, "pair_due": 0})
    check(once, {"pair_share": 1 / 4, "pair_rate": 1 / 2, "pair_baskets_since": 1, "pair_item_gap_ratio": None})
    check(never, {"pair_count": 0, "pair_days_since": None, "pair_share": 0, "pair_rate": 0, "pair_trend": 0})
    check(never, {"pair_frequency": 0, "pair_quantity": 0, "pair_price_ratio": 8 / 4})


def test_due_from_the_mean_gap_on() -> None:
    events = log([(1, 10, 30, 1, 1, 1.0), (1, 10, 20, 2, 1, 1.0), (1, 11, 30, 1, 1, 1.0), (1, 11, 19, 3, 1, 1.0)])
    exact, early = features(FULL, [(1, 10), (1, 11)], events, cut=CUT - 10 * DAY)
    check(exact, {"pair_gap_ratio": 1, "pair_due": 1})
    check(early, {"pair_gap_ratio": 9 / 11, "pair_due": 0})


def test_group_by_hand() -> None:
    tea, jam, none = features(FULL, [(1, 11), (1, 14), (1, 13)])
    check(
        tea,
        {
            "kind_count": 3,
            "kind_days_since": 10,
            "kind_gap_mean": 30,
            "kind_gap_spread": 10,
            "kind_share": 3 / 4,
            "kind_quantity": 7 / 3,
            "kind_item_share": 1 / 3,
            "kind_price_ratio": 8 / ((5 + 2 + 4) / 3),  # 2 and 8 in one basket are 5
            "kind_other_count": 2,
        },
    )
    check(jam, {"kind_count": 1, "kind_item_share": 0, "kind_rate": 1 / 2, "pair_count": 0, "kind_price_ratio": None})
    check(none, {"pair_count": 1, "kind_count": 0, "kind_days_since": None, "kind_item_share": 0})


def test_item_by_hand() -> None:
    tea, jam, unsold = features(FULL, [(1, 10), (1, 12), (1, 14)])
    check(
        tea,
        {
            "item_users_all": 10_000,  # both users
            "item_users_28d": 10_000,
            "item_users_7d": 0,
            "item_events_all": 10_000 * 4 / 8,
            "item_events_28d": 10_000 * 2 / 4,
            "item_events_7d": 0,
            "item_trend": math.log(3 / 2),  # 2 lines in 28 days, 1 in the 28 before
            "item_trend_7d": math.log(1 / (2 / 3 + 1)),
            "item_age": 70,
            "item_days_since": 10,
            "item_repeat": 1 / 2,
            "item_gap_mean": 30,
            "item_price": (2 + 3) / 2,
            "item_price_ratio": 4 / 2.5,
            "item_others_28d": 0,
        },
    )
    check(jam, {"item_users_7d": 10_000, "item_events_7d": 10_000, "item_repeat": 0, "item_gap_mean": None})
    check(jam, {"item_price": 4, "item_price_ratio": 5 / 4, "item_others_28d": 10_000 / 3})
    check(unsold, {"item_users_all": 0, "item_trend": 0, "item_age": None, "item_repeat": None, "item_price": None})


def test_user_by_hand() -> None:
    first, second, viewer = features(FULL, [(1, 10), (2, 10), (3, 10)])
    check(
        first,
        {
            "user_baskets": 4,
            "user_baskets_28d": 1,
            "user_items": 4,
            "user_days_since": 10,
            "user_tenure": 70,
            "user_gap_mean": 20,
            "user_basket_size": 6 / 4,
            "user_repeat": 1 - 4 / 6,
            "user_spend": (12 + 2 + 6 + 13) / 4,
            "user_others_28d": 2,
        },
    )
    check(second, {"user_baskets": 2, "user_gap_mean": 15, "user_repeat": 0, "user_others_28d": 0})
    check(viewer, {"user_baskets": 0, "user_days_since": None, "user_repeat": None, "user_others_28d": 1})


@pytest.mark.parametrize("plan", [FULL, BARE])
def test_unknown_users_and_items_are_as_without_events(plan: PairPlan) -> None:
    stranger, new_item, nothing = features(plan, [(77, 10), (1, 99), (None, None)])
    undefined = {f.name: f.absent for f in plan.features}
    assert nothing == undefined
    check(stranger, {name: undefined[name] for name in undefined if not name.startswith("item_")})
    check(new_item, {name: undefined[name] for name in undefined if not name.startswith("user_")})
    assert stranger["item_users_all"] > 0
    assert new_item["user_baskets"] > 0


@pytest.mark.parametrize("plan", [FULL, BARE])
def test_no_event_before_the_cut_and_no_pair(plan: PairPlan) -> None:
    (row,) = features(plan, [(1, 10)], cut=datetime(2020, 1, 1, tzinfo=UTC))
    assert row == {f.name: f.absent for f in plan.features}
    none = pl.DataFrame(schema={"user_id": pl.Int64, "item_id": pl.Int64})
    empty = pair_features(as_of(plan, SHOP, ITEMS, microseconds(CUT)), none)
    assert empty.schema == dict.fromkeys((f.name for f in plan.features), pl.Float32)
    assert len(empty) == 0


def test_clicks_alone() -> None:
    events = SHOP.select(pl.col("user_id").cast(pl.String), "item_id", "timestamp")
    (row,) = features(plan_pairs(events, ITEMS, FeatureSpec(())), [("1", 11)], events, items=ITEMS.select("item_id"))
    check(row, {"pair_count": 3, "pair_days_since": 2, "user_baskets": 6, "item_users_all": 10_000 / 3})
    assert not [name for name in row if "price" in name or "quantity" in name or "other" in name]


def test_not_a_number_is_as_missing() -> None:
    rows = [(1, 10, 5, 1, 2, 4.0), (1, 10, 3, 2, 1, None), (2, 10, 2, 1, None, 3.0)]
    missing = log(rows)
    damaged = missing.with_columns(pl.col("quantity", "value").fill_null(math.nan))
    states = [as_of(FULL, events, ITEMS, microseconds(CUT)) for events in (missing, damaged)]
    first, second = (pair_features(state, PAIRS) for state in states)
    assert_frame_equal(first, second, check_exact=True)
    check(first.row(0, named=True), {"item_price": 2.5, "pair_quantity": 1.5, "user_spend": 2})


def test_ids_are_read_in_the_type_of_the_log() -> None:
    state = as_of(BARE, SHOP, ITEMS, microseconds(CUT))
    texts = pl.DataFrame({"user_id": ["1", "x"], "item_id": ["10", "10"]})
    assert pair_features(state, texts)["pair_count"].to_list() == [3, 0]


def test_chunks_are_put_together_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    state = as_of(FULL, SHOP, ITEMS, microseconds(CUT))
    pairs = pl.DataFrame({"user_id": [1, 2, 3, 1, 2, 9, 1], "item_id": [10, 10, 12, 10, 12, 9, 14]})
    whole = pair_features(state, pairs)
    monkeypatch.setattr("recsys.data.pair_features.CHUNK_ROWS", 2)
    assert_frame_equal(pair_features(state, pairs), whole, check_exact=True)


ROW = st.tuples(
    st.integers(1, 3),
    st.integers(10, 14),
    st.integers(1, 320).map(lambda quarter: quarter / 4),
    st.none() | st.integers(1, 6),
    st.integers(0, 3),
    st.none() | st.integers(-1, 9).map(float),
    st.sampled_from(["buy", "buy", "view"]),
)
LATER = ROW.map(lambda row: (row[0], row[1], -(row[2] - 0.25), *row[3:]))
PAIRS = pl.DataFrame(
    [(u, i) for u in (1, 2, 3, 4) for i in (10, 11, 12, 13, 14, 15)], ["user_id", "item_id"], orient="row"
)


@given(past=st.lists(ROW, max_size=20), later=st.lists(LATER, max_size=10), data=st.data())
@settings(max_examples=40)
def test_nothing_at_or_after_the_cut_matters(past, later, data) -> None:
    shuffled = data.draw(st.permutations(past + later))
    alone, among = (
        pair_features(as_of(plan, log(rows), ITEMS, microseconds(CUT)), PAIRS)
        for plan, rows in ((FULL, past), (FULL, shuffled))
    )
    assert_frame_equal(alone, among, rel_tol=1e-5)
    exact = pair_features(as_of(FULL, log(past + later), ITEMS, microseconds(CUT)), PAIRS)
    assert_frame_equal(alone, exact, check_exact=True)


@given(rows=st.lists(ROW, max_size=15), data=st.data())
@settings(max_examples=20)
def test_order_of_pairs_plays_no_part(rows, data) -> None:
    state = as_of(FULL, log(rows), ITEMS, microseconds(CUT))
    order = data.draw(st.lists(st.integers(0, len(PAIRS) - 1), max_size=40))
    assert_frame_equal(pair_features(state, PAIRS[order]), pair_features(state, PAIRS)[order], check_exact=True)


def test_own_events_are_enough_for_a_user() -> None:
    whole = as_of(FULL, SHOP, ITEMS, microseconds(CUT))
    own = SHOP.filter(pl.col("user_id") == 2)
    served = users_as_of(FULL, whole.items, own, whole.cut)
    pairs = PAIRS.filter(pl.col("user_id") == 2)
    assert_frame_equal(
        pair_features(PairState(FULL, whole.cut, whole.items, served), pairs), pair_features(whole, pairs)
    )


def slow_rhythm(rows, user: int, is_thing) -> dict[str, float | None]:
    """Count by hand what the user did with the items that ``is_thing`` accepts, from rows of :data:`ROW`."""
    baskets: dict[object, list[tuple]] = {}
    for row in rows:
        if row[0] == user and row[6] == "buy":
            baskets.setdefault(("alone", row[2]) if row[3] is None else ("basket", row[3]), []).append(row)
    begin = {key: max(r[2] for r in lines) for key, lines in baskets.items()}
    order = sorted(baskets, key=lambda key: (-begin[key], key[0] == "basket", key[1]))
    with_it = [(n, [r for r in baskets[key] if is_thing(r[1])]) for n, key in enumerate(order)]
    with_it = [(n, lines) for n, lines in with_it if lines]
    ages = sorted((max(r[2] for r in lines) for _, lines in with_it), reverse=True)
    n = len(ages)
    other = [r[2] for r in rows if r[0] == user and r[6] == "view" and is_thing(r[1])]
    out: dict[str, float | None] = {"count": n, "other_count": len(other), "other_days_since": min(other, default=None)}
    if not n:
        return out | {"days_since": None, "baskets_since": None, "gap_mean": None, "share": 0, "rate": 0, "trend": 0}
    gaps = [a - b for a, b in pairwise(ages)]
    mean = statistics.fmean(gaps) if gaps else None
    ratio = ages[-1] / mean if mean else None
    recent, expected = sum(a <= 28 for a in ages), n * min(1, 28 / max(begin.values()))
    return out | {
        "days_since": ages[-1],
        "baskets_since": len(order) - 1 - max(n for n, _ in with_it),
        "gap_mean": mean,
        "gap_spread": statistics.pstdev(gaps) if n > 2 else None,
        "gap_ratio": ratio,
        "due": float(ratio is not None and ratio >= 1),
        "share": n / len(order),
        "rate": n / (len(order) - min(n for n, _ in with_it)),
        "quantity": sum(r[4] for _, lines in with_it for r in lines) / n,
        "trend": math.log((recent + 1) / (expected + 1)),
        "frequency": sum((1 + a / 30) ** -0.5 for a in ages),
    }


@given(rows=st.lists(ROW, max_size=30))
@settings(max_examples=60)
def test_pairs_and_groups_are_what_counting_says(rows) -> None:
    got = pair_features(as_of(FULL, log(rows), ITEMS, microseconds(CUT)), PAIRS).to_dicts()
    kinds = dict(ITEMS.iter_rows())
    for (user, item), row in zip(PAIRS.iter_rows(), got, strict=True):
        pair = slow_rhythm(rows, user, lambda i, item=item: i == item)
        kind = slow_rhythm(rows, user, lambda i, item=item: kinds.get(item) is not None and kinds[i] == kinds[item])
        for prefix, expected in (("pair", pair), ("kind", kind)):
            check(row, {f"{prefix}_{name}": value for name, value in expected.items()})
        share = pair["count"] / kind["count"] if kind["count"] else 0
        assert row["kind_item_share"] == pytest.approx(share)


def test_groups_are_inferred_from_ids_that_gather_items() -> None:
    items = pl.DataFrame(
        {
            "item_id": range(6),
            "brand": ["a", "b", "a", "b", None, "a"],
            "constant": ["x"] * 6,
            "title": [f"t{i}" for i in range(6)],
            "price": [1.0] * 6,
            "tags": ["x y"] * 6,
        }
    )
    kinds = {"item_id": "id", "brand": "id", "constant": "id", "title": "id", "price": "numeric", "tags": "multi_id"}
    spec = FeatureSpec(tuple(Feature(name, "item", kind) for name, kind in kinds.items()))
    plan = plan_pairs(SHOP, items, spec, relevant=["buy"])
    assert plan == PairPlan(("brand",), ("buy",), has_quantity=True, has_value=True, has_others=True)
    assert plan_pairs(SHOP, items, spec, groups=["title"]).groups == ("title",)
    assert not plan_pairs(SHOP, items, spec).has_others
    with pytest.raises(ConfigError, match=r"'brnd' is no attribute.*Did you mean 'brand'"):
        plan_pairs(SHOP, items, spec, groups=["brnd"])
    with pytest.raises(ConfigError, match="named twice"):
        plan_pairs(SHOP, items, spec, groups=["brand", "brand"])


def test_names_are_unique_whatever_the_attributes_are_called() -> None:
    names = ("item", "pair", "user", "kind", "kind_item", "item_last", "context", "user_group", "item_group")
    plan = PairPlan(names, has_value=True, has_quantity=True)
    columns = [f.name for f in plan.features]
    assert len(columns) == len(set(columns))
    items = ITEMS.select("item_id", *(pl.col("kind").alias(name) for name in names))
    (row,) = features(plan, [(1, 11)], SHOP.filter(pl.col("event_type") == "buy"), items=items)
    assert list(row) == columns
    assert [row[f"{prefix}_item_share"] for prefix in plan.prefixes] == pytest.approx([1 / 3] * len(names))


def test_columns_of_the_events_may_have_any_name() -> None:
    pairs = [(1, 10), (2, 12), (3, 12)]
    named = SHOP.filter(pl.col("user_id") > 0).with_columns(user=pl.lit(7), item=pl.lit("x"), moment=pl.lit(0.5))
    assert features(FULL, pairs, named) == features(FULL, pairs)
