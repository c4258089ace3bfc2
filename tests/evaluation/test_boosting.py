"""Boosted trees on a ranking problem with a known answer."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from recsys.errors import ConfigError, DataError
from recsys.evaluation.boosting import BoostedRanker, Boosting, Rows, fit

SMALL = Boosting(rounds=40, leaves=7, leaf_rows=5, learning_rate=0.2, threads=1)
NAMES = ("often, lately", "store", "noise")


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


def test_without_lightgbm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ConfigError, match=r"pip install 'recsys\[baselines\]'"):
        fit(problem(0), NAMES, SMALL)


def test_an_unknown_objective_is_refused() -> None:
    with pytest.raises(ConfigError, match="'ndcg' is not one of rank_xendcg, lambdarank"):
        fit(problem(0), NAMES, Boosting(objective="ndcg"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros(24, dtype=bool)}, "none of the 24 training rows is positive"),
        ({"labels": np.full(24, 2)}, "must be 0 or 1"),
        ({"labels": np.ones(23)}, r"labels \(23,\)"),
        ({"features": np.zeros((24, 2), dtype=np.float32)}, r"features \(24, 2\)"),
        ({"groups": np.array([12, 11])}, "are 24, their groups sum to 23"),
        ({"groups": np.array([24, 0])}, "each holds 1 row or more"),
    ],
)
def test_rows_that_do_not_fit_are_refused(change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit(replace(problem(0, groups=2), **change), NAMES, SMALL)


def test_longest_group_is_the_one_that_lightgbm_takes() -> None:
    at_limit = problem(0, groups=1, size=10_000)
    fit(at_limit, NAMES, replace(SMALL, rounds=1))
    with pytest.raises(DataError, match="has 10001 rows, at most 10000"):
        fit(problem(0, groups=1, size=10_001), NAMES, SMALL)


def test_columns_of_another_table_are_refused() -> None:
    model = fit(problem(0), NAMES, SMALL)
    with pytest.raises(DataError, match=r"needed is \[P, 3\]"):
        model.predict(np.zeros((2, 4), dtype=np.float32))
