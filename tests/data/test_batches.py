from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.batches import PERIOD_DAYS, MomentBatches
from recsys.data.log import DAY
from recsys.data.moments import moments_of, moments_since
from recsys.errors import DataError

HOUR = DAY // 24
START = 1_704_067_200_000_000
USERS, ITEMS = 4, 6
EVENT = st.tuples(
    st.integers(0, USERS - 1),
    st.integers(0, ITEMS - 1),
    st.integers(0, 15).map(lambda t: START + t * 70 * HOUR),
    st.one_of(st.none(), st.integers(0, 3)),  # baskets of one user may interleave, or stand at one time
    st.sampled_from([True, True, False]),
)
ROWS = st.lists(EVENT, max_size=40)


def naive_moments(log):
    """First event -> (user, time, positions of the history, relevant items), by reading the log one by one."""
    baskets: dict[int, list[int]] = {}
    for position, basket in enumerate(log.basket.tolist()):
        baskets.setdefault(basket, []).append(position)
    user, item, time, relevant = log.user.tolist(), log.item.tolist(), log.time.tolist(), log.relevant.tolist()
    moments = {}
    for positions in baskets.values():
        positives = {item[p] for p in positions if relevant[p]}
        if positives:
            first = min(positions)
            before = [p for p in range(len(log)) if user[p] == user[first] and time[p] < time[first]]
            moments[first] = (user[first], time[first], before, positives)
    return moments


def decode(batch):
    """Yield (first event, user, history as (item, repeats, age), positives) of each moment of a batch."""
    slots = batch.visible.shape[1]
    candidate = batch.items[batch.candidates]
    for row in range(len(batch.user)):
        block, slot = divmod(int(batch.slot[row]), slots)
        visible = batch.visible[block, slot]
        items = batch.items[batch.window[block]][visible].tolist()
        history = list(
            zip(items, batch.repeats[block][visible].tolist(), batch.age[block, slot][visible].tolist(), strict=True)
        )
        mine = batch.positive_query == row
        yield int(batch.event[row]), int(batch.user[row]), history, candidate[batch.positive_candidate[mine]].tolist()


def same(one, other):
    """Whether two batches are alike, field by field; a field that both lack is."""
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(one)]
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs)


@given(rows=ROWS)
def test_moments_are_those_of_an_oracle(rows, log_of):
    log = log_of(rows, USERS, ITEMS)
    moments, oracle = moments_of(log), naive_moments(log)
    assert moments.event.tolist() == sorted(oracle)
    for m, event in enumerate(moments.event.tolist()):
        user, time, before, positives = oracle[event]
        assert (int(moments.user[m]), int(moments.time[m])) == (user, time)
        begin, end = int(log.offsets[user]), int(moments.history_end[m])
        assert list(range(begin, end)) == before
        mine = slice(int(moments.offsets[m]), int(moments.offsets[m + 1]))
        items = moments.items[mine].tolist()
        assert sorted(items) == sorted(positives)
        own = set((log.basket == log.basket[event]).nonzero().flatten().tolist())
        assert not own & set(before)


def test_interleaved_baskets_by_hand(log_of):
    # Basket 1 is open at hours 1 and 5, basket 2 at hour 3: basket 2 sees what basket 1 had at hour 1; basket 1,
    # which began before, sees neither basket 2 nor itself.
    log = log_of([(0, 9, 0, 0), (0, 1, 1, 1), (0, 2, 3, 2), (0, 3, 5, 1)], 1, 10)
    moments = moments_of(log)
    assert moments.time.tolist() == [0, 1, 3]
    assert moments.history_end.tolist() == [0, 1, 2]
    assert moments.items.tolist() == [9, 1, 3, 2]
    assert moments.offsets.tolist() == [0, 1, 3, 4]


def test_baskets_of_one_time_do_not_see_each_other(log_of):
    log = log_of([(0, 5, 1, 7), (0, 1, 4, 8), (0, 2, 4, 9), (1, 3, 4, 8)], 2, 6)
    moments = moments_of(log)
    assert moments.time.tolist() == [1, 4, 4, 4]
    assert moments.history_end.tolist() == [0, 1, 1, 3]


@given(rows=ROWS, hours=st.integers(0, 1100))
def test_moments_since_a_time_are_the_later_ones_with_all_their_history(rows, hours, log_of):
    moments = moments_of(log_of(rows, USERS, ITEMS))
    start = START + hours * HOUR
    late = moments_since(moments, start)
    kept = (moments.time >= start).nonzero().flatten().tolist()
    assert len(late) == len(kept)
    for name in ("user", "time", "event", "history_end"):
        assert torch.equal(getattr(late, name), getattr(moments, name)[kept])
    for new, old in enumerate(kept):
        mine, theirs = (m.items[int(m.offsets[n]) : int(m.offsets[n + 1])] for m, n in ((late, new), (moments, old)))
        assert torch.equal(mine, theirs)
    assert int(late.offsets[-1]) == len(late.items)


def test_events_that_do_not_count_are_history_but_no_positives(log_of):
    log = log_of([(0, 1, 1, None, False), (0, 2, 2, 5, False), (0, 3, 2, 5, True)], 1, 4)
    moments = moments_of(log)
    assert moments.items.tolist() == [3]
    assert moments.history_end.tolist() == [1]


def test_a_positive_counts_what_its_heaviest_event_of_the_moment_does(log_of):
    log = log_of([(0, 1, 1, 0), (0, 2, 4, 3), (0, 1, 4, 3), (0, 2, 4, 3, False), (0, 2, 4, 3)], 1, 4)
    weight = torch.where(log.item == 2, 2.0, 1.0)
    weight[(log.item == 2) & log.relevant] = torch.tensor([2.0, 5.0])
    weight[~log.relevant] = 9.0  # no positive
    moments = moments_of(replace(log, weight=weight))
    assert moments.items.tolist() == [1, 1, 2]
    assert moments.weight.tolist() == [1.0, 1.0, 5.0]


def test_weights_go_with_their_positives(year):
    weighted = replace(year, weight=1.0 + year.item.float())
    for batch, plain in zip(make(weighted), make(year), strict=True):
        assert plain.positive_weight is None
        positive = batch.items[batch.candidates[batch.positive_candidate]]
        assert torch.equal(batch.positive_weight, 1.0 + positive.float())


def future_of(rows, cut):
    return [(u, i, max(t, cut), None if b is None else b + 10, r) for u, i, t, b, r in rows]


@given(past=ROWS, one=ROWS, other=ROWS, cut=st.integers(1, 15).map(lambda t: START + t * 70 * HOUR))
def test_nothing_before_a_cut_depends_on_what_comes_after(past, one, other, cut, log_of):
    past = [r for r in past if r[2] < cut]
    logs = [log_of(past + future_of(rows, cut), USERS, ITEMS) for rows in (one, other)]
    seen = []
    for log in logs:
        moments = moments_of(log)
        early = (moments.time < cut).nonzero().flatten().tolist()
        seen.append([(int(moments.user[m]), int(moments.time[m]), *history(log, moments, m)) for m in early])
    assert seen[0] == seen[1]

    windows = [log.between(None, cut) for log in logs]
    if len(moments_of(windows[0])):
        batches = [list(make(w, history=5, batch_moments=4, negatives=3, seed=1)) for w in windows]
        assert len(batches[0]) == len(batches[1])
        assert all(same(a, b) for a, b in zip(*batches, strict=True))


def history(log, moments, m):
    events = slice(int(log.offsets[moments.user[m]]), int(moments.history_end[m]))
    return log.item[events].tolist(), log.time[events].tolist(), log.repeats[events].tolist()


@settings(max_examples=150)
@given(
    rows=ROWS,
    history=st.integers(1, 6),
    batch_moments=st.integers(1, 12),
    moments_per_block=st.sampled_from([1, 2, 8]),
    world_size=st.integers(1, 3),
)
def test_every_moment_once_an_epoch_and_right(rows, history, batch_moments, moments_per_block, world_size, log_of):
    log = log_of(rows, USERS, ITEMS)
    oracle = naive_moments(log)

    def of_rank(rank):
        return MomentBatches(
            log,
            history=history,
            batch_moments=batch_moments,
            negatives=4,
            moments_per_block=moments_per_block,
            seed=3,
            rank=rank,
            world_size=world_size,
        )

    if len(oracle) < world_size:
        with pytest.raises(DataError, match=f"has {len(oracle)} moments"):
            of_rank(0)
        return
    ranks = [of_rank(rank) for rank in range(world_size)]
    epochs = [list(batches) for batches in ranks]
    assert {len(batches) for batches in epochs} == {len(ranks[0])}

    met = []
    for batch in (b for batches in epochs for b in batches):
        assert len(batch.user) > 0
        times = []
        for event, user, seen, positives in decode(batch):
            met.append(event)
            right_user, time, before, right_positives = oracle[event]
            times.append(time)
            assert user == right_user
            assert sorted(positives) == sorted(right_positives)
            assert [(i, r) for i, r, _ in seen] == [(int(log.item[p]), int(log.repeats[p])) for p in before[-history:]]
            ages = [(time - int(log.time[p])) / DAY for p in before[-history:]]
            assert [age for *_, age in seen] == pytest.approx(ages)
            assert all(age > 0 for *_, age in seen)
        check_candidates(batch, log, oracle, times)
    assert sorted(met) == sorted(oracle)  # no remainder: batches take what is over


def check_candidates(batch, log, oracle, times):
    positives = {i for event in batch.event.tolist() for i in oracle[event][3]}
    candidates = batch.items[batch.candidates].tolist()
    assert candidates == sorted(set(candidates))
    assert positives <= set(candidates) <= set(log.item.tolist())
    assert len(candidates) <= len(positives) + 4
    assert batch.items.tolist() == sorted(set(batch.items.tolist()))
    assert batch.positive_query.tolist() == sorted(batch.positive_query.tolist())
    assert int(batch.as_of) == min(times)


@pytest.fixture(scope="module")
def year(log_of):
    """40 users with 10 baskets of two items over a year."""
    rows = [
        (u, (3 * u + 7 * k + j) % 50, START + (k * 36 + u % 30) * DAY + u * HOUR, None)
        for u in range(40)
        for k in range(10)
        for j in range(2)
    ]
    return log_of(rows, 40, 60)


def make(log, **changes):
    settings = {"history": 8, "batch_moments": 32, "negatives": 16, "moments_per_block": 8, "seed": 5}
    return MomentBatches(log, **(settings | changes))


def test_same_seed_same_batches_whatever_else_draws(year):
    one, other = make(year), make(year)
    for _ in range(2):
        first = list(one)
        torch.rand(3)
        for a, b in zip(first, other, strict=True):
            torch.rand(1)
            assert same(a, b)


def test_order_depends_on_seed_and_epoch_alone(year):
    def epoch(seed, number):
        batches = make(year, seed=seed)
        batches.epoch = number
        return list(batches)

    walked = make(year)
    list(walked)
    assert all(same(a, b) for a, b in zip(walked, epoch(5, 1), strict=True))
    order = {
        (seed, number): [e for b in epoch(seed, number) for e in b.event.tolist()]
        for seed in (5, 6)
        for number in (0, 1)
    }
    assert len({tuple(o) for o in order.values()}) == 4
    assert len({tuple(sorted(o)) for o in order.values()}) == 1
    negatives = [set(b.items[b.candidates].tolist()) for b in epoch(5, 0)]
    assert len({frozenset(n) for n in negatives}) == len(negatives)


@pytest.mark.parametrize("seed", [0, 20_240_101, 2**32 - 1])
def test_any_seed_of_the_config_is_a_seed(year, seed):
    batches = make(year, seed=seed)
    batches.epoch = 1000
    assert sum(len(b.user) for b in batches) == 400


def test_blocks_are_cut_elsewhere_in_each_epoch(year):
    batches = make(year, moments_per_block=4)

    def blocks():
        return {
            tuple(b.event[(b.slot // b.visible.shape[1]) == g].tolist()) for b in batches for g in range(len(b.window))
        }

    first, second = blocks(), blocks()
    assert first != second
    assert max(len(block) for block in first | second) == 4
    users = year.user.tolist()
    assert all(len({users[e] for e in block}) == 1 for block in first)


def test_blocks_change_nothing_but_the_shape(year):
    histories = []
    for moments_per_block in (1, 8):
        batches = make(year, moments_per_block=moments_per_block)
        histories.append({event: (u, h, sorted(p)) for b in batches for event, u, h, p in decode(b)})
    assert histories[0] == histories[1]
    assert len(histories[0]) == 400


def test_moments_of_a_batch_are_near_each_other_in_time(year):
    for batch in make(year, moments_per_block=1, batch_moments=10):
        times = year.time[batch.event]
        assert int(times.max() - times.min()) < 2 * PERIOD_DAYS * DAY


def test_where_items_come_and_go_a_batch_has_moments_of_a_short_time(year):
    """Periods are a quarter of the days of popularity then, and no run of a user's moments is longer."""
    batches = make(year, moments_per_block=8, batch_moments=10, popularity_days=16.0)
    period = (year.time - year.time[batches.moments.event].min()) // (4 * DAY)
    spread = []
    for batch in batches:
        of = period[batch.event]
        block = batch.slot // batch.visible.shape[1]
        assert all(len(of[block == g].unique()) == 1 for g in range(len(batch.window)))
        spread.append(int(of.max() - of.min()))
    assert sum(len(b.user) for b in batches) == 400
    assert max(spread) <= 4  # 400 moments a year: ten are a few periods
    usual = [int((year.time[b.event].max() - year.time[b.event].min()) // DAY) for b in make(year, batch_moments=10)]
    assert max(usual) > 5 * 4


def test_negatives_come_from_the_window_alone(year):
    window = year.between(START, START + 10 * DAY)
    batches = make(window, negatives=500)
    assert batches.catalogue.tolist() == sorted(set(window.item.tolist()))
    assert len(batches.catalogue) < len(set(year.item.tolist()))
    drawn = {i for b in batches for i in b.items[b.candidates].tolist()}
    assert drawn == set(window.item.tolist())


def test_negatives_may_come_from_another_catalogue(year):
    catalogue = torch.tensor([3, 55, 59])  # two of them were never sold
    batches = make(year, catalogue=catalogue, negatives=20)
    for batch in batches:
        candidates = set(batch.items[batch.candidates].tolist())
        positives = set(batch.items[batch.candidates][batch.positive_candidate].tolist())
        assert candidates == positives | set(catalogue.tolist())


def test_batches_are_about_as_large_as_asked(year):
    for moments_per_block in (1, 8):
        sizes = [len(b.user) for b in make(year, moments_per_block=moments_per_block)]
        assert len(sizes) == 400 // 32
        assert max(sizes) <= 32 + 32 // len(sizes) + 8


def test_few_moments_make_more_batches(year):
    moments = len(make(year).moments)
    assert len(make(year, batch_moments=moments)) == 1
    assert len(make(year, batch_moments=moments, epoch_batches=3)) == 3
    assert len(make(year, batch_moments=moments // 2, epoch_batches=3, world_size=2)) == 3
    assert len(make(year, batch_moments=moments, epoch_batches=20)) == 4  # of a quarter of the size
    assert len(make(year, epoch_batches=2)) == len(make(year)) == moments // 32


def test_batch_moves(year, device: torch.device):
    batches = make(year.to(device))
    on_device, here = next(iter(batches)), next(iter(make(year)))
    assert on_device.items.device.type == device.type
    assert same(on_device.to("cpu"), here)


def test_share_is_how_many_blocks_of_the_period_have_the_item(year):
    batches = MomentBatches(year, history=20, batch_moments=32, negatives=4, moments_per_block=3)
    epoch, blocks = list(batches), []  # (period, positives) of every block
    begin = int(batches.moments.time.min())
    for batch in epoch:
        block = batch.slot // batch.visible.size(1)
        for g in range(len(batch.visible)):
            first = int(year.time[batch.event[block == g]].min())
            mine = batch.positive_candidate[block[batch.positive_query] == g]
            blocks.append(((first - begin) // (28 * DAY), set(batch.items[batch.candidates][mine].tolist())))
    at = 0
    for batch in epoch:
        period = blocks[at][0]
        at += len(batch.visible)
        rivals = [positives for when, positives in blocks if when == period]
        items = batch.items[batch.candidates].tolist()
        expected = [sum(item in positives for positives in rivals) / len(rivals) for item in items]
        assert batch.share.tolist() == pytest.approx(expected)
