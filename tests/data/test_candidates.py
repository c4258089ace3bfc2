"""The union of what the sources name."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.candidates import union, with_pairs
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
