"""Training sets of the ranker, labelled by hand."""

from dataclasses import replace

import pytest
import torch

from recsys.data.candidates import union
from recsys.data.ranking_state import RankerPairs
from recsys.data.recent import Recent
from recsys.data.snapshots import Snapshot, of_users, pair_inputs, ranking_set, take_snapshot, thin_out
from recsys.data.topk import NONE
from recsys.errors import ConfigError

CUT = 86_400_000_000
N_ITEMS = 10


def pairs(*lists: list[int]) -> RankerPairs:
    """Candidates of some requests; their numbers are the item, and a hundred times it."""
    width = max(len(items) for items in lists)
    named = {"some": torch.tensor([items + [NONE] * (width - len(items)) for items in lists])}
    found = union(named, 10)
    numbers = torch.stack([found.item.float(), 100.0 * found.item], 1)
    return RankerPairs(found.query, found.item, ("small", "large"), numbers, named, found, len(lists))


def keys(*taken: tuple[int, int]) -> torch.Tensor:
    return torch.tensor(sorted(user * N_ITEMS + item for user, item in taken), dtype=torch.int64)


@pytest.fixture
def taken() -> Snapshot:
    """Users 3, 5 and 8, in two chunks; what they bought, and what they clicked."""
    bought = keys((3, 1), (3, 7), (5, 4), (8, 2), (9, 1))  # 7 was no candidate, user 9 was not asked
    clicked = keys((3, 2), (5, 5))
    return take_snapshot(
        torch.tensor([3, 5, 8]), [pairs([1, 2], [4]), pairs([1, 2, 9])], [bought, clicked], N_ITEMS, CUT
    )


def test_labels_by_hand(taken: Snapshot) -> None:
    assert taken.query.tolist() == [0, 0, 1, 2, 2, 2]
    assert taken.item.tolist() == [1, 2, 4, 1, 2, 9]
    assert taken.labels[:, 0].tolist() == [1, 0, 1, 0, 1, 0]
    assert taken.labels[:, 1].tolist() == [0, 1, 0, 0, 0, 0]  # (5, 5) was no candidate
    assert taken.names == ("small", "large")
    assert taken.numbers[:, 1].tolist() == [100, 200, 400, 100, 200, 900]
    assert taken.rate.tolist() == [1] * 6
    assert taken.lost == 1  # (3, 7); what nobody was asked for is not lost
    assert len(taken) == 6


def test_nothing_taken_and_nothing_shown() -> None:
    nothing = take_snapshot(torch.tensor([3]), [pairs([1])], [keys()], N_ITEMS, CUT)
    assert (nothing.labels.tolist(), nothing.lost) == ([[0]], 0)
    unseen = take_snapshot(torch.tensor([3]), [pairs([])], [keys((3, 1), (3, 2))], N_ITEMS, CUT)
    assert (len(unseen), unseen.labels.shape, unseen.lost) == (0, (0, 1), 2)


def test_thin_out_keeps_every_positive_and_says_how_probable_it_was() -> None:
    n = 4000
    labels = torch.zeros(n, 2)
    labels[::40, 0] = 1
    labels[1::50, 1] = 1  # of the second task alone
    ones = torch.ones(n)
    many = Snapshot(torch.tensor([0]), torch.zeros(n, dtype=torch.int64), torch.arange(n), ("x",), ones[:, None] *
                    torch.arange(n)[:, None], labels, ones, 3, CUT)  # fmt: skip
    thin = thin_out(many, 0.25, seed=0)
    positive = (labels > 0).any(1)
    assert thin.labels.sum(0).tolist() == labels.sum(0).tolist()
    assert set(positive.nonzero().flatten().tolist()) <= set(thin.item.tolist())
    is_positive = positive[thin.item]
    assert thin.rate[is_positive].unique().tolist() == [1.0]
    assert thin.rate[~is_positive].unique().tolist() == [0.25]
    assert int((~is_positive).sum()) == pytest.approx(0.25 * int((~positive).sum()), rel=0.1)
    assert float((1 / thin.rate).sum()) == pytest.approx(n, rel=0.1)
    assert torch.equal(thin.numbers[:, 0], thin.item.float())  # rows stay together
    assert (thin.lost, thin.names) == (3, ("x",))
    assert torch.equal(thin_out(many, 0.25, seed=0).item, thin.item)
    assert not torch.equal(thin_out(many, 0.25, seed=1).item, thin.item)
    again = thin_out(thin, 0.5, seed=2)
    assert sorted(again.rate.unique().tolist()) == [0.125, 1.0]
    assert torch.equal(thin_out(many, 1.0, seed=0).item, many.item)


def test_what_was_shown_and_not_taken_stays() -> None:
    many = take_snapshot(
        torch.tensor([3]), [pairs([*range(10)])], [keys((3, 1))], N_ITEMS, CUT, shown=keys((3, 4), (3, 11), (5, 6))
    )
    assert many.shown is not None
    assert many.shown.nonzero().flatten().tolist() == many.item.eq(4).nonzero().flatten().tolist()
    thin = thin_out(many, 1e-6, seed=0)
    assert sorted(thin.item.tolist()) == [1, 4]
    assert thin.shown is not None
    assert thin.shown.tolist() == thin.item.eq(4).tolist()
    assert thin.rate.tolist() == [1.0, 1.0]
    assert of_users(many, 0, 1).shown.tolist() == many.shown.tolist()  # type: ignore[union-attr]


def test_the_part_of_some_users(taken: Snapshot) -> None:
    recent = Recent(torch.tensor([[1, 2], [4, NONE], [9, 1]]), torch.tensor([[3.0, 5.0], [1.0, 0.0], [2.0, 6.0]]))
    part = of_users(replace(taken, recent=recent), 1, 3)
    assert part.users.tolist() == [5, 8]
    assert part.query.tolist() == [0, 1, 1, 1]
    assert part.item.tolist() == [4, 1, 2, 9]
    assert part.numbers[:, 0].tolist() == part.item.tolist()
    assert part.labels[:, 0].tolist() == [1, 0, 1, 0]
    assert len(part.rate) == 4
    assert part.recent is not None
    assert part.recent.item.tolist() == [[4, NONE], [9, 1]]
    assert part.recent.age.tolist() == [[1, 0], [2, 6]]
    assert len(of_users(taken, 3, 5)) == 0
    assert of_users(taken, 0, 9).item.tolist() == taken.item.tolist()


def test_histories_are_of_the_users_of_each_snapshot(taken: Snapshot) -> None:
    recent = Recent(torch.tensor([[1, 2], [4, NONE], [9, 1]]), torch.tensor([[3.0, 5.0], [1.0, 0.0], [2.0, 6.0]]))
    whole = replace(taken, recent=recent)
    ids = torch.arange(N_ITEMS) + 2
    found = ranking_set([of_users(whole, 1, 3), whole], {"item_id": ids}, {}).features
    assert found["request"].tolist() == [0, 1, 1, 1, 2, 2, 3, 4, 4, 4]
    assert found["history/item_id"].tolist() == [[6, 0], [11, 3], [3, 4], [6, 0], [11, 3]]
    assert found["history/age"].tolist() == [[1, 0], [2, 6], [3, 5], [1, 0], [2, 6]]
    assert not any("/" in name for name in ranking_set([taken], {"item_id": ids}, {}).features)


def test_groups_of_several_snapshots_are_apart(taken: Snapshot) -> None:
    rows = torch.tensor([0, 3, 4])  # nothing of user 5 is left
    thin = replace(
        taken, query=taken.query[rows], item=taken.item[rows], numbers=taken.numbers[rows],
        labels=taken.labels[rows], rate=torch.tensor([1, 0.5, 1]),
    )  # fmt: skip
    brand = torch.arange(N_ITEMS) * 10
    tags = torch.stack([torch.arange(N_ITEMS), torch.zeros(N_ITEMS, dtype=torch.int64)], 1)
    whole = ranking_set([thin, taken], {"brand": brand, "tags": tags}, {"user_id": torch.arange(10) + 2})
    assert whole.group.tolist() == [0, 1, 1, 2, 2, 3, 4, 4, 4]
    assert whole.n_groups == 5
    assert list(whole.features) == ["small", "large", "brand", "tags", "user_id"]
    assert whole.features["small"].tolist() == [1, 1, 2, 1, 2, 4, 1, 2, 9]
    assert whole.features["brand"].tolist() == [10, 10, 20, 10, 20, 40, 10, 20, 90]
    assert whole.features["tags"][-1].tolist() == [9, 0]
    assert whole.features["user_id"].tolist() == [5, 10, 10, 5, 5, 7, 10, 10, 10]
    assert whole.rate.tolist() == [1, 0.5, 1, 1, 1, 1, 1, 1, 1]
    assert whole.labels[:, 0].tolist() == [1, 0, 1, 1, 0, 1, 0, 1, 0]
    assert (whole.lost, len(whole)) == (2, 9)


def test_a_snapshot_without_pairs_adds_no_group(taken: Snapshot) -> None:
    empty = take_snapshot(torch.tensor([3]), [pairs([])], [keys((3, 1))] * 2, N_ITEMS, CUT)
    assert ranking_set([empty, taken, empty], {}, {}).group.tolist() == taken.query.tolist()
    assert ranking_set([empty], {}, {}).n_groups == 0


def test_inputs_of_pairs_are_gathered_by_row() -> None:
    numbers = torch.tensor([[1.0, float("nan")], [2.0, 3.0]])
    found = pair_inputs(
        ("a", "b"), numbers, torch.tensor([1, 0]), torch.tensor([0, 0]), {"i": torch.tensor([5, 6])},
        {"u": torch.tensor([7])},
    )  # fmt: skip
    assert found["a"].tolist() == [1, 2]
    assert found["a"].is_contiguous()
    assert found["b"][0].isnan()
    assert (found["i"].tolist(), found["u"].tolist()) == ([6, 5], [7, 7])


def test_ids_never_take_the_place_of_numbers() -> None:
    row, ids = torch.tensor([0]), torch.tensor([2])
    for item_ids, user_ids in (({"b": ids}, {}), ({}, {"b": ids})):
        with pytest.raises(ConfigError, match="'b' is also the name of a number"):
            pair_inputs(("a", "b"), torch.ones(1, 2), row, row, item_ids, user_ids)
