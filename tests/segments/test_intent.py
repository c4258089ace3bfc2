import pytest

from recsys.segments.behaviour import behaviour
from recsys.segments.intent import IntentRules, fit_intent
from tests.segments.conftest import micros

RULES = IntentRules(usual_gap=10.0, recent_days=7.0)
RELEVANT, CART = ("buy",), ("cart",)
CASES = {
    "abandoned_cart": [("a", 90, "buy"), ("b", 99, "cart")],
    "just_bought": [("a", 80, "buy"), ("a", 90, "buy"), ("b", 97, "buy"), ("c", 98, "view")],
    "browsing": [("a", 90, "buy"), ("c", 97, "view")],
    "due": [("a", 90, "buy")],
    "lapsing": [("a", 80, "buy")],
    "dormant": [("a", 50, "buy"), ("c", 80, "view")],
}


@pytest.mark.parametrize("group", CASES)
def test_each_rule(events_of, group):
    events = events_of([(1, item, day, 1.0, kind) for item, day, kind in CASES[group]])
    assert RULES.assign(behaviour(events, micros(100), RELEVANT, CART)).to_list() == [group]


@pytest.mark.parametrize(
    ("rows", "group"),
    [
        ([("b", 99, "cart"), ("b", 99.5, "buy")], "just_bought"),  # the cart was bought
        ([("b", 80, "cart")], "dormant"),  # long ago, and nothing since
        ([("b", 97, "view")], "browsing"),  # never bought
        ([("a", 70, "buy"), ("a", 72, "buy"), ("a", 90, "buy")], "due"),  # own rhythm: 10 days
        ([("a", 86, "buy"), ("a", 88, "buy"), ("a", 90, "buy")], "dormant"),  # own rhythm: 2 days
        ([("a", 95.0, "buy")], "due"),  # exactly half of the rhythm
        ([("a", 85.0, "buy")], "lapsing"),
        ([("a", 60.0, "buy")], "dormant"),
    ],
)
def test_bounds_of_the_rules(events_of, rows, group):
    events = events_of([(1, item, day, 1.0, kind) for item, day, kind in rows])
    assert RULES.assign(behaviour(events, micros(100), RELEVANT, CART)).to_list() == [group]


def test_usual_gap_is_the_median_of_those_who_came_back(events_of):
    events = events_of([(1, "a", 0), (1, "a", 4), (2, "a", 0), (2, "a", 8), (3, "a", 1), (3, "a", 31), (4, "a", 9)])
    assert fit_intent(behaviour(events, micros(40)), 7.0) == IntentRules(8.0, 7.0)
    once = events_of([(1, "a", 10), (2, "a", 20), (3, "a", 39)])
    assert fit_intent(behaviour(once, micros(40)), 7.0).usual_gap == 20.0


def test_a_rhythm_of_moments_counts_as_an_hour(events_of):
    events = events_of([(1, "a", 99.97), (1, "b", 99.98), (1, "c", 99.985)])
    assert RULES.assign(behaviour(events, micros(100))).to_list() == ["just_bought"]
