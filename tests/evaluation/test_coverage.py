"""Coverage of two users' truth that can be counted by hand."""

import pytest
import torch
from rich.console import Console

from recsys.data.candidates import union
from recsys.data.topk import NONE
from recsys.evaluation.coverage import coverage, coverage_rows, coverage_table
from recsys.evaluation.slices import make_targets


@pytest.fixture
def measured(make_log):
    history = make_log([(0, 0, 1), (0, 1, 1), (1, 0, 1)], 3, 8)
    truth = make_log([(0, 0, 9), (0, 2, 9), (0, 3, 9), (0, 4, 9), (1, 0, 9), (1, 5, 9)], 3, 8)
    targets = make_targets(history, truth, torch.ones(8, dtype=torch.bool))
    lists = {
        "own": torch.tensor([[0, 1], [NONE, NONE]]),
        "new": torch.tensor([[2, 6], [5, 3]]),
        "more": torch.tensor([[0, 2, 3, 4], [5, 7, NONE, NONE]]),
    }

    def chunks():
        for row in range(2):
            part = {name: items[row : row + 1] for name, items in lists.items()}
            yield targets.users[row : row + 1], part, union(part, 4)

    return coverage(chunks(), targets)


def test_shares_by_hand(measured):
    own, new, more, both = measured
    assert [entry.source for entry in measured] == ["own", "new", "more", "union"]
    assert [entry.size for entry in measured] == [1, 2, 3, 3.5]
    assert own.recall == {"all": (1 / 4 + 0) / 2, "repeat": (1 + 0) / 2, "new": 0}
    assert own.pooled == {"all": 1 / 6, "repeat": 1 / 2, "new": 0}
    assert new.recall == {"all": (1 / 4 + 1 / 2) / 2, "repeat": 0, "new": pytest.approx((1 / 3 + 1) / 2)}
    assert more.pooled == {"all": 5 / 6, "repeat": 1 / 2, "new": 1}
    # User 0 has room for four of 0, 2, 1, 6, 3, 4: own and more first, new first, then second places in turn.
    assert both.pooled == {"all": 3 / 6, "repeat": 1 / 2, "new": 2 / 4}
    assert both.recall["new"] == pytest.approx((1 / 3 + 1) / 2)


def test_only_here_is_what_the_union_would_lose(make_log):
    truth = make_log([(0, 0, 9), (0, 1, 9), (0, 2, 9), (0, 3, 9)], 1, 4)
    targets = make_targets(make_log([], 1, 4), truth, torch.ones(4, dtype=torch.bool))
    lists = {"a": torch.tensor([[0, 1]]), "b": torch.tensor([[1, 2]])}
    found = coverage([(targets.users, lists, union(lists, 3))], targets)
    assert [entry.alone["all"] for entry in found] == [1 / 4, 1 / 4, 0]
    assert list(found[0].recall) == ["all"]  # a window without warm users has neither repeat nor new


def test_rows_and_table(measured):
    rows = coverage_rows(measured)
    assert [row["source"] for row in rows] == ["own", "new", "more", "union"]
    assert rows[0]["repeat"] == 0.5
    assert rows[2]["new pooled"] == 1
    console = Console(width=140, record=True, file=None, quiet=False)
    with console.capture() as shown:
        console.print(coverage_table(measured))
    assert "union" in shown.get()
    assert "100.0" in shown.get()
