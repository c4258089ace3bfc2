"""What is left of an epoch goes to however many processes go on with it, and nothing comes twice."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.batches import MomentBatches
from recsys.data.log import DAY
from recsys.data.pair_batches import PairBatches
from recsys.data.place import batch_size, batches_for, comes_out_even
from recsys.errors import DataError

LIVES = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6)), min_size=1, max_size=4)
"""Of a run: how many processes it had, and after how many steps it was stopped."""


@pytest.mark.parametrize(
    ("samples", "size", "least", "processes", "expected"),
    [
        (100_000, 512, 100, 1, 512),  # 195 batches as they are
        (51_200, 512, 100, 1, 512),
        (51_199, 512, 100, 1, 511),
        (20_000, 512, 100, 1, 200),
        (40_000, 512, 100, 2, 200),
        (1_000, 512, 100, 1, 128),  # a quarter
        (20_000, 512, 1, 1, 512),
        (50, 3, 100, 1, 1),
    ],
)
def test_few_samples_make_small_batches(samples, size, least, processes, expected):
    found = batch_size(samples, size, least, processes)
    assert found == expected
    assert batches_for(samples, found, processes) // processes >= least or found in (size, -(-size // 4))


@pytest.fixture(scope="module")
def moments(log_of):
    """Batches of 150 moments of 15 users, for a process of several."""
    log = log_of([(u, (u + k) % 9, (u * 3 + k * 40) * DAY // 4) for u in range(15) for k in range(10)], 15, 9)

    def make(rank=0, world_size=1, batch_moments=16):
        return MomentBatches(
            log,
            history=4,
            batch_moments=batch_moments,
            negatives=2,
            moments_per_block=8,
            seed=3,
            rank=rank,
            world_size=world_size,
        )

    return make


@pytest.fixture(scope="module")
def pairs():
    """Batches of 47 groups of 1 to 3 pairs, for a process of several."""
    group = torch.repeat_interleave(torch.arange(47), torch.arange(47) % 3 + 1)

    def make(rank=0, world_size=1, batch_groups=5):
        columns = {"row": torch.arange(len(group))}, torch.zeros(len(group), 1), torch.ones(len(group))
        return PairBatches(*columns, group, batch_groups=batch_groups, seed=3, rank=rank, world_size=world_size)

    return make


@pytest.fixture(params=["moments", "pairs"])
def make(request):
    return request.getfixturevalue(request.param)


def live(make, state, processes, steps, **settings):
    """Take some steps from a state, on all processes; returns the samples, how many steps there were, the new state."""
    samples, states, left = [], [], set()
    for rank in range(processes):
        batches = make(rank, processes, **settings)
        if state is not None:
            batches.load_state_dict(json.loads(json.dumps(state)))  # plain types
            left.add(batches.steps_left())
        taken = []
        if state is None or steps:
            for batch in batches:
                assert len(batch.samples) > 0
                taken.append(batch.samples.tolist())
                if len(taken) == steps:
                    break
        samples += [sample for batch in taken for sample in batch]
        states.append((batches.state_dict(), len(taken)))
    assert all(found == states[0] for found in states)  # no process takes a step alone
    assert len(left) <= 1
    return samples, states[0][1], states[0][0]


@settings(max_examples=60)
@given(lives=LIVES, size=st.integers(5, 20))
@pytest.mark.parametrize("kind", ["moments", "pairs"])
def test_every_sample_once_through_all_lives(kind, lives, size, moments, pairs):
    make, sized = (moments, {"batch_moments": size}) if kind == "moments" else (pairs, {"batch_groups": size})
    whole = sorted(live(make, None, 1, -1, **sized)[0])
    state, seen = None, []
    for processes, steps in [*lives, (1, -1)]:
        try:
            samples, _, state = live(make, state, processes, max(steps, 1) if state is None else steps, **sized)
        except DataError:  # fewer samples are left than there are processes; the next life has others
            continue
        seen += samples
    assert sorted(seen) == whole


def test_the_same_number_of_processes_takes_the_same_batches(make):
    for processes in (1, 2, 3):
        whole, steps, _ = live(make, None, processes, -1)
        first, _, state = live(make, None, processes, 2)
        rest, more, _ = live(make, state, processes, -1)
        assert more == steps - 2
        assert sorted(first + rest) == sorted(whole)
    batches = make()
    order = [batch.samples.tolist() for batch in batches]
    cut_short = make()
    for _, _ in zip(range(3), cut_short, strict=False):
        pass
    again = make()
    again.load_state_dict(cut_short.state_dict())
    assert [batch.samples.tolist() for batch in again] == order[3:]
    assert [batch.samples.tolist() for batch in again] == [batch.samples.tolist() for batch in batches]  # next epoch


def test_batches_that_come_out_even_stay_as_they_were(make):
    whole = make()
    order = [batch.samples.tolist() for batch in whole]
    _, _, state = live(make, None, 1, len(order) % 2 + 2)
    ranks = []
    for rank in range(2):
        batches = make(rank, 2)
        batches.load_state_dict(state)
        ranks.append([batch.samples.tolist() for batch in batches])
    assert [batch for step in zip(*ranks, strict=True) for batch in step] == order[len(order) % 2 + 2 :]


def test_a_state_of_other_data_is_refused(make):
    state = make().state_dict()
    with pytest.raises(DataError, match=r"inside an epoch of 1 samples, but here an epoch has \d+"):
        make().load_state_dict(state | {"samples": 1})


def test_fewer_samples_than_processes_are_refused(make):
    steps = len(make(batch_moments=1) if "moments" in str(make) else make(batch_groups=1))
    sized = {"batch_moments": 1} if "moments" in str(make) else {"batch_groups": 1}
    _, _, state = live(make, None, 1, steps - 2, **sized)
    with pytest.raises(DataError, match="2 samples are left of the epoch"):
        live(make, state, 3, -1, **sized)


def test_how_many_batches():
    assert [batches_for(100, 10, processes) for processes in (1, 2, 3, 7)] == [10, 10, 9, 7]
    assert batches_for(3, 10, 3) == 3
    assert comes_out_even([6, 2], 2)
    assert not comes_out_even([6, 2], 3)
