"""Ranking and catalogue metrics against hand-made tables and independent oracles."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from recsys.evaluation.metrics import CatalogueMetrics, RankingMetrics, gini, metric_keys, ranking_values

KS = (1, 3)
# user 0: hit at ranks 1 and 3, two relevant; 1: hit at rank 2 of five; 2: no hit; 3: no target
HITS = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0]], dtype=torch.bool)
RELEVANT = torch.tensor([2, 5, 1, 0])
SECOND, THIRD = 1 / math.log2(3), 1 / 2
TABLE = {
    "ndcg_at_1": (1 + 0 + 0) / 3,
    "ndcg_at_3": ((1 + THIRD) / (1 + SECOND) + SECOND / (1 + SECOND + THIRD)) / 3,
    "recall_at_1": (1 / 2) / 3,
    "recall_at_3": (2 / 2 + 1 / 5) / 3,
    "hit_rate_at_1": 1 / 3,
    "hit_rate_at_3": 2 / 3,
    "mrr_at_1": 1 / 3,
    "mrr_at_3": (1 + 1 / 2) / 3,
    "users": 3,
}


def ranking(*parts: slice) -> RankingMetrics:
    metric = RankingMetrics(KS)
    for part in parts:
        asked = RELEVANT[part] > 0
        metric.update(ranking_values(HITS[part][asked], RELEVANT[part][asked], KS))
    return metric


def test_ranking_metrics_equal_the_table_made_by_hand() -> None:
    computed = ranking(slice(None)).compute()
    assert {key: pytest.approx(value.item()) for key, value in computed.items()} == TABLE


def test_batches_and_merged_states_add_up() -> None:
    assert ranking(slice(0, 1), slice(1, 4)).compute() == ranking(slice(None)).compute()
    merged = ranking(slice(0, 2))
    merged.merge_state(ranking(slice(2, 4)))
    assert merged.compute() == ranking(slice(None)).compute()


def test_lists_shorter_than_the_cutoff_end_in_misses() -> None:
    short = ranking_values(HITS[:, :1], RELEVANT, [3])
    padded = ranking_values(torch.cat((HITS[:, :1], torch.zeros(4, 2, dtype=torch.bool)), 1), RELEVANT, [3])
    assert torch.equal(short, padded)
    assert ranking_values(HITS[:, :0], RELEVANT, [3]).sum() == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_ndcg_and_recall_agree_with_an_independent_oracle(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.random((4, 12)) < 0.3
    truth[:, 0] = True
    scores = rng.permuted(np.tile(np.arange(12.0), (4, 1)), axis=1)
    order = np.argsort(-scores, axis=1)
    hits = torch.from_numpy(np.take_along_axis(truth, order, 1))
    values = ranking_values(hits, torch.from_numpy(truth.sum(1)), [k])
    assert values[0, 0].mean().item() == pytest.approx(ndcg_score(truth, scores, k=k))
    wanted = [len(set(np.flatnonzero(t)) & set(o[:k])) / t.sum() for t, o in zip(truth, order, strict=True)]
    assert values[1, 0].tolist() == pytest.approx(wanted)


def catalogue() -> CatalogueMetrics:
    # 4 items, the last is not eligible and nobody has it; 8 users have a history
    return CatalogueMetrics((1, 2), torch.tensor([8, 2, 1, 0]), 8, torch.tensor([True, True, True, False]))


def test_catalogue_metrics_equal_the_table_made_by_hand() -> None:
    metric = catalogue()
    metric.update(torch.tensor([[0, 1], [0, 2]]), torch.tensor([[True, True], [True, False]]))
    values = {key: value.item() for key, value in metric.compute().items()}
    assert values["coverage_at_1"] == pytest.approx(1 / 3)  # item 0 of the three with a history
    assert values["coverage_at_2"] == pytest.approx(2 / 3)
    assert values["novelty_at_1"] == 0  # everybody has item 0
    assert values["novelty_at_2"] == pytest.approx((0 + 0 + 2) / 3)  # -log2(2/8) = 2 in one of three places
    assert values["gini_at_1"] == pytest.approx(2 / 3)  # one of three has all
    assert values["gini_at_2"] == pytest.approx((0 * -2 + 1 * 0 + 2 * 2) / (3 * 3))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20))
def test_gini_is_the_mean_absolute_difference(counts: list[int]) -> None:
    wanted = sum(abs(a - b) for a in counts for b in counts) / max(2 * len(counts) * sum(counts), 1)
    assert gini(torch.tensor(counts)).item() == pytest.approx(wanted)


def test_keys_are_legal_names_in_mlflow() -> None:
    assert metric_keys([10]) == ["ndcg_at_10", "recall_at_10", "hit_rate_at_10", "mrr_at_10"]
