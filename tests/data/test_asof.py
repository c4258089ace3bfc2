import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.asof import ItemClock
from recsys.data.log import DAY, POPULARITY_DAYS, InteractionLog

START = 1_704_067_200_000_000
ITEMS = 5
EVENT = st.tuples(
    st.integers(0, 3),
    st.integers(0, ITEMS - 1),
    st.integers(0, 240).map(lambda t: START + t * (DAY // 4)),
    st.none(),
    st.booleans(),
)
CUT = st.integers(-4, 360).map(lambda t: START + t * (DAY // 4))


def naive_state(rows, item, cut, days=POPULARITY_DAYS):
    relevant = [(i, t) for _, i, t, _, is_relevant in rows if is_relevant and t < cut]
    recent = [i for i, t in relevant if t >= cut - days * DAY]
    first = min((t for i, t in relevant if i == item), default=None)
    popularity = math.log(1 + 1e4 * recent.count(item) / max(len(recent), 1))
    return popularity, math.nan if first is None else (cut - first) / DAY


@given(rows=st.lists(EVENT, max_size=40), cut=CUT, days=st.sampled_from([POPULARITY_DAYS, 7.0, 0.5]))
def test_state_is_what_counting_says(rows, cut, days, log_of):
    state = ItemClock(log_of(rows, 4, ITEMS), days).state(torch.arange(ITEMS), cut)
    for item in range(ITEMS):
        popularity, age = naive_state(rows, item, cut, days)
        assert state["popularity"][item].item() == pytest.approx(popularity, rel=1e-5)
        assert state["age"][item].item() == pytest.approx(age, rel=1e-5, nan_ok=True)
    assert {v.dtype for v in state.values()} == {torch.float32}


@given(rows=st.lists(EVENT, max_size=40), start=CUT, end=CUT)
def test_count_and_total_are_half_open(rows, start, end, log_of):
    start, end = min(start, end), max(start, end)
    clock = ItemClock(log_of(rows, 4, ITEMS))
    inside = [i for _, i, t, _, is_relevant in rows if is_relevant and start <= t < end]
    asked = torch.tensor([4, 0, 2, 2, 1, 3])
    assert clock.count(asked, start, end).tolist() == [inside.count(i) for i in asked.tolist()]
    assert clock.total(start, end) == len(inside)


@given(past=st.lists(EVENT, max_size=30), future=st.lists(EVENT, max_size=15), other=st.lists(EVENT, max_size=15))
def test_state_knows_nothing_of_the_future(past, future, other, log_of):
    cut = START + 100 * (DAY // 4)
    past = [r for r in past if r[2] < cut]
    later = [[(u, i, max(t, cut), b, r) for u, i, t, b, r in rows] for rows in (future, other)]
    states = [ItemClock(log_of(past + rows, 4, ITEMS)).state(torch.arange(ITEMS), cut) for rows in later]
    for name in states[0]:
        assert torch.equal(states[0][name].nan_to_num(-1), states[1][name].nan_to_num(-1))


def test_by_hand(log_of):
    rows = [
        (0, 0, START),  # 30 days before the cut: too old to count, but the item's birth
        (0, 0, START + 10 * DAY),
        (1, 1, START + 2 * DAY),  # exactly 28 days before: counts
        (1, 1, START + 29 * DAY),
        (1, 1, START + 30 * DAY),  # at the cut: does not
        (1, 2, START + 30 * DAY),
    ]
    state = ItemClock(log_of(rows, 2, 4)).state(torch.tensor([0, 1, 2, 3]), START + 30 * DAY)
    third = 1e4 / 3
    assert torch.allclose(state["popularity"], torch.tensor([third, 2 * third, 0.0, 0.0]).log1p())
    assert state["age"].tolist() == pytest.approx([30.0, 28.0, math.nan, math.nan], nan_ok=True)


def test_no_event_at_all(log_of):
    state = ItemClock(log_of([(0, 0, START, None, False)], 1, 3)).state(torch.arange(3), START + DAY)
    assert state["popularity"].tolist() == [0.0, 0.0, 0.0]
    assert state["age"].isnan().all()


def test_large_catalogue_over_decades():
    n_items = 1_000_000  # microseconds of 50 years times items do not fit 64 bits
    items = torch.tensor([n_items - 1, 0, n_items - 1])
    times = torch.tensor([0, 1, 50 * 365 * DAY])
    zeros = torch.zeros(3, dtype=torch.int64)
    log = InteractionLog(zeros, items, times, torch.arange(3), torch.ones(3, dtype=torch.bool), 1, n_items)
    clock = ItemClock(log)
    assert clock.count(torch.tensor([0, 7, n_items - 1]), 0, 2**62).tolist() == [1, 0, 2]
    assert clock.state(torch.tensor([n_items - 1]), 50 * 365 * DAY)["age"].tolist() == [50 * 365]
