"""The union of what the sources name."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.candidates import TURN, learn_shares, union, with_pairs
from recsys.data.topk import NONE


def test_union_takes_turns():
    lists = {"a": torch.tensor([[1, 2, 3], [7, NONE, NONE]]), "b": torch.tensor([[2, 5], [8, 9]])}
    found = union(lists, 3)
    assert found.query.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.item.tolist() == [1, 2, 5, 7, 8, 9]
    assert found.rank["a"].tolist() == [1, 2, 0, 1, 0, 0]
    assert found.rank["b"].tolist() == [0, 1, 2, 0, 1, 2]
    assert {rank.dtype for rank in found.rank.values()} == {torch.int32}


def test_union_deals_by_shares():
    lists = {"a": torch.tensor([[1, 2, 3]]), "b": torch.tensor([[4, 5, 6]])}
    assert union(lists, 3, {"b": 2.0}).item.tolist() == [4, 1, 5]  # due at 0.5, 1 and 1


def test_union_of_nothing():
    found = union({"a": torch.full((2, 3), NONE), "b": torch.empty(2, 0, dtype=torch.int64)}, 5)
    assert len(found) == 0
    assert [len(rank) for rank in found.rank.values()] == [0, 0]


def test_shares_go_to_the_source_that_finds_most():
    """Two requests of 4 turns, of which ``given`` has 2: ``good`` finds 3 and 1 in its first two, ``poor`` 2 and 0."""
    n_items = 1000
    given = torch.arange(20).repeat(2, 1)
    good = torch.arange(100, 130).repeat(2, 1)
    poor = torch.arange(200, 230).repeat(2, 1)
    lists = {"given": given, "good": good, "poor": poor, "empty": torch.full((2, 5), NONE)}
    wanted = torch.tensor([0, 100, 101, 102, 112, 200, 201, 500, n_items + 100, n_items + 101, n_items + 203])
    shares = learn_shares(lists, wanted, n_items, 4 * TURN, {"given": 50.0})
    assert shares == {"given": 50.0, "good": 50.0 / 3, "poor": 50.0 / 3, "empty": 50.0 / 3}
    more = learn_shares(lists, wanted, n_items, 5 * TURN, {"given": 40.0})
    assert more == {"given": 40.0, "good": 30.0, "poor": 15.0, "empty": 15.0}
    same = lists | {"poor": good}  # what another has brought finds nothing more, and takes no place
    assert learn_shares(same, wanted, n_items, 5 * TURN, {"given": 40.0}) == {
        "given": 40.0, "good": 36.0, "poor": 12.0, "empty": 12.0,
    }  # fmt: skip
    assert learn_shares({"good": good}, wanted, n_items, 40, {"good": 3.0}) == {"good": 3.0}
    assert learn_shares({"good": good}, wanted[:0], n_items, 40, {}) == {"good": 100.0}
    nobody = {name: rows[:0] for name, rows in lists.items()}
    assert learn_shares(nobody, wanted[:0], n_items, 40, {"given": 40.0})["poor"] == 20.0


LIST = st.lists(st.integers(0, 8), max_size=6, unique=True)


def padded(rows: list[list[int]]) -> torch.Tensor:
    return torch.tensor([row + [NONE] * (6 - len(row)) for row in rows])


@given(st.lists(st.tuples(LIST, LIST, LIST), min_size=1, max_size=4), st.integers(0, 12), st.integers(1, 4))
def test_union_against_its_promises(rows, limit, share):
    lists = {name: padded([row[i] for row in rows]) for i, name in enumerate("abc")}
    shares = {"b": float(share)}
    found = union(lists, limit, shares)
    assert found.query.tolist() == sorted(found.query.tolist())
    for request, row in enumerate(rows):
        items = found.item[found.query == request].tolist()
        assert len(items) == len(set(items)) == min(limit, len({item for part in row for item in part}))
        for i, name in enumerate("abc"):
            own = {item: place for place, item in enumerate(row[i], 1)}
            assert found.rank[name][found.query == request].tolist() == [own.get(item, 0) for item in items]
            sure = int(limit * shares.get(name, 1.0) / (2 + share) + 1e-9)
            assert set(row[i][:sure]) <= set(items)


def test_pairs_that_no_source_named() -> None:
    found = union({"a": torch.tensor([[4, 2], [7, NONE]]), "b": torch.tensor([[2, 9], [7, 1]])}, 3)
    more = with_pairs(found, torch.tensor([1, 0, 2, 0]), torch.tensor([30, 2, 5, 1]))
    assert list(zip(more.query.tolist(), more.item.tolist(), strict=True)) == [
        *((0, item) for item in (*found.item[found.query == 0].tolist(), 1)),
        *((1, item) for item in (*found.item[found.query == 1].tolist(), 30)),
        (2, 5),
    ]
    new = torch.tensor(
        [item in (30, 5) or (query, item) == (0, 1) for query, item in zip(more.query, more.item, strict=True)]
    )
    for name, rank in found.rank.items():
        assert more.rank[name][~new].tolist() == rank.tolist()
        assert more.rank[name][new].tolist() == [0, 0, 0]
    nothing = torch.zeros(0, dtype=torch.int64)
    assert torch.equal(with_pairs(found, nothing, nothing).item, found.item)


@given(
    st.lists(st.tuples(LIST, LIST, LIST), min_size=1, max_size=4), st.sets(st.integers(0, 35)), st.integers(1, 12),
    st.sampled_from([{}, {"a": 30.0}, {"a": 30.0, "c": 60.0}]),
)  # fmt: skip
def test_shares_against_their_promises(rows, wanted, limit, given_shares):
    lists = {name: padded([row[i] for row in rows]) for i, name in enumerate("abc")}
    truth = torch.tensor(sorted(key for key in wanted if key < 9 * len(rows)), dtype=torch.int64)
    shares = learn_shares(lists, truth, 9, limit, given_shares)
    assert shares.keys() == lists.keys()
    assert sum(shares.values()) == pytest.approx(100.0)
    assert min(shares.values()) > 0
    assert {name: shares[name] for name in given_shares} == given_shares
