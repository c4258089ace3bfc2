"""Next-basket baselines against the papers' formulas, written out basket by basket and user by user."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from recsys.data.log import DAY, InteractionLog
from recsys.evaluation import next_basket
from recsys.evaluation.next_basket import TIFUKNN, UPCF, basket_places, strongest
from recsys.evaluation.recommender import Past

USERS, ITEMS = 12, 9
MakeLog = Callable[..., InteractionLog]
Baskets = dict[int, list[set[int]]]


def world(seed: int) -> tuple[list[tuple[int, ...]], Baskets]:
    """Rows with repeated lines and irrelevant events, user 0 without history; and the relevant baskets of each user."""
    rng = np.random.default_rng(seed)
    rows = [
        (user, int(item), int(day), int(rng.random() < 0.8))
        for user in range(1, USERS)
        for day in rng.integers(0, 90, size=rng.integers(1, 15))
        for item in rng.integers(0, ITEMS, size=rng.integers(1, 4))
    ]
    rows += rows[::5]
    by_day: dict[int, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for user, item, day, relevant in rows:
        if relevant:
            by_day[user][day].add(item)
    return rows, {user: [days[day] for day in sorted(days)] for user, days in by_day.items()}


def past_of(log: InteractionLog) -> Past:
    return Past(log, 100 * DAY, {}, torch.ones(log.n_items, dtype=torch.bool))


def has(basket: set[int]) -> np.ndarray:
    return np.array([float(item in basket) for item in range(ITEMS)])


def lowest(values: dict[int, float], k: int) -> list[int] | None:
    """The keys of the k lowest values; None where two tie across the edge, which rounding may decide either way."""
    order = sorted(values, key=lambda v: values[v])
    if len(order) > k and values[order[k]] - values[order[k - 1]] < 1e-6:
        return None
    return order[:k]


def tifu_oracle(baskets: Baskets, model: TIFUKNN) -> np.ndarray:
    vectors = np.zeros((USERS, ITEMS))
    for user, own in baskets.items():
        n_groups = min(model.groups, len(own))
        groups = [[] for _ in range(n_groups)]
        for place, basket in enumerate(own):
            groups[place * n_groups // len(own)].append(has(basket))
        for age, group in enumerate(reversed(groups)):
            faded = sum(model.within_decay**j * basket for j, basket in enumerate(reversed(group))) / len(group)
            vectors[user] += model.group_decay**age * faded / n_groups
    out = np.zeros_like(vectors)
    for user in range(USERS):
        others = [v for v in range(USERS) if v != user and vectors[user] @ vectors[v] > 0]
        distance = {v: ((vectors[user] - vectors[v]) ** 2).sum() for v in others}
        near = lowest(distance, model.neighbours)
        mean = np.nan if near is None else sum(vectors[v] for v in near) / max(len(near), 1)
        out[user] = model.alpha * vectors[user] + (1 - model.alpha) * mean
    return out


def up_cf_oracle(baskets: Baskets, model: UPCF) -> np.ndarray:
    shares = np.zeros((USERS, ITEMS))
    for user, own in baskets.items():
        last = own[-model.recency :]
        shares[user] = sum(map(has, last)) / len(last)
    out = np.zeros_like(shares)
    for user in baskets:
        alike = {
            v: shares[user] @ shares[v] / ((shares[user] @ shares[user]) ** model.asymmetry
                                          * (shares[v] @ shares[v]) ** (1 - model.asymmetry))
            for v in baskets
        }  # fmt: skip
        near = lowest({v: -value for v, value in alike.items()}, model.neighbours)
        out[user] = np.nan if near is None else sum(alike[v] ** model.locality * shares[v] for v in near)
    return out


def agrees(model: Any, oracle: Callable[[Baskets, Any], np.ndarray], make_log: MakeLog, seed: int) -> None:
    """Fit on a random world and compare the scores of all users of whom the oracle is sure."""
    rows, baskets = world(seed)
    model.fit(past_of(make_log(rows, USERS, ITEMS)))
    wanted = oracle(baskets, model)
    sure = ~np.isnan(wanted).any(1)
    assert sure.sum() > USERS / 2
    scores, wanted = model.scores(torch.arange(USERS)).numpy()[sure], wanted[sure]
    assert scores[wanted > 0] == pytest.approx(wanted[wanted > 0], rel=1e-5)
    assert (scores[wanted == 0] < 0).all()


@pytest.fixture(autouse=True, params=[1, 2**23])
def cells(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One user at a time, and all at once: the answers are the same."""
    monkeypatch.setattr(next_basket, "CELLS", request.param)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("model", [TIFUKNN(groups=3, neighbours=4), TIFUKNN(groups=20, neighbours=100, alpha=0.2)])
def test_tifu_knn_agrees_with_the_oracle(make_log: MakeLog, model: TIFUKNN, seed: int) -> None:
    agrees(model, tifu_oracle, make_log, seed)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "model",
    [UPCF(recency=3, asymmetry=0.25, neighbours=4), UPCF(recency=99, asymmetry=0.9, locality=1, neighbours=100)],
)
def test_up_cf_agrees_with_the_oracle(make_log: MakeLog, model: UPCF, seed: int) -> None:
    agrees(model, up_cf_oracle, make_log, seed)


def test_tifu_knn_by_hand(make_log: MakeLog) -> None:
    # two groups: the first two baskets (item 0 in both), then the last two (item 1 in the older, item 2 in the younger)
    rows = [(0, 0, 1), (0, 0, 2), (0, 1, 3), (0, 2, 4), (0, 2, 4)]
    model = TIFUKNN(groups=2, within_decay=0.5, group_decay=0.1, alpha=1.0)
    model.fit(past_of(make_log(rows, 2, 4)))
    younger, older = 1 / 2, 0.1 / 2  # of two groups
    wanted = [older * (0.5 + 1) / 2, younger * 0.5 / 2, younger * 1 / 2]
    assert model.scores(torch.tensor([0]))[0, :3].tolist() == pytest.approx(wanted)


def test_users_alike_bring_what_the_user_never_took(make_log: MakeLog) -> None:
    # 0 and 1 share item 0; 2 and 3 share item 5, which everybody else lacks
    rows = [(0, 0, 1), (1, 0, 1), (1, 1, 2), (2, 5, 1), (2, 6, 2), (3, 5, 1), (3, 6, 1)]
    for model in (TIFUKNN(), UPCF()):
        model.fit(past_of(make_log(rows, 5, 8)))
        scores = model.scores(torch.tensor([0, 3]))
        assert scores[0, 1] > 0 > scores[0, 6]
        assert scores[1, 6] > 0 > scores[1, 1]


def test_baskets_stand_in_the_order_of_their_first_event(make_log: MakeLog) -> None:
    log = make_log([(0, 3, 5), (0, 1, 7), (0, 2, 7), (0, 1, 9), (2, 1, 3), (2, 0, 4)], 3, 4)
    place, count = basket_places(log)
    assert place.tolist() == [0, 1, 1, 2, 0, 1]
    assert count.tolist() == [3, 3, 3, 3, 2, 2]
    swapped = InteractionLog(log.user, log.item, log.time, torch.tensor([9, 4, 4, 1, 0, 3]), log.relevant, 3, 4)
    assert basket_places(swapped)[0].tolist() == place.tolist()


def test_strongest_keeps_k_of_each_row() -> None:
    row = np.array([1, 0, 1, 1, 0, 3])
    value = np.array([0.1, 5.0, 0.3, 0.3, 7.0, -2.0])
    assert strongest(row, value, 2).tolist() == [4, 1, 2, 3, 5]
    assert strongest(row, value, 1).tolist() == [4, 2, 5]
