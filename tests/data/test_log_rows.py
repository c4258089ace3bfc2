"""Rows become a log: baskets numbered, irrelevant types marked."""

import polars as pl
import pytest

from recsys.data.log_rows import log_of_rows

ROWS = pl.DataFrame(
    {
        "user": [0, 0, 0, 0, 1, 1],
        "item": [2, 0, 1, 1, 2, 0],
        "time": [5, 7, 7, 9, 5, 5],
        "basket_id": ["b", "a", None, "b", "b", None],
        "event_type": ["buy", "view", "buy", None, "cart", "buy"],
    }
)


def same(basket: list[int]) -> list[list[int]]:
    """Rows of one moment, together."""
    return [[row for row, number in enumerate(basket) if number == wanted] for wanted in dict.fromkeys(basket)]


def test_a_basket_is_one_moment_and_so_is_a_time_without_one() -> None:
    log = log_of_rows(ROWS, 3, 4, ())
    assert same(log.basket.tolist()) == [[0, 3], [1], [2], [4], [5]]
    assert sorted(log.basket.unique().tolist()) == [0, 1, 2, 3, 4]
    assert (log.user.tolist(), log.item.tolist(), log.time.tolist()) == (
        [0, 0, 0, 0, 1, 1],
        [2, 0, 1, 1, 2, 0],
        [5, 7, 7, 9, 5, 5],
    )
    assert (log.n_users, log.n_items) == (3, 4)


def test_without_baskets_a_moment_is_a_time_of_a_user() -> None:
    log = log_of_rows(ROWS.drop("basket_id"), 3, 4, ())
    assert same(log.basket.tolist()) == [[0], [1, 2], [3], [4, 5]]


@pytest.mark.parametrize(
    ("relevant", "expected"),
    [
        ((), [True] * 6),
        (("buy",), [True, False, True, False, False, True]),
        (("cart", "view"), [False, True, False, False, True, False]),
    ],
)
def test_relevant_types(relevant: tuple[str, ...], expected: list[bool]) -> None:
    assert log_of_rows(ROWS, 3, 4, relevant).relevant.tolist() == expected


def test_events_without_types_are_all_relevant() -> None:
    assert log_of_rows(ROWS.drop("event_type"), 3, 4, ("buy",)).relevant.all()


def test_weights() -> None:
    assert log_of_rows(ROWS, 3, 4, ()).weight is None
    weight = [1.0, 0.5, 1.0, 2.0, 1.0, 3.0]
    log = log_of_rows(ROWS.with_columns(event_weight=pl.Series(weight)), 3, 4, ())
    assert log.weight is not None
    assert log.weight.tolist() == weight
    later = log.between(6, None).weight
    assert later is not None
    assert later.tolist() == [0.5, 1.0, 2.0]


def test_no_rows() -> None:
    assert len(log_of_rows(ROWS.clear(), 3, 4, ("buy",)).user) == 0
