import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from recsys.data.sessions import SessionPlan, visits
from recsys.segments.behaviour import behaviour
from tests.segments.conftest import micros


def row(table, user):
    return table.filter(pl.col("user_id") == user).row(0, named=True)


def test_numbers_by_hand(events_of):
    events = events_of(
        [
            (1, "a", 0, 2.0),
            (1, "b", 0, 3.0),  # a basket of two
            (1, "a", 4, 2.0),
            (1, "c", 10, 9.0),
            (2, "a", 7, 1.5),
            (3, "z", 12, 5.0),  # at the cut
        ]
    )
    table = behaviour(events, micros(12))
    assert table["user_id"].to_list() == [1, 2]
    assert row(table, 1) == {
        "user_id": 1, "frequency": 3, "recency": 2.0, "tenure": 12.0, "gap": 5.0, "monetary": 16.0,
        "spend": pytest.approx(16 / 3, abs=1e-6), "basket_size": pytest.approx(4 / 3, abs=1e-6), "variety": 3,
        "repeat": 0.25, "others": 0, "others_recency": None, "cart_recency": None,
    }  # fmt: skip
    one = row(table, 2)
    assert (one["frequency"], one["recency"], one["tenure"], one["gap"], one["monetary"]) == (1, 5.0, 5.0, 5.0, 1.5)


def test_without_values_the_quantity_is_what_a_user_is_worth(events_of):
    events = events_of([(1, "a", 0), (1, "b", 1), (2, "a", 1)])
    table = behaviour(events, micros(2))
    assert (table["monetary"].to_list(), table["spend"].to_list()) == ([2.0, 1.0], [None, None])
    counted = behaviour(events.with_columns(quantity=pl.Series([3, 1, 5])), micros(2))
    assert counted["monetary"].to_list() == [4.0, 5.0]


def test_other_events_and_open_carts(events_of):
    events = events_of(
        [
            (1, "a", 1, 0.0, "cart"),
            (1, "a", 2, 4.0, "purchase"),  # bought after
            (2, "a", 1, 4.0, "purchase"),
            (2, "a", 3, 0.0, "cart"),  # put in again after
            (3, "b", 4, 0.0, "cart"),
            (3, "c", 2, 0.0, "cart"),
            (4, "b", 3, 0.0, "view"),
        ]
    )
    table = behaviour(events, micros(5), relevant=("purchase",), cart_types=("cart",))
    assert table["frequency"].to_list() == [1, 1, 0, 0]
    assert table["others"].to_list() == [1, 1, 2, 1]
    assert table["others_recency"].to_list() == [4.0, 2.0, 1.0, 2.0]
    assert table["cart_recency"].to_list() == [None, 2.0, 1.0, None]
    assert table["recency"].to_list() == [3.0, 4.0, None, None]


def test_what_is_bought_again_in_the_same_basket_is_not_left_in_the_cart(events_of):
    turns = ["cart", "purchase", "cart", "purchase"]
    events = events_of([(user, "a", 1 + n / 24, 4.0, turns[n]) for user in (1, 2) for n in range(2 + user)])
    table = behaviour(events.with_columns(basket_id=pl.col("user_id")), micros(2), ("purchase",), ("cart",))
    assert table["cart_recency"].to_list() == [pytest.approx(22 / 24, abs=1e-6), None]
    plan = SessionPlan(purchase=("purchase",), cart=("cart",), has_types=True)
    assert visits(plan, events, micros(2)).users["cart_open"].to_list() == [1, None]


def test_nobody_before_the_cut(events_of):
    assert behaviour(events_of([(1, "a", 3, 1.0)]), micros(1)).is_empty()


rows = st.lists(
    st.tuples(
        st.integers(1, 5),
        st.sampled_from("abcd"),
        st.integers(0, 20),
        st.floats(-5, 50),
        st.sampled_from(["buy", "cart"]),
    ),
    min_size=1,
    max_size=30,
)


@given(rows=rows, cut=st.integers(0, 20), later=rows, seed=st.integers(0, 9))
def test_neither_the_future_nor_the_order_nor_other_users_matter(events_of, rows, cut, later, seed):
    events = events_of(rows)
    future = [(user, item, cut + day, value, kind) for user, item, day, value, kind in later]
    both = pl.concat([events, events_of(future)]).sample(fraction=1, shuffle=True, seed=seed)
    before = events.filter(pl.col("timestamp").dt.epoch("us") < micros(cut))
    known = behaviour(events, micros(cut), ("buy",), ("cart",))
    assert_frame_equal(behaviour(both, micros(cut), ("buy",), ("cart",)), known)
    for user in known["user_id"]:
        alone = behaviour(before.filter(pl.col("user_id") == user), micros(cut), ("buy",), ("cart",))
        assert_frame_equal(alone, known.filter(pl.col("user_id") == user))
