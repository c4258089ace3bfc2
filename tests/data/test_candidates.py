"""Candidate sources against tables that can be checked by hand, and against what may not change them."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.asked import Asked, asked_as_of
from recsys.data.candidate_tables import Kind, item_kinds, item_links, popular_lists, usual_codes
from recsys.data.candidates import (
    linked,
    near_history,
    nearest,
    own_history,
    popular,
    union,
    with_pairs,
)
from recsys.data.log import DAY, InteractionLog
from recsys.data.topk import NONE

USERS, ITEMS, CUT = 4, 6, 100 * DAY
EVENT = st.tuples(
    st.integers(0, USERS - 1),
    st.integers(0, ITEMS - 1),
    st.integers(0, 99).map(lambda day: day * DAY),
    st.none() | st.integers(0, 3),
    st.booleans(),
)
ROWS = st.lists(EVENT, max_size=30)
EVERY = torch.ones(ITEMS, dtype=torch.bool)
SOME = torch.tensor([True, False, True, True, False, True])
ITEM_VECTORS = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0.5, 0.5], [-1, 0], [2, 1]])
FEATURES = {"brand": torch.tensor([2, 2, 3, 3, 4, 4])}
USER_VECTORS = torch.tensor([[1.0, 0], [0, 1], [0, 0], [-1, -1]])


def ask(log: InteractionLog, users: list[int], cut: int = CUT) -> Asked:
    rows = torch.tensor(users)
    codes = {"segment": torch.tensor([0, 0, 1, NONE])[: log.n_users]}
    return asked_as_of(log, rows, cut, USER_VECTORS[rows], codes)


def all_lists(log: InteractionLog, eligible: torch.Tensor, k: int, cut: int = CUT) -> dict[str, torch.Tensor]:
    """Every source of a log, as of a cut."""
    past = log.between(None, cut)
    asked = ask(log, list(range(USERS)), cut)
    codes = torch.tensor([0, 0, 1, NONE])
    sources = {
        "history": partial(own_history, eligible=eligible, events=torch.bincount(past.item, minlength=ITEMS)),
        "two_tower": partial(nearest, vectors=ITEM_VECTORS, eligible=eligible),
        "favoured": partial(
            nearest, vectors=ITEM_VECTORS, eligible=eligible, kinds=[*item_kinds(log, cut, FEATURES).values()]
        ),
        "popular": partial(popular, lists=popular_lists(log, cut, eligible)),
        "segment": partial(popular, lists=popular_lists(log, cut, eligible, codes=codes), group="segment"),
        "together": partial(linked, links=item_links(past.basket, past.item, ITEMS), eligible=eligible),
        "near": partial(near_history, vectors=ITEM_VECTORS, eligible=eligible),
    }
    return {name: source(asked, k) for name, source in sources.items()}


# What is asked


def test_the_past_holds_an_item_once_a_basket_and_nothing_from_the_cut_on(log_of):
    log = log_of(
        [
            (0, 2, CUT - 3 * DAY, 0),
            (0, 2, CUT - 2 * DAY, 0),  # a second line of the same basket
            (0, 2, CUT - DAY, 1),
            (0, 1, CUT, 2),
            (1, 5, CUT - DAY, 0),
        ],
        3,
        ITEMS,
    )
    asked = ask(log, [1, 2, 0, 0])  # a user may ask twice
    assert asked.query.tolist() == [0, 2, 2, 3, 3]
    assert asked.item.tolist() == [5, 2, 2, 2, 2]
    assert asked.age.tolist() == [1, 3, 1, 3, 1]
    assert asked.seen_keys.tolist() == [5, 2 * ITEMS + 2, 3 * ITEMS + 2]
    assert len(asked) == 4
    assert asked.groups["segment"].tolist() == [0, 1, 0, 0]


# Each source by hand


def test_own_history_by_decayed_frequency(log_of):
    log = log_of([(0, 4, CUT - 90 * DAY), (0, 4, CUT - 90 * DAY - 1), (0, 3, CUT - DAY), (0, 1, CUT - 30 * DAY)], 2, 6)
    asked = ask(log, [0, 1])
    # 2 / sqrt(1 + 90 / 30) = 1, 1 / sqrt(1 + 1 / 30) = 0.98, 1 / sqrt(2) = 0.71
    assert own_history(asked, 4, eligible=EVERY).tolist() == [[4, 3, 1, NONE], [NONE] * 4]
    assert own_history(asked, 2, eligible=SOME, power=0.0).tolist() == [[3, NONE], [NONE] * 2]


def test_own_history_prefers_what_everybody_takes(log_of):
    asked = ask(log_of([(0, 4, CUT - DAY), (0, 3, CUT - DAY), (0, 1, CUT - 90 * DAY)], 1, 6), [0])
    events = torch.tensor([9, 1023, 0, 0, 1, 9])
    # 1 / sqrt(31 / 30) = 0.98 for item 3, as much times 2 ** staple for 4, and 1024 ** staple / 2 for 1
    for staple, wanted in ((0.0, [3, 4, 1]), (0.05, [4, 3, 1]), (0.2, [1, 4, 3])):
        assert own_history(asked, 3, eligible=EVERY, events=events, staple=staple).tolist() == [wanted]


def test_nearest_leaves_out_what_the_user_had_unless_asked_for(log_of):
    asked = ask(log_of([(0, 5, 1)], 2, ITEMS), [0, 1])
    assert nearest(asked, 4, vectors=ITEM_VECTORS, eligible=EVERY).tolist() == [[0, 1, 3, 2], [2, 5, 3, 0]]
    assert nearest(asked, 3, vectors=ITEM_VECTORS, eligible=SOME, seen=True).tolist() == [[5, 0, 3], [2, 5, 3]]
    assert nearest(asked, 8, vectors=ITEM_VECTORS, eligible=SOME)[0].tolist() == [0, 3, 2, *[NONE] * 5]


def test_nearest_favours_the_kinds_that_the_user_takes(log_of):
    kind = Kind(torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0.25, 0.25, 0.5]))
    asked = ask(log_of([(1, 0, 1), (1, 0, 2)], 2, ITEMS), [0, 1])
    # User 1, whose vector is (0, 1): code 0 gets log 2 (both of two events, doubt 2), the others log 1 / 2.
    scores = {1: 0.693, 2: 1 - 0.693, 3: 0.5 - 0.693, 4: -0.693, 5: 1 - 0.693}
    plain = nearest(asked, 5, vectors=ITEM_VECTORS, eligible=EVERY)
    found = nearest(asked, 5, vectors=ITEM_VECTORS, eligible=EVERY, kinds=[kind], weight=1.0, doubt=2.0)
    assert found[0].tolist() == plain[0].tolist()  # nothing is known of user 0
    assert plain[1].tolist() == [2, 5, 3, 1, 4]
    assert found[1].tolist() == sorted(scores, key=lambda i: (-scores[i], i))
    twice = nearest(asked, 5, vectors=ITEM_VECTORS, eligible=EVERY, kinds=[kind, kind], weight=1.0, doubt=2.0)
    assert torch.equal(found, twice)  # a mean over the attributes


def test_kinds_are_the_attributes_with_a_choice(log_of):
    log = log_of([(0, 0, 1), (0, 1, 2), (0, 1, 3), (0, 2, CUT)], 1, 3)
    features = {
        "item_id": torch.tensor([2, 3, 4]),
        "brand": torch.tensor([2, 3, 4]),
        "store": torch.tensor([2, 2, 3]),  # before the cut there was one only
        "price": torch.tensor([1.0, 2.0, 3.0]),
        "tags": torch.tensor([[2], [3], [4]]),
    }
    (kind,) = item_kinds(log, CUT, features).values()
    assert kind.code.tolist() == [2, 3, 4]
    assert kind.share.tolist() == pytest.approx([0, 0, 1 / 3, 2 / 3, 0])
    assert item_kinds(log, 0, features) == {}


def test_chunks_do_not_matter(log_of, monkeypatch):
    log = log_of([(0, 5, 1), (1, 2, 1), (3, 0, 1)], USERS, ITEMS)
    whole = all_lists(log, EVERY, 4)
    monkeypatch.setattr("recsys.data.candidates.CELLS", 1)
    monkeypatch.setattr("recsys.data.candidate_tables.ROWS", 2)
    parts = all_lists(log, EVERY, 4)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_near_history_by_cosine(log_of):
    asked = ask(log_of([(0, 0, CUT - DAY)], 2, ITEMS), [0, 1])
    answer = near_history(asked, 3, vectors=ITEM_VECTORS, eligible=EVERY)
    assert answer.tolist() == [[1, 5, 3], [NONE] * 3]  # cosines 1, 2 / sqrt 5, 1 / sqrt 2


def test_popular_counts_users_of_the_last_days_then_of_ever(log_of):
    rows = [
        (0, 3, CUT - DAY),
        (0, 3, CUT - 2 * DAY),  # the same user counts once
        (1, 2, CUT - DAY),
        (2, 2, CUT - DAY),
        (0, 5, CUT - 28 * DAY),  # the first moment that counts
        (0, 0, CUT - 28 * DAY - 1),
        (1, 0, CUT - 50 * DAY),
        (0, 1, CUT - 50 * DAY),
        (1, 4, CUT - DAY, None, False),
    ]
    log = log_of(rows, 4, ITEMS)
    lists = popular_lists(log, CUT, EVERY, depth=6)
    assert lists.tolist() == [[2, 3, 5, 0, 1, NONE]]
    assert popular_lists(log, CUT, SOME, depth=2).tolist() == [[2, 3]]
    asked = ask(log, [0, 3])
    assert popular(asked, 3, lists=lists).tolist() == [[2, NONE, NONE], [2, 3, 5]]


def test_popular_in_a_group(log_of):
    rows = [(0, 0, CUT - DAY), (1, 1, CUT - DAY), (2, 1, CUT - DAY), (3, 2, CUT - DAY)]
    log = log_of(rows, 5, ITEMS)
    codes = torch.tensor([0, 1, 1, NONE, 0])
    lists = popular_lists(log, CUT, EVERY, depth=3, codes=codes, smoothing=1.0)
    assert lists.tolist() == [[0, 1, 2], [1, 0, 2], [1, 0, 2]]
    # One of its own weighs less than what all users say, when these are given the weight of 20.
    assert popular_lists(log, CUT, EVERY, depth=3, codes=codes, smoothing=20.0)[0].tolist() == [1, 0, 2]
    asked = asked_as_of(log, torch.tensor([4, 4, 4]), 0, groups={"segment": torch.tensor([NONE, 7, 0, 1, 0])})
    object.__setattr__(asked, "groups", {"segment": torch.tensor([0, NONE, 7])})  # none, and one of no list: overall
    assert popular(asked, 2, lists=lists, group="segment").tolist() == [[0, 1], [1, 0], [1, 0]]


def table_of(links):
    """Return links as a dense table."""
    table = torch.zeros(len(links.offsets) - 1, len(links.offsets) - 1)
    of_item, place = links.of(torch.arange(len(table)))
    table[of_item, links.item[place]] = links.weight[place]
    return table


def test_links_are_cosines_between_the_baskets_of_items():
    basket, item = torch.tensor([0, 0, 0, 1, 1, 2, 3]), torch.tensor([0, 1, 1, 0, 1, 0, 2])
    links = item_links(basket, item, 3)
    torch.testing.assert_close(table_of(links), torch.tensor([[0, 2 / 6**0.5, 0], [2 / 6**0.5, 0, 0], [0, 0, 0]]))
    assert table_of(item_links(basket, item, 3, power=0.0))[0, 1] == 2
    assert len(item_links(basket, item, 3, largest=1).item) == 0


def test_links_keep_the_heaviest():
    basket, item = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1, 2, 0, 2])
    links = item_links(basket, item, 3, keep=1, power=0.0)
    assert table_of(links).tolist() == [[0, 0, 2], [1, 0, 0], [2, 0, 0]]  # item 1: two of weight 1, the lower row


def test_linked_sums_over_the_recent_items(log_of):
    log = log_of([(0, 0, CUT - 7 * DAY), (0, 1, CUT)], 2, ITEMS)
    links = item_links(torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 3, 0, 3, 0, 5]), ITEMS)
    asked = ask(log, [0, 1])
    assert linked(asked, 3, links=links, eligible=EVERY).tolist() == [[3, 5, NONE], [NONE] * 3]


def test_the_usual_code_is_of_the_events_that_have_one(log_of):
    log = log_of([(0, 0, 1), (0, 1, 2), (0, 2, 3), (1, 0, 1), (2, 0, 1), (2, 1, 2), (2, 2, CUT)], 4, ITEMS)
    codes = torch.tensor([NONE, NONE, 1, NONE, 3, 2, 3])  # of user 2 the last comes too late; the lower of the others
    assert usual_codes(log, codes, CUT).tolist() == [1, NONE, 2, NONE]
    assert usual_codes(log, codes.fill_(NONE), CUT).tolist() == [NONE] * 4


# Union


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


# All sources


@given(rows=ROWS, k=st.integers(1, 8), eligible=st.sampled_from([EVERY, SOME]))
def test_lists_are_distinct_eligible_and_end_in_nothing(rows, k, eligible, log_of):
    log = log_of(rows, USERS, ITEMS)
    had = {(u, i) for u, i, *_ in rows}
    for name, lists in all_lists(log, eligible, k).items():
        assert lists.shape == (USERS, k)
        assert lists.dtype == torch.int64
        for user, row in enumerate(lists.tolist()):
            items = [item for item in row if item != NONE]
            assert row[: len(items)] == items
            assert len(set(items)) == len(items)
            assert eligible[items].all()
            assert all(((user, item) in had) == (name == "history") for item in items)


@given(past=ROWS, future=ROWS, other=ROWS)
def test_nothing_at_or_after_the_cut_matters(past, future, other, log_of):
    answers = []
    for later in (future, other):
        rows = past + [
            (user, item, CUT + time, basket and basket + 10, kind) for user, item, time, basket, kind in later
        ]
        answers.append(all_lists(log_of(rows, USERS, ITEMS), EVERY, 5))
    assert all(torch.equal(answers[0][name], answers[1][name]) for name in answers[0])


def test_users_without_history_get_what_is_popular(log_of):
    log = log_of([(0, 3, CUT - DAY), (0, 4, CUT - DAY), (1, 4, CUT - DAY)], USERS, ITEMS)
    lists = all_lists(log, EVERY, 3)
    assert lists["popular"][2].tolist() == [4, 3, NONE]
    assert lists["segment"][2].tolist() == [4, 3, NONE]
    assert all((lists[name][2] == NONE).all() for name in ("history", "together", "near"))


def test_no_event_at_all(log_of):
    lists = all_lists(log_of([], USERS, ITEMS), EVERY, 3)
    assert all((lists[name] == NONE).all() for name in lists if name not in ("two_tower", "favoured"))
    assert len(union({"popular": lists["popular"]}, 3)) == 0


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
