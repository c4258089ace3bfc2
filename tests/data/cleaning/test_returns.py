import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.config.cleaning import ReturnsConfig
from recsys.data.cleaning.returns import is_return, match_returns, taken_back, without_returned

NEGATIVE = ReturnsConfig(negative_quantity=True)
TYPED = ReturnsConfig(event_types=["return"])
COLUMNS = {"quantity": pl.Float64, "value": pl.Float64}


def returns_of(events, rules):
    return events.select(pl.repeat(False, pl.len()) | is_return(events.columns, rules)).to_series()


def matched(events, rules, bought=()):
    found = match_returns(events, returns_of(events, rules), rules, bought)
    return {row["row_number"]: row["return_of"] for row in found.iter_rows(named=True)}


def test_the_latest_earlier_purchase_with_enough_left(events_of):
    rows = [
        (1, "a", 0, 5.0, 50.0),
        (1, "a", 1, 1.0, 10.0),
        (1, "a", 2, -1.0, -10.0),  # takes the line of hour 1
        (1, "a", 3, -2.0, -20.0),  # too much for what is left of it: the line of hour 0
        (1, "a", 4, -4.0, -40.0),  # 3 are left: nothing has enough
        (1, "a", 5, -3.0, -30.0),
        (1, "a", 6, 9.0, 90.0),  # later purchases do not count
        (2, "a", 7, -1.0, -10.0),  # another user
        (1, "b", 7, -1.0, -10.0),  # another item
    ]
    assert matched(events_of(rows, **COLUMNS), NEGATIVE) == {3: 2, 4: 1, 5: None, 6: 1, 8: None, 9: None}


def test_the_basket_can_be_asked_for(events_of):
    rows = [(1, "a", 0, 1.0, 7), (1, "a", 1, 1.0, 8), (1, "a", 2, -1.0, 7)]
    events = events_of(rows, quantity=pl.Float64, basket_id=pl.Int64)
    assert matched(events, NEGATIVE) == {3: 2}
    assert matched(events, ReturnsConfig(negative_quantity=True, same_basket=True)) == {3: 1}


def test_a_type_of_its_own_and_a_missing_quantity(events_of):
    rows = [(1, "a", 0, "buy"), (1, "a", 1, "view"), (1, "a", 2, "return"), (1, "a", 3, "return")]
    events = events_of(rows, event_type=pl.String)
    assert matched(events, TYPED, ["buy"]) == {3: 1, 4: None}
    assert matched(events, TYPED) == {3: 2, 4: 1}


def test_a_purchase_of_the_same_moment_is_not_earlier(events_of):
    assert matched(events_of([(1, "a", 0, 1.0, 1.0), (1, "a", 0, -1.0, -1.0)], **COLUMNS), NEGATIVE) == {2: None}


def test_columns_of_the_shop_keep_their_names(events_of, windows):
    events = events_of(
        [(1, "a", 0, 2.0, 7, 8), (1, "a", 1, -1.0, 9, 9)], quantity=pl.Float64, kept=pl.Int64, returned=pl.Int64
    )
    matches = match_returns(events, returns_of(events, NEGATIVE), NEGATIVE, ())
    lessened, _ = without_returned(events, taken_back(events, matches, windows))
    assert lessened.select("quantity", "kept", "returned").row(0) == (1.0, 7, 8)


def test_part_of_a_purchase_leaves_part_of_its_value(events_of, windows):
    rows = [(1, "a", 0, 4.0, 40.0), (1, "a", 1, -1.0, -10.0), (1, "b", 0, 2.0, None), (1, "b", 1, -2.0, -3.0)]
    events = events_of(rows, **COLUMNS)
    matches = match_returns(events, returns_of(events, NEGATIVE), NEGATIVE, ())
    lessened, gone = without_returned(events, taken_back(events, matches, windows))
    assert lessened.filter(row_number=1).select("quantity", "value").rows() == [(3.0, 30.0)]
    assert lessened.filter(gone)["row_number"].to_list() == [3]


def test_fractions_are_taken_back_whole(events_of, windows):
    """As floats, 0.3 - 0.1 is less than 0.2."""
    rows = [(1, "a", 0, 0.3, 3.0), (1, "a", 1, -0.1, -1.0), (1, "a", 2, -0.2, -2.0)]
    events = events_of(rows, **COLUMNS)
    assert matched(events, NEGATIVE) == {2: 1, 3: 1}
    matches = match_returns(events, returns_of(events, NEGATIVE), NEGATIVE, ())
    _, gone = without_returned(events, taken_back(events, matches, windows))
    assert events.filter(gone)["row_number"].to_list() == [1]


@pytest.mark.parametrize(("sold", "back", "counts"), [(0, 9, True), (9, 10, False), (10, 19, True), (5, 25, False)])
def test_a_return_after_a_cut_changes_nothing_before_it(events_of, windows, sold, back, counts):
    events = events_of([(1, "a", sold, 1.0, 1.0), (1, "a", back, -1.0, -1.0)], **COLUMNS)
    matches = match_returns(events, returns_of(events, NEGATIVE), NEGATIVE, ())
    assert matches["return_of"].to_list() == [1]
    assert len(taken_back(events, matches, windows)) == counts


ROWS = st.lists(
    st.tuples(st.integers(1, 2), st.sampled_from("ab"), st.integers(0, 25), st.integers(-3, 4).filter(bool)),
    min_size=1,
    max_size=25,
    unique_by=lambda row: row[:3],
)


@given(ROWS, st.randoms())
def test_against_a_loop_in_any_order_of_rows(events_of, rows, random):
    events = events_of([(*row[:3], float(row[3])) for row in rows], quantity=pl.Float64)
    left, expected = {}, {}
    for number, user, item, time, quantity in events.select(
        "row_number", "user_id", "item_id", "timestamp", "quantity"
    ).iter_rows():
        if quantity > 0:
            left[number] = [user, item, time, quantity]
            continue
        fitting = [n for n, (u, i, t, q) in left.items() if (u, i) == (user, item) and t < time and q >= -quantity]
        expected[number] = max(fitting, key=lambda n: left[n][2], default=None)
        if fitting:
            left[expected[number]][3] += quantity
    assert matched(events, NEGATIVE) == expected
    shuffled = list(enumerate(rows, 1))
    random.shuffle(shuffled)
    again = matched(events_of([(*row[:3], float(row[3])) for _, row in shuffled], quantity=pl.Float64), NEGATIVE)
    number = dict(enumerate((n for n, _ in shuffled), 1))
    assert {number[a]: b and number[b] for a, b in again.items()} == expected
