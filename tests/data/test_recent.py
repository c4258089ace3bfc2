"""What users had last: by hand, by definition, and blind to the future."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.asked import asked_as_of
from recsys.data.log import DAY
from recsys.data.recent import (
    AGE,
    Recent,
    history_inputs,
    join_pairs,
    pairs_at_once,
    recent_items,
    take_pairs,
)
from recsys.data.topk import NONE
from recsys.features import REQUEST

CUT = 100 * DAY
EVENTS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(1, 6)), max_size=25)


def asked(log_of, rows, users=(0, 1, 2, 3)):
    """Rows (user, item, days before the cut)."""
    log = log_of([(u, i, CUT - days * DAY) for u, i, days in rows], 4, 6)
    return asked_as_of(log, torch.tensor(users), CUT)


def test_last_items_by_hand(log_of):
    rows = [(0, 3, 9), (0, 5, 8), (0, 3, 2), (0, 1, 2), (0, 4, 1), (2, 5, 7), (2, 5, 6)]
    found = recent_items(asked(log_of, rows), 3)
    assert found.item.tolist() == [[4, 1, 3], [NONE] * 3, [5, NONE, NONE], [NONE] * 3]  # of one time by row
    assert found.age.tolist() == [[1, 2, 2], [0, 0, 0], [6, 0, 0], [0, 0, 0]]  # of the last event of an item
    turned = recent_items(asked(log_of, rows, [2, 0]), 4)
    assert turned.item.tolist() == [[5, NONE, NONE, NONE], [4, 1, 3, 5]]
    nobody = recent_items(asked(log_of, rows, [1]), 2)
    assert nobody.item.tolist() == [[NONE, NONE]]


@given(rows=EVENTS, length=st.integers(1, 7))
def test_is_its_definition(log_of, rows, length):
    found = recent_items(asked(log_of, rows), length)
    assert found.item.shape == found.age.shape == (4, length)
    for user in range(4):
        last = {item: min(d for u, i, d in rows if (u, i) == (user, item)) for u, item, _ in rows if u == user}
        expected = sorted((days, item) for item, days in last.items())[:length]
        pad = length - len(expected)
        assert found.item[user].tolist() == [item for _, item in expected] + [NONE] * pad
        assert found.age[user].tolist() == [days for days, _ in expected] + [0] * pad


@given(rows=EVENTS, later=EVENTS)
def test_nothing_at_or_after_the_cut_matters(log_of, rows, later):
    one = recent_items(asked(log_of, rows), 4)
    two = recent_items(asked(log_of, rows + [(u, i, 1 - days) for u, i, days in later]), 4)  # from the cut itself on
    assert torch.equal(one.item, two.item)
    assert torch.equal(one.age, two.age)


RECENT = Recent(
    torch.tensor([[3, 0], [1, NONE], [NONE, NONE], [2, 1]]), torch.tensor([[1.0, 5.0], [2.0, 0], [0, 0], [4.0, 9.0]])
)
IDS = {"item_id": torch.tensor([2, 3, 4, 5]), "tags": torch.tensor([[7, 0], [8, 9], [0, 0], [6, 6]])}


def test_histories_are_of_the_requests_of_the_pairs():
    found = history_inputs(RECENT, torch.tensor([0, 0, 2, 3]), IDS)
    assert list(found) == [REQUEST, AGE, "history/item_id", "history/tags"]
    assert found[REQUEST].tolist() == [0, 0, 1, 2]
    assert found[AGE].tolist() == [[1, 5], [0, 0], [4, 9]]
    assert found["history/item_id"].tolist() == [[5, 2], [0, 0], [4, 3]]
    assert found["history/tags"].tolist() == [[[6, 6], [7, 0]], [[0, 0], [0, 0]], [[0, 0], [8, 9]]]
    nothing = history_inputs(RECENT, torch.zeros(0, dtype=torch.int64), IDS)
    assert nothing["history/tags"].shape == (0, 2, 2)


def test_pairs_taken_apart_are_joined_again():
    query = torch.tensor([0, 0, 1, 1, 3])
    whole = {"price": torch.arange(5.0)} | history_inputs(RECENT, query, IDS)
    joined = join_pairs([take_pairs(whole, torch.tensor(rows)) for rows in ([0, 1], [2, 3, 4])])
    assert joined.keys() == whole.keys()
    for name, values in whole.items():
        assert torch.equal(joined[name], values), name
    plain = join_pairs([{"price": torch.tensor([1.0])}, {"price": torch.tensor([2.0])}])
    assert plain["price"].tolist() == [1, 2]


def test_fewer_pairs_at_once_with_a_history():
    features = history_inputs(RECENT, torch.tensor([0]), IDS)
    assert pairs_at_once(features, 100) == 50
    assert pairs_at_once(features, 1) == 1
    assert pairs_at_once({"price": torch.tensor([1.0])}, 100) == 100
