from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.log import DAY
from recsys.data.tables import FeatureTables, requests_as_of

START = 1_704_067_200_000_000
USERS, ITEMS = 4, 5
EVENT = st.tuples(
    st.integers(0, USERS - 1),
    st.integers(0, ITEMS - 1),
    st.integers(0, 12).map(lambda t: START + t * DAY // 2),
    st.one_of(st.none(), st.integers(0, 2)),
    st.booleans(),
)
ROWS = st.lists(EVENT, max_size=30)
CUT = st.integers(-1, 14).map(lambda t: START + t * DAY // 2)


def tables_of(n_events):
    return FeatureTables(
        item={
            "item_id": torch.tensor([2, 3, 1, 4, 1]),
            "tags": torch.tensor([[2, 0], [2, 3], [0, 0], [4, 1], [5, 5]]),
            "price": torch.tensor([1.0, float("nan"), 3.0, 4.0, 5.0]),
        },
        user={"user_id": torch.tensor([2, 3, 1, 4]), "income": torch.tensor([0.5, float("nan"), 2.0, 3.0])},
        context={
            "store": torch.arange(n_events) + 2,
            "clock": torch.arange(3 * n_events).view(n_events, 3) + 2,
            "total": torch.arange(n_events, dtype=torch.float32),
        },
    )


def test_the_clock_counts_popularity_over_the_days_of_the_tables(log_of):
    tables = replace(tables_of(2), popularity_days=1.0).to("cpu")
    clock = tables.clock(log_of([(0, 3, START), (0, 4, START + 2 * DAY)], USERS, ITEMS))
    popularity = clock.state(torch.arange(ITEMS), START + 2 * DAY + 1)["popularity"]
    assert popularity.nonzero().flatten().tolist() == [4]


def equal(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[k].nan_to_num(-1), other[k].nan_to_num(-1)) for k in one)


@given(rows=ROWS, cut=CUT, history=st.integers(1, 6), users=st.lists(st.integers(0, USERS - 1), min_size=1, max_size=6))
def test_requests_are_those_of_an_oracle(rows, cut, history, users, log_of):
    log = log_of(rows, USERS, ITEMS)
    tables = tables_of(len(log))
    request = requests_as_of(log, tables, torch.tensor(users), cut, history)
    length = request["history/item_id"].shape[1]
    longest = 0
    for row, user in enumerate(users):
        past = [p for p in range(len(log)) if int(log.user[p]) == user and int(log.time[p]) < cut][-history:]
        longest = max(longest, len(past))
        padding = length - len(past)
        assert request["history/item_id"][row].tolist() == [0] * padding + [
            int(tables.item["item_id"][log.item[p]]) for p in past
        ]
        assert request["history/tags"][row].tolist() == [[0, 0]] * padding + [
            tables.item["tags"][log.item[p]].tolist() for p in past
        ]
        assert request["history/repeats"][row].tolist() == [0] * padding + [int(log.repeats[p]) for p in past]
        ages = [(cut - int(log.time[p])) / DAY for p in past]
        assert request["history/age"][row].tolist() == pytest.approx([0.0] * padding + ages)
        prices = [float(tables.item["price"][log.item[p]]) for p in past]
        assert request["history/price"][row].tolist() == pytest.approx([float("nan")] * padding + prices, nan_ok=True)
    assert length == max(longest, 1)
    assert request["user_id"].tolist() == tables.user["user_id"][users].tolist()
    assert request["store"].tolist() == [0] * len(users)
    assert request["clock"].tolist() == [[0, 0, 0]] * len(users)
    assert request["total"].isnan().all()
    floats = {"income", "total", "history/price", "history/age"}
    assert {k for k, v in request.items() if v.dtype == torch.float32} == floats


@given(past=ROWS, one=ROWS, other=ROWS, cut=CUT, history=st.integers(1, 6))
def test_requests_do_not_read_the_future(past, one, other, cut, history, log_of):
    past = [r for r in past if r[2] < cut]
    requests = []
    for future in ([], one, other):
        rows = past + [(u, i, max(t, cut), None if b is None else b + 10, r) for u, i, t, b, r in future]
        log = log_of(rows, USERS, ITEMS)
        requests.append(requests_as_of(log, tables_of(len(log)), torch.arange(USERS), cut, history))
    assert equal(requests[0], requests[1])
    assert equal(requests[1], requests[2])


def test_nobody_asks(log_of):
    log = log_of([(0, 0, START)], USERS, ITEMS)
    request = requests_as_of(log, tables_of(1), torch.tensor([], dtype=torch.int64), START, 5)
    assert request["history/item_id"].shape == (0, 1)
    assert request["user_id"].shape == (0,)


def test_lookups(log_of):
    tables = tables_of(3)
    assert tables.items(torch.tensor([3, 0]))["tags"].tolist() == [[4, 1], [2, 0]]
    moments = tables.moments(torch.tensor([3, 1]), torch.tensor([2, 0]))
    assert list(moments) == ["user_id", "income", "store", "clock", "total"]
    assert moments["user_id"].tolist() == [4, 3]
    assert moments["store"].tolist() == [4, 2]
    assert moments["clock"].tolist() == [[8, 9, 10], [2, 3, 4]]


def test_device(log_of, device: torch.device):
    log = log_of([(0, 0, START), (0, 1, START + 1), (1, 1, START)], USERS, ITEMS)
    here = requests_as_of(log, tables_of(3), torch.arange(USERS), START + DAY, 5)
    there = requests_as_of(log.to(device), tables_of(3).to(device), torch.arange(USERS, device=device), START + DAY, 5)
    assert {v.device.type for v in there.values()} == {device.type}
    assert equal(here, {k: v.cpu() for k, v in there.items()})
    nobody = log_of([], USERS, ITEMS).to(device)
    empty = requests_as_of(nobody, tables_of(0).to(device), torch.arange(USERS, device=device), START, 5)
    assert {v.device.type for v in empty.values()} == {device.type}
