"""Boosted trees on a ranking problem with a known answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.data.snapshots import RankingSet
from recsys.errors import ConfigError, DataError
from recsys.training import boosting
from recsys.training.boosting import BoostedRanker, Boosting, fit_boosting, numbers, predict_boosting

SMALL = Boosting(rounds=40, leaves=7, leaf_rows=5, learning_rate=0.2, threads=1)
NAMES = ("often, lately", "store", "noise")


@dataclass(frozen=True)
class Rows:
    """Candidates with features ``[P, F]`` and labels ``[P]``, and the rows of each group."""

    features: np.ndarray
    labels: np.ndarray
    groups: np.ndarray

    def pairs(self, names: Sequence[str]) -> RankingSet:
        features = {name: torch.from_numpy(self.features[:, place].copy()) for place, name in enumerate(names)}
        group = torch.from_numpy(np.repeat(np.arange(len(self.groups)), self.groups))
        labels = torch.from_numpy(self.labels.astype(np.float32))[:, None]
        return RankingSet(group, features, labels, torch.ones(len(group)))


def fit(rows: Rows, names: Sequence[str], settings: Boosting, validation: Rows | None = None) -> BoostedRanker:
    return fit_boosting(rows.pairs(names), validation.pairs(names) if validation else None, settings)


def problem(seed: int, groups: int = 150, size: int = 12) -> Rows:
    """One positive in each group: the row with the highest first feature, turned round in store 1."""
    rng = np.random.default_rng(seed)
    features = rng.random((groups * size, 3)).astype(np.float32)
    features[:, 1] = np.repeat(rng.integers(0, 2, groups), size)
    value = (features[:, 0] * np.where(features[:, 1] == 1, -1, 1)).reshape(groups, size)
    labels = np.zeros((groups, size), dtype=bool)
    labels[np.arange(groups), value.argmax(1)] = True
    return Rows(features, labels.ravel(), np.full(groups, size))


def hit_rate(scores: np.ndarray, rows: Rows) -> float:
    shape = len(rows.groups), -1
    best = scores.reshape(shape).argmax(1)
    return float(rows.labels.reshape(shape)[np.arange(len(rows.groups)), best].mean())


def gains(model: BoostedRanker) -> np.ndarray:
    """What the splits on each feature gained, as shares."""
    gain = model.booster.feature_importance(importance_type="gain")
    return np.asarray(gain / gain.sum())


@pytest.mark.parametrize("objective", ["rank_xendcg", "lambdarank"])
def test_trees_learn_what_makes_a_row_the_positive_one(objective: str) -> None:
    model = fit(problem(0), NAMES, replace(SMALL, objective=objective))
    unseen = problem(1)
    scores = model.predict(unseen.features)
    assert scores.dtype == np.float32
    assert hit_rate(scores, unseen) > 0.7 > 0.2 > hit_rate(unseen.features[:, 2], unseen)
    assert gains(model).argmax() == model.names.index("often, lately")


def test_groups_are_ranked_within_and_never_against_each_other() -> None:
    rows = problem(0)
    shift = np.repeat(np.random.default_rng(2).normal(size=len(rows.groups)) * 50, rows.groups)
    features = np.column_stack((rows.features, shift)).astype(np.float32)
    often, *_, shifted = gains(fit(replace(rows, features=features), [*NAMES, "shift"], SMALL))
    assert shifted < 0.2 < often


def test_the_same_seed_grows_the_same_trees() -> None:
    rows = problem(0)
    first, second = (fit(rows, NAMES, SMALL).predict(rows.features) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, fit(rows, NAMES, replace(SMALL, seed=1)).predict(rows.features))


def test_validation_rows_decide_how_many_trees_are_kept() -> None:
    noise = replace(problem(3), labels=np.random.default_rng(3).permutation(problem(3).labels))
    stopped = fit(problem(0), NAMES, replace(SMALL, patience=3), validation=noise)
    assert 1 <= stopped.booster.best_iteration < SMALL.rounds
    assert fit(problem(0), NAMES, SMALL).booster.num_trees() == SMALL.rounds


def test_missing_values_and_empty_tables_are_answered() -> None:
    model = fit(problem(0), NAMES, SMALL)
    assert np.isfinite(model.predict(np.full((2, 3), np.nan, dtype=np.float32))).all()
    assert model.predict(np.zeros((0, 3), dtype=np.float32)).shape == (0,)


def test_an_unknown_objective_is_refused() -> None:
    with pytest.raises(ConfigError, match="'ndcg' is not one of rank_xendcg, lambdarank"):
        fit(problem(0), NAMES, Boosting(objective="ndcg"))


def test_rows_without_a_positive_are_refused() -> None:
    with pytest.raises(DataError, match="none of the 24 training rows is positive"):
        fit(replace(problem(0, groups=2), labels=np.zeros(24, dtype=bool)), NAMES, SMALL)


def test_longest_group_is_the_one_that_lightgbm_takes() -> None:
    at_limit = problem(0, groups=1, size=10_000)
    fit(at_limit, NAMES, replace(SMALL, rounds=1))
    with pytest.raises(DataError, match="has 10001 rows, at most 10000"):
        fit(problem(0, groups=1, size=10_001), NAMES, SMALL)


def test_columns_of_another_table_are_refused() -> None:
    model = fit(problem(0), NAMES, SMALL)
    with pytest.raises(DataError, match=r"needed is \[P, 3\]"):
        model.predict(np.zeros((2, 4), dtype=np.float32))


def pairs_problem(seed: int, groups: int = 150, size: int = 12) -> RankingSet:
    """The highest ``often`` of a group is taken, in size 4 the lowest; ids lie between, so that order matters."""
    chance = torch.Generator().manual_seed(seed)
    often = torch.rand(groups, size, generator=chance)
    large = torch.randint(2, 5, (groups, 1), generator=chance).expand(groups, size)
    best = torch.where(large == 4, -often, often).argmax(1)
    labels = torch.zeros(groups, size)
    labels[torch.arange(groups), best] = 1
    features = {
        "item_id": torch.randint(0, 300, (groups * size,), generator=chance),
        "often": often.flatten(),
        "words": torch.zeros(groups * size, 2, dtype=torch.int64),
        "size": large.flatten().float(),
        "gap": torch.full((groups * size,), torch.nan),
    }
    other_task = torch.ones(groups * size)
    group = torch.arange(groups).repeat_interleave(size)
    return RankingSet(group, features, torch.stack([labels.flatten(), other_task], 1), torch.ones(groups * size))


def without_size(pairs: RankingSet) -> RankingSet:
    return replace(pairs, features={name: values for name, values in pairs.features.items() if name != "size"})


def share_of_hits(scores: Tensor, pairs: RankingSet) -> float:
    shape = pairs.n_groups, -1
    best = scores.reshape(shape).argmax(1)
    return float(pairs.labels[:, 0].reshape(shape)[torch.arange(pairs.n_groups), best].mean())


def test_trees_learn_from_ranking_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Boosting(rounds=40, leaves=7, leaf_rows=5, learning_rate=0.2, threads=1)
    train, validation, test = (pairs_problem(seed) for seed in range(3))
    assert numbers(train.features) == ("often", "size", "gap")
    told = fit_boosting(train, validation, small)
    plain = fit_boosting(without_size(train), without_size(validation), small)
    assert (plain.names, told.names) == (("often", "gap"), ("often", "size", "gap"))
    assert share_of_hits(predict_boosting(told, test.features), test) > 0.9
    assert share_of_hits(predict_boosting(plain, test.features), test) < 0.8
    whole = predict_boosting(told, test.features)
    monkeypatch.setattr(boosting, "PAIRS", 700)
    turned = dict(reversed(test.features.items()))
    assert torch.equal(predict_boosting(told, turned), whole)
    assert len(predict_boosting(told, {name: values[:0] for name, values in turned.items()})) == 0
    with pytest.raises(DataError, match=r"no feature 'size'.*Did you mean 'sizes'"):
        predict_boosting(told, {"often": torch.zeros(1), "sizes": torch.zeros(1)})


def test_impossible_columns_are_refused() -> None:
    train = pairs_problem(0, 3)
    with pytest.raises(DataError, match=r"the pairs have no feature 'size'"):
        fit_boosting(train, without_size(train))
    ids = {name: values for name, values in train.features.items() if not values.is_floating_point()}
    with pytest.raises(DataError, match="no numeric feature"):
        fit_boosting(replace(train, features=ids))


def test_the_forest_scores_as_the_library_does() -> None:
    """Of numbers at, just below and just above thresholds, missing ones, and a number that was never missing."""
    rows = problem(0)
    rows.features[::7, 2] = np.nan  # the last number is missing at times, the first two never
    model = fit(rows, NAMES, SMALL, validation=problem(1))
    forest = model.forest()
    assert len(forest) == model.booster.best_iteration < SMALL.rounds
    asked = model.booster.trees_to_dataframe()["threshold"].dropna().to_numpy().astype(np.float32)
    edges = np.concatenate([asked, np.nextafter(asked, np.float32(-9)), np.nextafter(asked, np.float32(9))])
    grid = np.stack([np.random.default_rng(place).permutation(edges) for place in range(3)], 1)
    some = np.concatenate([rows.features, problem(5).features, grid, np.full((3, 3), np.nan, np.float32)])
    some[-2, 1] = some[-1, 0] = 0.5
    expected = model.booster.predict(some)
    numbers_of = {name: torch.from_numpy(some[:, place].copy()) for place, name in enumerate(NAMES)}
    assert np.allclose(forest(numbers_of).numpy(), expected, atol=1e-5)
    scripted = torch.jit.script(forest)
    assert torch.equal(scripted(numbers_of), forest(numbers_of))


def test_trees_without_a_question_score_all_alike() -> None:
    alike = replace(problem(0), features=np.ones((1800, 3), np.float32))
    model = fit(alike, NAMES, SMALL)
    forest = model.forest()
    assert forest.names == []
    scores = forest({name: torch.rand(4) for name in NAMES})
    assert np.allclose(scores.numpy(), model.predict(alike.features[:4]))
