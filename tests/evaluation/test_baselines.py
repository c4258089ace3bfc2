"""Baselines on a shop small enough to know the right answer."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.data.log import DAY, InteractionLog
from recsys.errors import ConfigError
from recsys.evaluation.baselines import BASELINES, PersonalFrequency, Popular, RecentPopular, make_baseline
from recsys.evaluation.collaborative import ALS, EASE, ItemKNN
from recsys.evaluation.content import ContentKNN
from recsys.evaluation.recommender import Past, Recommender

CUT = 100
MakeLog = Callable[..., InteractionLog]
# Users 0-2 take items 0-2, users 3-5 take items 3-5, all of them take 6; user 0 lacks 2, user 3 lacks 5.
# User 6 never took anything; item 7 was never taken and is like items 3-5.
ROWS = [
    *[(user, item, 10 * user) for user in range(3) for item in (0, 1, 2, 6) if (user, item) != (0, 2)],
    *[(user, item, 10 * user) for user in range(3, 6) for item in (3, 4, 5, 6) if (user, item) != (3, 5)],
]
FEATURES = {
    "item_id": torch.arange(8) + 2,
    "department": torch.tensor([2, 2, 2, 3, 3, 3, 4, 3]),
    "words": torch.tensor([[2, 0], [2, 3], [3, 0], [4, 5], [4, 0], [5, 0], [0, 0], [4, 5]]),
    "price": torch.rand(8),
}


def past_of(log: InteractionLog) -> Past:
    return Past(log.between(None, CUT * DAY), CUT * DAY, FEATURES, torch.ones(log.n_items, dtype=torch.bool))


@pytest.fixture
def past(make_log: MakeLog) -> Past:
    return past_of(make_log(ROWS, 7, 8))


def fitted(recommender: Recommender, past: Past) -> Recommender:
    recommender.fit(past)
    return recommender


def best(recommender: Recommender, user: int) -> list[int]:
    return recommender.scores(torch.tensor([user]))[0].argsort(descending=True, stable=True).tolist()


def small(name: str) -> Recommender:
    """The baseline with parameters that suit eight items."""
    if name == "als":
        return ALS(factors=2, regularization=0.01, alpha=1.0, seed=3)
    return EASE(l2=1.0) if name == "ease" else make_baseline(name, seed=3)


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_answers_everybody_the_same_way_twice(name: str, past: Past) -> None:
    users = torch.arange(7)
    first, second = (fitted(small(name), past).scores(users) for _ in range(2))
    assert first.shape == (7, 8)
    assert first.dtype == torch.float32
    assert first.isfinite().all()
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", BASELINES)
def test_unknown_users_get_the_popular_items(name: str, past: Past) -> None:
    assert best(fitted(small(name), past), 6)[0] == 6


@pytest.mark.parametrize("name", BASELINES)
def test_irrelevant_events_change_nothing(name: str, make_log: MakeLog) -> None:
    looks = [(user, 7, 99, 0) for user in range(7)]
    users = torch.arange(7)
    plain = fitted(small(name), past_of(make_log(ROWS, 7, 8))).scores(users)
    assert torch.equal(fitted(small(name), past_of(make_log(ROWS + looks, 7, 8))).scores(users), plain)


@pytest.mark.parametrize("name", ["item_knn", "als", "ease", "content_knn"])
def test_learners_find_the_missing_item_of_the_users_own_group(name: str, past: Past) -> None:
    model = fitted(small(name), past)
    scores = model.scores(torch.tensor([0, 3]))
    assert scores[0, 2] > scores[0, [3, 4, 5]].max()
    assert scores[1, 5] > scores[1, [0, 1, 2]].max()


def test_popular_counts_and_recent_popular_prefers_the_window(make_log: MakeLog) -> None:
    rows = [(user, 0, 1) for user in range(5)] + [(0, 1, 95), (1, 1, 99), (0, 2, 80), (1, 2, 81), (2, 2, 82)]
    rows += [(0, 3, day) for day in range(90, 100)]  # often, but by one user alone
    past = past_of(make_log(rows, 7, 8))
    assert best(fitted(Popular(), past), 4)[:4] == [0, 2, 1, 3]
    assert best(fitted(RecentPopular(days=10), past), 4)[:4] == [1, 3, 0, 2]
    assert best(fitted(RecentPopular(), past), 4)[:4] == [2, 1, 3, 0]  # no span tells what comes next: 28 days


def test_personal_frequency_by_hand(make_log: MakeLog) -> None:
    # item 0 in baskets 70 and 10 days old, twice in the younger one; item 1 once, 10 days old; others by popularity
    rows = [(0, 0, 30), (0, 0, 90), (0, 0, 90), (0, 1, 90), (1, 2, 5), (2, 2, 5), (3, 3, 5)]
    past = past_of(make_log(rows, 7, 8))
    scores = fitted(PersonalFrequency(scale=10, power=1), past).scores(torch.tensor([0]))[0]
    assert scores[0].item() == pytest.approx(1 / (1 + 7) + 1 / (1 + 1))
    assert scores[1].item() == pytest.approx(1 / 2)
    assert 0 > scores[2] > scores[3] > scores[4]


def test_ease_solves_the_ridge_regression_of_each_item_on_the_others(past: Past) -> None:
    model = EASE(l2=2.0)
    scores = fitted(model, past).scores(torch.arange(6)).double()
    matrix = torch.zeros(6, 8, dtype=torch.float64)
    for user, item, _ in ROWS:
        matrix[user, item] = math.log(2)
    for target in range(7):
        others = [item for item in range(7) if item != target]
        x, y = matrix[:, others], matrix[:, target]
        weights = torch.linalg.solve(x.T @ x + 2.0 * torch.eye(6, dtype=torch.float64), x.T @ y)
        wanted = x @ weights
        kept = wanted > 1e-6
        assert torch.allclose(scores[kept, target], wanted[kept], atol=1e-5)


def test_ease_keeps_to_the_most_popular_items(past: Past) -> None:
    model = EASE(max_items=3, l2=1.0)
    model.fit(past)
    assert model._items.tolist() == [6, 0, 1]


def test_item_knn_sums_cosines(past: Past) -> None:
    scores = fitted(ItemKNN(), past).scores(torch.tensor([0]))[0]
    # items 0 and 1 were taken by users 0, 1, 2; item 2 by 1 and 2; item 6 by all six
    weight = math.log(2)
    with_2 = 2 * 2 / math.sqrt(3 * 2) + 2 / math.sqrt(6 * 2)
    assert scores[2].item() == pytest.approx(weight * with_2, rel=1e-5)


def test_content_is_the_cosine_of_tf_idf_profiles(past: Past) -> None:
    scores = fitted(ContentKNN(tie_break=0.0), past).scores(torch.arange(6))
    columns = [("department", 2), ("department", 3), ("department", 4), *[("words", word) for word in (2, 3, 4, 5)]]
    one_hot = np.array(
        [[float(value in np.atleast_1d(FEATURES[name][item].numpy())) for name, value in columns] for item in range(8)]
    )
    weighted = one_hot * np.log(8 / one_hot.sum(0))
    items = weighted / np.linalg.norm(weighted, axis=1, keepdims=True)
    taken = np.zeros((6, 8))
    for user, item, _ in ROWS:
        taken[user, item] = math.log(2)
    profiles = taken @ items
    wanted = profiles @ items.T / np.linalg.norm(profiles, axis=1, keepdims=True)
    assert scores[:, :8].numpy()[wanted > 0] == pytest.approx(wanted[wanted > 0], abs=1e-5)


def test_content_reaches_items_that_nobody_has_taken(past: Past) -> None:
    model = fitted(ContentKNN(), past)
    ranks: dict[int, int] = {user: best(model, user).index(7) for user in (0, 4)}
    assert ranks[4] < 3 < ranks[0]


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'itemknn' is not one of popular.* Did you mean 'item_knn'"):
        make_baseline("itemknn")


def test_scores_take_users_in_any_order(past: Past) -> None:
    for name in BASELINES:
        model = fitted(small(name), past)
        users: Tensor = torch.tensor([5, 0, 6])
        assert torch.allclose(model.scores(users), model.scores(torch.arange(7))[users], atol=1e-6), name
