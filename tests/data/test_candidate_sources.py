"""Candidate sources against tables that can be checked by hand, and against what may not change them."""

import random
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from recsys.data import candidate_tables
from recsys.data.asked import Asked, asked_as_of
from recsys.data.candidate_sources import linked, near_history, nearest, own_history, popular, summed
from recsys.data.candidate_tables import Kind, item_kinds, item_links, popular_lists, recent_days, usual_codes
from recsys.data.candidates import union
from recsys.data.log import DAY, InteractionLog
from recsys.data.topk import NONE, top_rows

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
        "near": partial(near_history, directions=normalize(ITEM_VECTORS, dim=1), eligible=eligible),
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
    monkeypatch.setattr("recsys.data.candidate_sources.CELLS", 1)
    monkeypatch.setattr("recsys.data.candidate_tables.ROWS", 2)
    parts = all_lists(log, EVERY, 4)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@given(rows=ROWS, k=st.integers(1, 8), eligible=st.sampled_from([EVERY, SOME]))
def test_the_best_of_few_are_the_best_of_all(rows, k, eligible, log_of):
    """What is named is looked at alone; a table of all users and items must say the same."""
    log = log_of(rows, USERS, ITEMS)
    asked = ask(log, list(range(USERS)))
    past = log.between(None, CUT)
    links = item_links(past.basket, past.item, ITEMS)
    everybody = torch.arange(USERS)
    own = summed(asked, asked.decay(30.0, 0.5), everybody)
    near = summed(asked, asked.decay(7.0, 1.0), everybody, links)
    near.view(-1)[asked.seen_keys] = 0.0
    answers = own_history(asked, k, eligible=eligible), linked(asked, k, links=links, eligible=eligible)
    for scores, answer in zip((own, near), answers, strict=True):
        assert torch.equal(answer, top_rows(scores.masked_fill(~eligible | (scores <= 0), -torch.inf), k))


def test_near_history_by_cosine(log_of):
    asked = ask(log_of([(0, 0, CUT - DAY)], 2, ITEMS), [0, 1])
    answer = near_history(asked, 3, directions=normalize(ITEM_VECTORS, dim=1), eligible=EVERY)
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


def one_day_items() -> list[tuple[int, int, int]]:
    """Ten new items a day, each taken by four users on that day and by two on the next; never again."""
    rows = []
    for day in range(100):
        for item in range(10 * day, 10 * day + 10):
            rows += [(user, item, day * DAY + user) for user in range(4)]
            rows += [(user, item, (day + 1) * DAY + user) for user in range(4, 6)]
    return [row for row in rows if row[2] < CUT]


def staples() -> list[tuple[int, int, int]]:
    """Always the same items, which everybody has tried in a few days."""
    draw = random.Random(0)
    return [(n // 10, min(int(draw.expovariate(0.02)), 299), CUT - DAY - n * DAY // 50) for n in range(4000)]


@pytest.mark.parametrize(("rows", "days"), [(one_day_items(), {1.0, 3.0, 7.0}), ([], {28.0})])
def test_popularity_counts_over_the_days_that_tell_what_comes_next(log_of, rows, days):
    log = log_of(rows, 4000, 1000)
    assert recent_days(log, CUT) in days
    later = log_of([*rows, *((0, item, CUT + item) for item in range(1000))], 4000, 1000)
    assert recent_days(later, CUT) == recent_days(log, CUT)


def test_of_a_large_log_some_users_choose_the_span(log_of, monkeypatch):
    log = log_of(one_day_items(), 6, 1000)
    assert recent_days(log, CUT) < 28.0
    monkeypatch.setattr(candidate_tables, "ASKED_EVENTS", len(log) // 3)  # of six users every fourth: 0 and 4
    some = log_of([row for row in one_day_items() if row[0] in (0, 4)], 6, 1000)
    asked: list[int] = []
    monkeypatch.setattr(candidate_tables, "top_rows", lambda s, k: asked.append(int((s > 0).sum())) or top_rows(s, k))
    assert recent_days(log, CUT) == recent_days(some, CUT) < 28.0
    assert asked[: len(asked) // 2] == asked[len(asked) // 2 :]


def test_popularity_counts_over_28_days_unless_others_tell_a_tenth_more(log_of):
    log = log_of(staples(), 400, 300)
    assert recent_days(log, CUT) == 28.0


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
