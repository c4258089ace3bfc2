"""Ranked pairs as a scorer of the catalogue, measured as probabilities, and ranked by trees."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor

from recsys.data.log import InteractionLog
from recsys.errors import RecsysError
from recsys.evaluation import two_stage
from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.slices import make_targets
from recsys.evaluation.two_stage import PairScorer, ranking_metrics

INF = float("inf")
USERS = torch.tensor([3, 7, 9])
QUERY = torch.tensor([0, 0, 0, 2, 2])
ITEM = torch.tensor([4, 1, 0, 2, 3])
VALUES = torch.tensor([-5.0, 2.0, -5.0, 0.25, 0.5])


def order(scores: Tensor) -> list[int]:
    return scores.argsort(descending=True, stable=True).tolist()


def test_candidates_come_first_and_then_the_retriever_as_it_is() -> None:
    retriever = torch.tensor([[0.1, 0.2, 0.9, 0.3, 0.4, 0.8]]).expand(4, 6)
    scorer = PairScorer("both", 6, USERS, QUERY, ITEM, VALUES, lambda users: retriever[: len(users)])
    scores = scorer.scores(torch.tensor([9, 3, 5, 7]))
    assert [order(row) for row in scores] == [[3, 2, 5, 4, 1, 0], [1, 0, 4, 2, 5, 3], *[[2, 5, 4, 3, 1, 0]] * 2]
    assert scores[1, 0] == scores[1, 4]
    assert torch.equal(scores[2:], retriever[2:])  # user 5 is unknown, user 7 has no candidate
    assert torch.equal(scores[1, [2, 3, 5]], retriever[0, [2, 3, 5]])
    assert retriever[0, 3] == torch.tensor(0.3)  # not written to


def test_without_a_retriever_the_others_are_equal() -> None:
    scores = PairScorer("ranker", 6, USERS, QUERY, ITEM, VALUES).scores(torch.tensor([3, 4]))
    assert scores.tolist() == [[1.0, 2.0, 0.0, 0.0, 1.0, 0.0], [0.0] * 6]


@pytest.mark.parametrize("level", [0.0, 1e-30, 1.0, -1e6, 3e6, 1e30, -3e38])
@pytest.mark.parametrize("spread", [0.0, 1e-7, 10.0])
def test_large_catalogues_stay_in_order_at_any_scale(level: float, spread: float) -> None:
    """92,000 items, 10,000 candidates whose logits differ in the last digits."""
    chance = torch.Generator().manual_seed(0)
    n_items, n = 92_000, 10_000
    item = torch.randperm(n_items, generator=chance)[:n]
    values = 8 + torch.arange(n)[torch.randperm(n, generator=chance)].float() * 2**-20
    retriever = level + spread * torch.randn(1, n_items, generator=chance)
    scorer = PairScorer(
        "both", n_items, USERS[:1], torch.zeros(n, dtype=torch.int64), item, values, lambda _: retriever
    )
    scores = scorer.scores(USERS[:1])[0]
    others = torch.ones(n_items, dtype=torch.bool)
    others[item] = False
    assert scores.dtype == torch.float32
    assert torch.equal(scores[item].argsort(), values.argsort())
    assert scores[item].unique().numel() == n
    assert scores[item].min() > scores[others].max()
    assert torch.equal(scores[others], retriever[0, others])


def test_masks_of_the_retriever_stay_and_do_not_reach_candidates() -> None:
    masked = torch.full((1, 6), -INF)
    scores = PairScorer("both", 6, USERS, QUERY, ITEM, VALUES, lambda _: masked).scores(USERS[:1])
    assert scores.tolist() == [[1.0, 2.0, -INF, -INF, 1.0, -INF]]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_order_is_that_of_sorting_by_hand(data: st.DataObject) -> None:
    n_items = data.draw(st.integers(1, 7))
    floats = st.floats(-1e4, 1e4, width=32)
    users = sorted(data.draw(st.sets(st.integers(0, 9))))
    chosen = [data.draw(st.dictionaries(st.integers(0, n_items - 1), floats)) for _ in users]
    retriever = torch.tensor(data.draw(st.lists(floats, min_size=10 * n_items, max_size=10 * n_items)))
    retriever = retriever.reshape(10, n_items)
    rows = [(q, item, value) for q, found in enumerate(chosen) for item, value in found.items()]
    query, item = (torch.tensor([row[i] for row in rows], dtype=torch.int64) for i in (0, 1))
    values = torch.tensor([row[2] for row in rows])
    scorer = PairScorer(
        "both", n_items, torch.tensor(users, dtype=torch.int64), query, item, values, retriever.__getitem__
    )
    asked = data.draw(st.lists(st.integers(0, 9), max_size=5))
    scores = scorer.scores(torch.tensor(asked, dtype=torch.int64))
    assert scores.shape == (len(asked), n_items)
    for user, row in zip(asked, scores.tolist(), strict=True):
        mine = chosen[users.index(user)] if user in users else {}
        expected = [(1, np.float32(mine[i])) if i in mine else (0, float(retriever[user, i])) for i in range(n_items)]
        for one in range(n_items):
            for two in range(n_items):
                assert (row[one] < row[two]) == (expected[one] < expected[two])


def test_the_evaluation_takes_it(make_log) -> None:
    history: InteractionLog = make_log([(0, 0, 1), (1, 1, 1)], 2, 4)
    truth: InteractionLog = make_log([(0, 3, 5), (1, 2, 5)], 2, 4)
    targets = make_targets(history, truth, torch.ones(4, dtype=torch.bool))
    pairs = torch.tensor([0, 0]), torch.tensor([3, 1]), torch.tensor([0.2, 0.1])
    scorer = PairScorer("both", 4, torch.tensor([0]), *pairs, lambda users: torch.eye(4)[2].expand(len(users), 4))
    assert evaluate(scorer, targets, (1,), ("all",)).metrics["all"]["ndcg_at_1"] == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item": ITEM[:2]}, r"shapes \[\(5,\), \(2,\), \(5,\)\]"),
        ({"users": USERS.flip(0)}, "must rise strictly"),
        ({"query": QUERY.flip(0)}, "be sorted"),
        ({"users": USERS[:2]}, "requests 0 to 2, there are 2"),
        ({"values": VALUES / 0 * 0}, "a value is NaN"),
        ({"fallback": lambda users: torch.full((len(users), 6), INF)}, "up to inf"),
        ({"fallback": lambda users: torch.full((len(users), 6), 3.4e38)}, "leaves no room"),
        ({"fallback": lambda users: torch.zeros(len(users), 5)}, r"\(1, 5\), needed is \(1, 6\)"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    arguments = {"users": USERS, "query": QUERY, "item": ITEM, "values": VALUES} | changes
    with pytest.raises(RecsysError, match=f"model 'both': .*{message}"):
        PairScorer("both", 6, **arguments).scores(USERS[:1])


@pytest.fixture
def said() -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(0)
    p = torch.rand(5000, generator=chance) ** 3
    query = torch.randint(0, 40, (5000,), generator=chance).sort().values
    return {"p": p, "labels": (torch.rand(5000, generator=chance) < p).float(), "query": query}


@pytest.mark.parametrize("at_a_time", [2**18, 97])
def test_metrics_are_those_of_sklearn(said: dict[str, Tensor], at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_stage, "PAIRS", at_a_time)
    p, labels, query = said.values()
    found, curves = ranking_metrics(torch.logit(p, 1e-6), p, labels, query, query % 2, ("even", "odd"))
    assert found["auc"] == pytest.approx(roc_auc_score(labels, p), abs=1e-4)
    by_user = [(roc_auc_score(labels[query == q], p[query == q]), int((query == q).sum())) for q in query.unique()]
    areas, rows = zip(*by_user, strict=True)
    assert found["gauc"] == pytest.approx(np.average(areas, weights=rows))
    assert found["gauc_users"] == len(by_user)
    loss = log_loss(labels, p.double())
    assert found["log_loss"] == pytest.approx(loss, rel=1e-6)
    rate = float(labels.mean())
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert found["normalized_entropy"] == pytest.approx(loss / entropy, rel=1e-6)
    assert (found["base_rate"], found["mean_probability"]) == pytest.approx((rate, float(p.mean())), rel=1e-5)
    for name, parity in (("even", 0), ("odd", 1)):
        own = p[query % 2 == parity].numpy(), labels[query % 2 == parity].numpy()
        by_p = np.array_split(np.argsort(own[0]), 20)
        gaps = [abs(own[0][rows].mean() - own[1][rows].mean()) * len(rows) for rows in by_p]
        assert found[f"{name}/ece"] == pytest.approx(sum(gaps) / len(own[0]), abs=2e-3)
        assert int(curves[name].count.sum()) == len(own[0])
    assert found["ece"] == pytest.approx(curves["all"].error.item())
    assert list(curves) == ["all", "even", "odd"]


def test_order_is_judged_by_logits_and_truth_by_probabilities() -> None:
    labels, query = torch.tensor([0.0, 1.0]), torch.tensor([0, 0])
    found, _ = ranking_metrics(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.5]), labels, query)
    assert (found["auc"], found["gauc"], found["log_loss"]) == (1.0, 1.0, pytest.approx(np.log(2)))


def test_metrics_of_nothing_are_nan_and_unsorted_pairs_are_refused() -> None:
    empty = torch.zeros(0)
    found, curves = ranking_metrics(empty, empty, empty, empty.long())
    assert {name for name, value in found.items() if value == value} == {"gauc_users"}
    assert len(curves["all"].count) == 0
    with pytest.raises(RecsysError, match="must be sorted"):
        ranking_metrics(torch.ones(2), torch.ones(2), torch.ones(2), torch.tensor([1, 0]))


def test_one_process_of_several_measures_alone(monkeypatch):
    """The first process measures while the others are done; waiting for them would end the job."""
    import torch.distributed as dist
    from torchmetrics.utilities import distributed

    def wait(*_: object, **__: object) -> None:
        raise AssertionError("waits for the other processes")

    monkeypatch.setattr(dist, "is_available", lambda: True)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "gather_all_tensors", wait)
    monkeypatch.setattr("torchmetrics.metric.gather_all_tensors", wait)
    some = torch.tensor([0.2, 0.8, 0.4])
    found, curves = ranking_metrics(some, some, torch.tensor([0.0, 1, 0]), torch.tensor([0, 0, 1]))
    assert found["auc"] == 1
    assert "all" in curves
