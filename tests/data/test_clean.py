from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from recsys.data.clean import in_order, items_from_events, side_table
from recsys.data.split import Windows
from recsys.errors import DataError

START = datetime(2024, 1, 1, tzinfo=UTC)
WINDOWS = Windows(START, START + timedelta(hours=10), START + timedelta(hours=20), START + timedelta(hours=30))


def events_of(rows, **types):
    """Events from (item, hour, brand)."""
    return pl.DataFrame(
        {
            "user_id": [1] * len(rows),
            "item_id": [r[0] for r in rows],
            "timestamp": pl.Series([START + timedelta(hours=r[1]) for r in rows], dtype=pl.Datetime("us", "UTC")),
            "brand": pl.Series([r[2] for r in rows], dtype=pl.String),
        }
    )


def test_the_order_is_fixed():
    events = events_of([("b", 1, "x"), ("a", 1, "x"), ("b", 1, "x"), ("b", 1, "y"), ("a", 0, None)])
    ordered = in_order(events.with_row_index("row_number"))
    assert ordered["row_number"].to_list() == [4, 1, 0, 2, 3]
    assert_frame_equal(in_order(events[::-1]), in_order(events))


def test_side_table_counts_what_it_drops_and_covers_the_events():
    items = pl.DataFrame({"item_id": ["b", None, "b", "c", "c", "d"], "brand": ["x", "x", "x", "old", "new", "z"]})
    table, counts = side_table(items, "item_id", events_of([("a", 0, None), ("b", 1, None)]), "items")
    assert table.rows() == [("a", None), ("b", "x"), ("c", "new"), ("d", "z")]
    assert counts == {"read": 6, "id_missing": 1, "duplicates": 1, "contradictions": 1, "only_in_events": 1}
    assert counts["read"] == len(table) - counts["only_in_events"] + 3


def test_without_a_table_ids_alone():
    users, counts = side_table(None, "user_id", events_of([("a", 0, None)]), "users")
    assert users.rows() == [(1,)]
    assert counts == {}


def test_ids_of_both_tables_have_one_type():
    events = events_of([("a", 0, None)]).with_columns(item_id=pl.lit(7, dtype=pl.Int64))
    table, _ = side_table(pl.DataFrame({"item_id": ["7", "8"]}), "item_id", events, "items")
    assert table["item_id"].to_list() == [7, 8]
    with pytest.raises(DataError, match=r"items, column 'item_id': type String, but Int64 in the events table"):
        side_table(pl.DataFrame({"item_id": ["7", "08"]}), "item_id", events, "items")


def test_attributes_are_the_first_value_of_the_first_window():
    rows = [
        ("a", 2, "y"), ("a", 1, "z"), ("a", 1, "x"), ("a", 0, None), ("a", 12, "w"),  # at one time the smaller
        ("b", 0, None), ("b", 15, "late"),  # known in training, brand unknown then
        ("c", 15, "q"), ("c", 25, "p"),
    ]  # fmt: skip
    for rule in ("auto", "as_of"):
        items = items_from_events(events_of(rows), ["brand"], WINDOWS, rule)
        assert items.rows() == [("a", "x"), ("b", None), ("c", "q")]
    assert items_from_events(events_of(rows), ["brand"], WINDOWS, "latest")["brand"].to_list() == ["y", None, "q"]


def test_attributes_are_the_most_frequent_value_of_the_first_window():
    events = events_of(
        [
            ("a", 0, "x"), ("a", 1, "y"), ("a", 2, "y"), ("a", 3, None), ("a", 4, None), ("a", 5, None),
            ("a", 12, "x"), ("a", 13, "x"), ("a", 25, "x"),  # later events do not count
            ("b", 0, None), ("b", 15, "late"),  # known in training, brand unknown then
            ("c", 15, "q"), ("c", 16, "p"), ("c", 25, "q"),  # first sold in validation; a tie goes to the smaller
            ("d", 25, "z"),
        ]
    )  # fmt: skip
    items = items_from_events(events, ["brand"], WINDOWS, "most_frequent")
    assert items.rows() == [("a", "y"), ("b", None), ("c", "p"), ("d", "z")]


@pytest.mark.parametrize("name", ["len", "count", "value", "rows"])
def test_an_attribute_may_have_any_name(name):
    events = events_of([("a", 0, "x"), ("a", 1, "y"), ("a", 2, "y")]).rename({"brand": name})
    assert items_from_events(events, [name], WINDOWS, "most_frequent").rows() == [("a", "y")]


ROWS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(0, 29), st.sampled_from([None, "x", "y"])), min_size=1, max_size=40
)


@given(ROWS, st.integers(1, 28), st.randoms())
def test_no_cut_within_a_window_sees_what_a_known_attribute_became(rows, cut, random):
    past = [r for r in rows if r[1] < cut]
    assume(past)
    future = [(r[0], r[1], random.choice(["x", "y", "w", None])) for r in rows if r[1] >= cut]
    at_cut = items_from_events(events_of(past), ["brand"], WINDOWS).drop_nulls()
    after = items_from_events(events_of(past + future), ["brand"], WINDOWS)
    assert_frame_equal(at_cut, after.join(at_cut, on="item_id", how="semi", maintain_order="left"))


@given(ROWS, st.sampled_from([10, 20]), st.sampled_from(["auto", "latest", "most_frequent"]), st.randoms())
def test_the_future_of_a_cut_changes_no_item_known_before_it(rows, cut, rule, random):
    past = [r for r in rows if r[1] < cut]
    future = [(r[0], r[1], random.choice(["x", "y", "w"])) for r in rows if r[1] >= cut]
    random.shuffle(future)
    known = pl.Series([r[0] for r in past], dtype=pl.String).unique().implode()
    before = items_from_events(events_of(rows), ["brand"], WINDOWS, rule).filter(pl.col("item_id").is_in(known))
    after = items_from_events(events_of(past + future), ["brand"], WINDOWS, rule).filter(pl.col("item_id").is_in(known))
    assert_frame_equal(before, after)
