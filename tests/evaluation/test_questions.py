"""What the window asks of touchpoints: hand-made logs, and what must never be shown."""

from collections.abc import Callable

import pytest
import torch

from recsys.data.log import InteractionLog
from recsys.evaluation.questions import (
    Questions,
    basket_questions,
    bought_questions,
    upsell_questions,
    window_questions,
)

Log = Callable[..., InteractionLog]
ROWS = [
    *((0, item, 1) for item in (1, 2, 3)),
    (0, 4, 3),
    (0, 1, 3),
    (0, 5, 9),
    (1, 6, 2),
    *((2, item, 2) for item in (7, 8)),
    (2, 9, 2, False),
    (2, 9, 20),
]
"""User, item, day: a basket is a user's day; user 1 never has two items, user 2 looks at item 9 before it is bought."""


def plain(questions: Questions) -> dict[int, tuple[list[int], list[int]]]:
    rows = zip(questions.users.tolist(), questions.items, questions.truth, strict=True)
    return {user: (sorted(shown.tolist()), sorted(truth.tolist())) for user, shown, truth in rows}


def test_the_whole_window(make_log: Log) -> None:
    found = plain(window_questions(make_log(ROWS, 3, 10), 10, 0))
    assert found == {0: ([], [1, 2, 3, 4, 5]), 1: ([], [6]), 2: ([], [7, 8, 9])}
    some = window_questions(make_log(ROWS, 3, 10), 2, 0)
    assert len(some) == 2
    assert plain(some) == plain(window_questions(make_log(ROWS, 3, 10), 2, 0))


@pytest.mark.parametrize("seed", range(8))
def test_one_item_of_a_basket_is_hidden_and_not_shown(make_log: Log, seed: int) -> None:
    log = make_log(ROWS, 3, 10)
    found = plain(basket_questions(log, 10, seed))
    baskets = {0: [[1, 2, 3], [1, 4]], 2: [[7, 8]]}
    assert set(found) == {0, 2}
    for user, (shown, truth) in found.items():
        assert len(truth) == 1
        assert sorted(shown + truth) in baskets[user]
    for user, (shown, truth) in plain(basket_questions(log, 10, seed, shown=1)).items():
        assert len(shown) == len(truth) == 1
        assert any({*shown, *truth} <= set(basket) for basket in baskets[user])


def test_every_item_of_a_basket_is_hidden_by_some_seed(make_log: Log) -> None:
    log = make_log([(user, item, 1) for user in range(40) for item in (1, 2, 3)], 40, 4)
    hidden = [int(truth) for truth in basket_questions(log, 40, 0).truth]
    assert {item: 6 < hidden.count(item) < 21 for item in (1, 2, 3)} == {1: True, 2: True, 3: True}


def test_what_follows_a_basket_within_the_days(make_log: Log) -> None:
    """The log ends on day 20, so that with 5 days only baskets until day 15 are asked about."""
    seen = set()
    for seed in range(12):
        found = plain(bought_questions(make_log(ROWS, 3, 10), 10, seed, days=5))
        assert set(found) == {0}
        seen.add(str(found[0]))
    assert seen == {str(([1, 2, 3], [4]))}  # the basket of day 3 is followed by nothing within 5 days
    wide = {str(plain(bought_questions(make_log(ROWS, 3, 10), 10, s, days=6))[0]) for s in range(12)}
    assert wide == {str(([1, 2, 3], [4])), str(([1, 4], [5]))}


def test_the_dearer_item_in_place_of_the_last_one(make_log: Log) -> None:
    history = make_log([(0, 0, 1), (0, 1, 2), (1, 4, 1), (2, 5, 1)], 3, 7)
    window = make_log([(0, 2, 9), (0, 3, 9), (1, 3, 9), (2, 6, 9), (2, 5, 9)], 3, 7)
    prices = torch.tensor([1.0, 2.0, 3.0, 9.0, 1.0, 2.0, torch.nan])
    category = torch.tensor([0, 0, 0, 0, 1, -1, -1])

    def ask(low: float | None, high: float | None) -> dict[int, tuple[list[int], list[int]]]:
        return plain(upsell_questions(history, window, 9, 0, prices=prices, category=category, band=(low, high)))

    assert ask(1.1, 2.0) == {0: ([1], [2])}  # of its category user 0 had 1 last; 3 is too dear
    assert ask(4.0, None) == {0: ([1], [3])}
    assert ask(1.1, 1.2) == {}


def test_only_what_may_be_answered_is_asked() -> None:
    questions = Questions(
        torch.tensor([3, 5, 8]),
        [torch.tensor([0]), torch.tensor([1]), torch.tensor([2])],
        [torch.tensor([1, 2]), torch.tensor([3]), torch.tensor([0, 3])],
    )
    may = torch.tensor([[True, True, False, False], [True, True, True, False], [True] * 4])
    assert plain(questions.only(lambda row: may[row])) == {3: ([0], [1]), 8: ([2], [0, 3])}
