from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.asof import ItemClock
from recsys.data.dataset import data_before, fit_data, interaction_log, microseconds, repeat_share
from recsys.data.prepare import prepare
from recsys.data.prepared import Prepared
from recsys.data.split import Windows
from recsys.data.tables import requests_as_of
from recsys.features import Feature, FeatureSpec

START = datetime(2024, 1, 1, tzinfo=UTC)
USERS = ["ann", "bob", "cat"]
ITEMS = [10, 20, 30, 40]
SPEC = FeatureSpec(
    (
        Feature("user_id", "user", "id"),
        Feature("item_id", "item", "id", min_count=2),
        Feature("brand", "item", "id"),
        Feature("price", "item", "numeric"),
        Feature("store", "context", "id"),
        Feature("total", "context", "numeric"),
    )
)
EVENT = st.tuples(
    st.sampled_from(USERS),
    st.sampled_from(ITEMS),
    st.integers(0, 20),
    st.sampled_from(["view", "buy", None]),
    st.one_of(st.none(), st.integers(0, 3)),
    st.sampled_from(["north", "south", "east", None]),
    st.floats(-5, 5),
)
ROWS = st.lists(EVENT, min_size=1, max_size=25)
CUT = START + timedelta(hours=10)


def prepared_of(rows, relevant=(), has_item_table=False, baskets=True):
    columns = {
        "user_id": pl.String,
        "item_id": pl.Int64,
        "timestamp": pl.Datetime("us", "UTC"),
        "event_type": pl.String,
        "basket_id": pl.Int64,
        "store": pl.String,
        "total": pl.Float64,
    }
    rows = [(u, i, START + timedelta(hours=t), *rest) for u, i, t, *rest in rows]
    events = pl.DataFrame(rows, schema=columns, orient="row").unique(maintain_order=True)
    events = events.sort("user_id", "timestamp", "item_id", maintain_order=True)
    return Prepared(
        path=Path("nowhere"),
        fingerprint="0" * 32,
        event_parts=((events if baskets else events.drop("basket_id")).lazy(),),
        items=pl.DataFrame({"item_id": ITEMS, "brand": ["x", "y", None, "z"], "price": [1.0, None, 3.0, 100.0]}),
        users=pl.DataFrame({"user_id": USERS}),
        impression_parts=(events.clear().lazy(),),
        windows=Windows(START, CUT, CUT + timedelta(hours=1), CUT + timedelta(hours=11)),
        spec=SPEC,
        has_item_table=has_item_table,
        relevant=relevant,
        report={},
    )


def test_microseconds_are_exact():
    assert microseconds(datetime(1970, 1, 1, tzinfo=UTC)) == 0
    assert microseconds(datetime(2262, 4, 11, 23, 47, 16, 854_775, tzinfo=UTC)) == 9_223_372_036_854_775
    assert microseconds(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)) == -1


@given(rows=ROWS, baskets=st.booleans(), relevant=st.sampled_from([(), ("buy",), ("buy", "view")]))
def test_log_is_the_events_row_by_row(rows, baskets, relevant):
    prepared = prepared_of(rows, relevant, baskets=baskets)
    log = interaction_log(prepared)
    events = prepared.events.to_dicts()
    assert len(log) == len(events)
    moments = []
    for p, event in enumerate(events):
        assert USERS[log.user[p]] == event["user_id"]
        assert ITEMS[log.item[p]] == event["item_id"]
        assert START + timedelta(microseconds=int(log.time[p]) - microseconds(START)) == event["timestamp"]
        assert bool(log.relevant[p]) == (not relevant or event["event_type"] in relevant)
        basket = event.get("basket_id")
        own = ("time", event["timestamp"]) if basket is None else ("basket", basket)
        moments.append((event["user_id"], own))
    numbers = log.basket.tolist()
    assert len(set(zip(numbers, moments, strict=True))) == len(set(numbers)) == len(set(moments))
    assert sorted(set(numbers)) == list(range(len(set(numbers))))  # dense
    assert (log.n_users, log.n_items) == (3, 4)


def test_rows_are_those_of_the_prepared_tables(shop):
    prepared = prepare(shop)
    log = interaction_log(prepared)
    assert prepared.items["item_id"][log.item.tolist()].to_list() == prepared.events["item_id"].to_list()
    assert prepared.users["user_id"][log.user.tolist()].to_list() == prepared.events["user_id"].to_list()
    assert log.relevant.all()
    assert log.user.tolist() == sorted(log.user.tolist())


@settings(max_examples=40)
@given(past=ROWS, one=ROWS, other=ROWS, has_item_table=st.booleans())
def test_what_is_fitted_knows_nothing_of_the_future(past, one, other, has_item_table):
    past = [r for r in past if r[2] < 10]
    fitted = []
    for future in ([], one, other):
        rows = past + [(u, i, max(t, 10), e, None if b is None else b + 10, s, x) for u, i, t, e, b, s, x in future]
        prepared = prepared_of(rows, ("buy", "view"), has_item_table)
        fitted.append(fit_data(prepared, interaction_log(prepared), CUT))
    for data in fitted[1:]:
        assert data.cut == fitted[0].cut == microseconds(CUT)
        assert data.encoder.scales == fitted[0].encoder.scales
        for name, vocabulary in data.encoder.vocabularies.items():
            assert vocabulary.values.to_list() == fitted[0].encoder.vocabularies[name].values.to_list()
        for side in ("item", "user", "context"):
            equal(getattr(data.tables, side), getattr(fitted[0].tables, side))
        assert torch.equal(data.eligible, fitted[0].eligible)
        assert data.tables.popularity_days == fitted[0].tables.popularity_days
        assert data.tables.repeat_share == fitted[0].tables.repeat_share
        for name in ("user", "item", "time", "relevant", "repeats", "offsets"):
            assert torch.equal(getattr(data.log, name), getattr(fitted[0].log, name))
        everything = torch.arange(4)
        equal(ItemClock(data.log).state(everything, data.cut), ItemClock(fitted[0].log).state(everything, data.cut))
        equal(
            *(requests_as_of(d.log, d.tables, torch.arange(3), d.cut, history=4) for d in (data, fitted[0])),
        )


def equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name].nan_to_num(-9), other[name].nan_to_num(-9)), name


def rows_by_hand():
    return [
        ("bob", 10, 1, "buy", None, "north", 1.0),
        ("bob", 10, 2, "buy", None, "south", 2.0),
        ("ann", 20, 3, "view", None, "north", 3.0),
        ("ann", 40, 10, "buy", None, "west", 500.0),  # at the cut: not before it
        ("cat", 30, 12, "buy", None, "west", 900.0),
    ]


def test_fit_by_hand():
    prepared = prepared_of(rows_by_hand())
    data = fit_data(prepared, interaction_log(prepared), CUT)
    assert len(data.log) == 3
    assert data.eligible.tolist() == [True, True, False, False]
    assert data.tables.item["item_id"].tolist() == [2, 1, 1, 1]
    assert data.tables.item["brand"].tolist() == [2, 3, 0, 1]
    assert data.tables.user["user_id"].tolist() == [2, 3, 1]
    assert data.tables.context["store"].tolist() == [2, 2, 3]  # ann's event stands first
    assert data.tables.context["total"].tolist() == [3.0, 1.0, 2.0]
    assert data.encoder.scales["price"].center == 1.0
    assert data.encoder.scales["total"].center == 2.0


def test_context_columns_may_have_any_name():
    prepared = prepared_of(rows_by_hand())
    named = prepared.with_events(prepared.events.with_columns(user=pl.lit("x"), item=pl.lit(0.5), time=pl.lit(9)))
    one, other = interaction_log(prepared), interaction_log(named)
    assert all(torch.equal(getattr(one, part), getattr(other, part)) for part in ("user", "item", "time", "basket"))


def test_an_item_table_makes_every_item_eligible():
    prepared = prepared_of(rows_by_hand(), has_item_table=True)
    assert fit_data(prepared, interaction_log(prepared), CUT).eligible.tolist() == [True] * 4


def test_events_whose_type_does_not_count():
    prepared = prepared_of([*rows_by_hand(), ("cat", 10, 13, None, None, "north", 0.0)], relevant=("buy",))
    assert interaction_log(prepared).relevant.tolist() == [False, True, True, True, True, False]


@pytest.mark.parametrize("later", [0, 1])
def test_context_is_aligned_with_the_log(later):
    prepared = prepared_of(rows_by_hand())
    data = fit_data(prepared, interaction_log(prepared), CUT + timedelta(hours=20 * later))
    assert len(data.tables.context["total"]) == len(data.log) == (3, 5)[later]
    events = prepared.events.filter(pl.col("timestamp") < CUT + timedelta(hours=20 * later))
    assert data.tables.context["total"].tolist() == events["total"].to_list()


@pytest.mark.parametrize("has_item_table", [False, True])
def test_an_earlier_cut_with_the_same_vocabularies(has_item_table):
    prepared = prepared_of(rows_by_hand(), has_item_table=has_item_table)
    log = interaction_log(prepared)
    late = fit_data(prepared, log, CUT + timedelta(hours=20))
    early, fitted = data_before(late, microseconds(CUT), has_item_table), fit_data(prepared, log, CUT)
    assert early.cut == fitted.cut
    assert early.encoder is late.encoder
    assert early.eligible.tolist() == fitted.eligible.tolist()
    for name in ("user", "item", "time", "relevant"):
        assert getattr(early.log, name).tolist() == getattr(fitted.log, name).tolist()
    assert early.tables.context["total"].tolist() == fitted.tables.context["total"].tolist()
    assert len(early.log) == 3 < len(late.log)


def test_days_of_popularity_are_those_of_before_validation(monkeypatch):
    """A fit at a later cut has the same ones: what the ranker learned from is what it is served with."""
    asked = []
    monkeypatch.setattr("recsys.data.dataset.recent_days", lambda log, cut: asked.append(cut) or 3.0)
    prepared = prepared_of(rows_by_hand())
    early, late = (fit_data(prepared, interaction_log(prepared), CUT + timedelta(hours=h)) for h in (-5, 20))
    assert asked == [early.cut, microseconds(prepared.windows.val_start)]
    assert early.cut < asked[1] < late.cut
    assert early.tables.popularity_days == late.tables.popularity_days == 3.0
    assert data_before(late, early.cut, has_item_table=False).tables.popularity_days == 3.0


def test_repeats_are_counted_among_what_users_with_a_history_take(log_of):
    first = [(0, 0, 5), (0, 1, 5), (1, 0, 1), (2, 2, 3)]  # nobody has a past yet; user 2 never comes back
    assert repeat_share(log_of(first, 3, 3), 9) == 0
    views = [(0, 2, 6, None, False), (0, 2, 7, None, False)]  # are no positives, but a past
    more = log_of([*first, *views, (0, 2, 8), (0, 0, 8), (1, 1, 2), (1, 2, 2), (0, 0, 9)], 3, 3)
    assert repeat_share(more, 9) == 2 / 4
    assert repeat_share(more, 10) == 3 / 5
    assert repeat_share(log_of([(0, 0, 1), (0, 0, 2), (0, 0, 3)], 1, 1), 9) == 1


def test_what_is_met_twice_in_one_basket_is_no_repeat(log_of):
    first = [(0, 0, 1, 1, False), (0, 0, 2, 1, False), (0, 0, 3, 1), (0, 0, 3, 1)]  # viewed, put into the cart, bought
    then = [(0, 1, 5, 2, False), (0, 1, 6, 2), (0, 1, 6, 2), (0, 2, 7, 2)]
    assert repeat_share(log_of([*first, *then], 1, 3), 9) == 0
    assert repeat_share(log_of([*first, *then, (0, 0, 8, 3)], 1, 3), 9) == 1 / 4


def test_a_run_counts_repeats_once_before_validation():
    buys = [("ann", 10, 1), ("ann", 10, 2), ("ann", 20, 3), ("ann", 20, 10), ("ann", 20, 11)]
    prepared = prepared_of([(user, item, hour, "buy", None, "north", 1.0) for user, item, hour in buys])
    early, validated, latest = (
        fit_data(prepared, interaction_log(prepared), CUT + timedelta(hours=h)) for h in (-7, 0, 20)
    )
    assert early.tables.repeat_share == 1
    assert validated.tables.repeat_share == latest.tables.repeat_share == 1 / 2  # the validation window opens at CUT
