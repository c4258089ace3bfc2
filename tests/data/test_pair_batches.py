import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.pair_batches import PairBatches
from recsys.data.recent import take_pairs
from recsys.errors import DataError

SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=12)


def make(sizes, **settings):
    """Pairs that carry their own row and group, with a history a group."""
    group = torch.repeat_interleave(torch.tensor(sizes))
    rows = torch.arange(len(group))
    encoded = {
        "row": rows,
        "twice": torch.stack([rows, rows], 1).float(),
        "request": group,
        "history/item_id": torch.arange(len(sizes))[:, None] * 10 + torch.arange(3),
    }
    labels, weights = torch.stack([rows, -rows], 1).float(), rows / 2
    return PairBatches(encoded, labels, weights, group, **({"batch_groups": 2, "seed": 3} | settings)), group


def test_some_pairs_bring_the_histories_of_their_requests_alone():
    features = {
        "price": torch.tensor([5.0, 6.0, 7.0, 8.0]),
        "words": torch.arange(8).view(4, 2),
        "request": torch.tensor([2, 0, 2, 1]),
        "history/item_id": torch.tensor([[1, 2], [3, 4], [5, 6]]),
    }
    taken = take_pairs(features, torch.tensor([2, 1]))
    assert taken["price"].tolist() == [7.0, 6.0]
    assert taken["words"].tolist() == [[4, 5], [2, 3]]
    assert taken["request"].tolist() == [1, 0]
    assert taken["history/item_id"].tolist() == [[1, 2], [5, 6]]
    assert take_pairs({"price": features["price"]}, torch.tensor([3]))["price"].tolist() == [8.0]


@given(sizes=SIZES, batch_groups=st.integers(1, 5), world_size=st.integers(1, 3))
def test_every_pair_comes_once_an_epoch_with_its_whole_group(sizes, batch_groups, world_size):
    if len(sizes) < world_size:
        with pytest.raises(DataError, match=f"{len(sizes)} groups"):
            make(sizes, batch_groups=batch_groups, world_size=world_size)
        return
    rows, groups, lengths = [], [], set()
    for rank in range(world_size):
        batches, group = make(sizes, batch_groups=batch_groups, world_size=world_size, rank=rank)
        found = list(batches)
        assert len(found) == len(batches)
        lengths.add(len(found))
        for batch in found:
            row = batch.encoded["row"]
            assert batch.encoded["twice"].tolist() == [[r, r] for r in row.tolist()]
            assert batch.labels.tolist() == [[r, -r] for r in row.tolist()]
            assert batch.weights.tolist() == [r / 2 for r in row.tolist()]
            assert batch.group.unique().tolist() == list(range(batch.n_groups))
            assert len(set(zip(batch.group.tolist(), group[row].tolist(), strict=True))) == batch.n_groups
            assert 1 <= batch.n_groups <= 2 * batch_groups
            assert batch.encoded["request"].equal(batch.group)
            history = batch.encoded["history/item_id"]
            assert history.shape == (batch.n_groups, 3)
            assert (history[batch.group, 0] // 10).equal(group[row])
            rows += row.tolist()
            groups += group[row].unique().tolist()
    assert sorted(rows) == list(range(sum(sizes)))
    assert sorted(groups) == list(range(len(sizes)))  # so that none is in two batches
    assert len(lengths) == 1


def test_few_groups_make_more_batches():
    sizes = [1] * 40
    assert [len(make(sizes, batch_groups=32, epoch_batches=n)[0]) for n in (1, 3, 5, 100)] == [1, 3, 5, 5]
    assert len(make(sizes, batch_groups=16, epoch_batches=3, world_size=2)[0]) == 3


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(batches):
        return [batch.encoded["row"].tolist() for batch in batches]

    sizes = [2] * 30
    batches, _ = make(sizes)
    first, second = order(batches), order(batches)
    assert (batches.epoch, len(first)) == (2, 15)
    assert first != second
    batches.epoch = 1
    assert order(batches) == second
    torch.manual_seed(9)
    assert order(make(sizes)[0]) == first
    assert order(make(sizes, seed=4)[0]) != first


def test_groups_of_a_batch_are_drawn_from_everywhere():
    batches, group = make([1] * 1000, batch_groups=100)
    for batch in batches:
        assert group[batch.encoded["row"]].float().mean() == pytest.approx(500, abs=120)


def test_device(device: torch.device):
    batch = next(iter(make([2, 3, 1])[0]))
    moved = batch.to(device)
    for values in (*moved.encoded.values(), moved.labels, moved.weights, moved.group):
        assert values.device.type == device.type
    assert moved.encoded["row"].cpu().equal(batch.encoded["row"])
    assert moved.n_groups == batch.n_groups
