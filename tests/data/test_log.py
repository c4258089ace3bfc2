import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.log import DAY, InteractionLog, first_after

HOUR = DAY // 24
YEAR_2024 = 1_704_067_200_000_000
USERS, ITEMS = 4, 5
BASKET = st.one_of(st.none(), st.integers(0, 2))
ROWS = st.lists(
    st.tuples(
        st.integers(0, USERS - 1),
        st.integers(0, ITEMS - 1),
        st.integers(0, 12).map(lambda t: YEAR_2024 + t * HOUR),
        BASKET,
        st.booleans(),
    ),
    max_size=40,
)


def rows_of(log):
    return list(
        zip(
            log.user.tolist(),
            log.item.tolist(),
            log.time.tolist(),
            log.basket.tolist(),
            log.relevant.tolist(),
            strict=True,
        )
    )


def test_offsets_by_hand(log_of):
    log = log_of([(2, 0, 5), (0, 1, 9), (2, 1, 3), (0, 0, 9)], n_users=4, n_items=2)
    assert log.user.tolist() == [0, 0, 2, 2]
    assert log.time.tolist() == [9, 9, 3, 5]
    assert log.item.tolist() == [0, 1, 1, 0]
    assert log.offsets.tolist() == [0, 2, 2, 4, 4]
    assert len(log) == 4


@given(rows=ROWS, start=st.integers(-1, 13), end=st.integers(-1, 13))
def test_between_conserves_events(rows, start, end, log_of):
    log = log_of(rows, USERS, ITEMS)
    a, b = (YEAR_2024 + t * HOUR for t in (min(start, end), max(start, end)))
    parts = [log.between(None, a), log.between(a, b), log.between(b, None)]
    assert sorted(r for part in parts for r in rows_of(part)) == sorted(rows_of(log))
    assert all(t < a for t in parts[0].time.tolist())
    assert all(a <= t < b for t in parts[1].time.tolist())
    assert all(t >= b for t in parts[2].time.tolist())
    for part in parts:
        keys = list(zip(part.user.tolist(), part.time.tolist(), part.item.tolist(), strict=True))
        assert keys == sorted(keys)
        assert (part.n_users, part.n_items) == (USERS, ITEMS)
    assert rows_of(log.between(None, None)) == rows_of(log)


@given(rows=ROWS)
def test_only_relevant(rows, log_of):
    log = log_of(rows, USERS, ITEMS)
    assert rows_of(log.only_relevant()) == [r for r in rows_of(log) if r[4]]


@given(rows=ROWS)
def test_repeats_count_the_earlier_events_of_user_and_item(rows, log_of):
    log = log_of(rows, USERS, ITEMS)
    seen: dict[tuple[int, int], int] = {}
    expected = []
    for user, item, *_ in rows_of(log):
        expected.append(seen.get((user, item), 0))
        seen[user, item] = expected[-1] + 1
    assert log.repeats.tolist() == expected


@given(rows=ROWS, asked=st.lists(st.tuples(st.integers(0, USERS - 1), st.integers(-3, 16)), max_size=10))
def test_first_after_is_the_position_of_the_first_event_not_before(rows, asked, log_of):
    log = log_of(rows, USERS, ITEMS)
    users = torch.tensor([u for u, _ in asked], dtype=torch.int64)
    times = torch.tensor([YEAR_2024 + t * HOUR for _, t in asked], dtype=torch.int64)
    found = first_after(log, users, times).tolist()
    for user, time, position in zip(users.tolist(), times.tolist(), found, strict=True):
        earlier = sum(u < user or (u == user and t < time) for u, _, t, *_ in rows_of(log))
        assert position == earlier


def test_first_after_of_many_users_over_decades_and_far_cuts():
    n_users = 1_000_000  # microseconds of 50 years times users do not fit 64 bits
    users = torch.tensor([0, 0, n_users - 1, n_users - 1])
    times = torch.tensor([0, 50 * 365 * DAY, 3, 50 * 365 * DAY + 1])
    log = InteractionLog(
        users, torch.zeros(4, dtype=torch.int64), times, torch.arange(4), torch.ones(4, dtype=torch.bool), n_users, 1
    )
    ask = torch.tensor([0, 0, n_users - 1, n_users - 1, n_users - 1])
    when = torch.tensor([1, 2**62, 4, 50 * 365 * DAY + 1, 2**62])
    assert first_after(log, ask, when).tolist() == [1, 2, 3, 3, 4]


def test_empty_log(log_of):
    log = log_of([], n_users=5000, n_items=3)
    assert log.offsets.tolist() == [0] * 5001
    assert log.repeats.tolist() == []
    assert first_after(log, torch.tensor([4999]), torch.tensor([YEAR_2024])).tolist() == [0]
    assert len(log.between(0, 1)) == 0


def test_to_moves_every_column(log_of, device: torch.device):
    log = log_of([(0, 0, 1), (1, 1, 2), (1, 1, 3)], 2, 2)
    moved = log.to(device)
    for name in ("user", "item", "time", "basket", "relevant", "offsets", "repeats"):
        assert getattr(moved, name).device.type == device.type
        assert torch.equal(getattr(moved, name).cpu(), getattr(log, name))


def test_microseconds_of_a_day():
    assert DAY == 24 * 3600 * 10**6


@pytest.mark.parametrize("n", [0, 1])
def test_length(n, log_of):
    assert len(log_of([(0, 0, 1)] * n, 1, 1)) == n
