import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.models.ranking_losses import (
    lambda_rank,
    listwise_softmax,
    segment_logsumexp,
    spread_within,
    weighted_bce,
)

INF = float("inf")


def problem(n=40, groups=5, grades=2, seed=0):
    chance = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, generator=chance) * 2
    labels = (torch.rand(n, generator=chance) * grades * 0.7).long().clamp(max=grades - 1).float()
    return logits, labels, torch.randint(0, groups, (n,), generator=chance)


def derivative(loss, logits):
    """The gradient of a loss at logits, in float32."""
    at = logits.clone().requires_grad_()
    loss(at).backward()
    return at.grad


def test_bce_is_that_of_sklearn():
    from sklearn.metrics import log_loss

    logits, labels, _ = problem()
    weights = torch.rand(40, generator=torch.Generator().manual_seed(1)) * 9
    p = torch.sigmoid(logits.double()).numpy()
    assert weighted_bce(logits, labels).item() == pytest.approx(log_loss(labels, p), rel=1e-5)
    expected = log_loss(labels, p, sample_weight=weights)
    assert weighted_bce(logits, labels, weights).item() == pytest.approx(expected, rel=1e-5)


def test_bce_of_several_tasks_is_their_mean():
    logits, labels, _ = problem(n=40)
    weights = torch.rand(20, generator=torch.Generator().manual_seed(1))
    both = weighted_bce(logits.view(20, 2), labels.view(20, 2), weights)
    each = [weighted_bce(logits.view(20, 2)[:, t], labels.view(20, 2)[:, t], weights) for t in (0, 1)]
    assert both.item() == pytest.approx((each[0] + each[1]).item() / 2, rel=1e-5)


def test_extreme_logits_and_no_weight_have_finite_losses():
    logits = torch.tensor([1e4, -1e4, 80.0], requires_grad=True)
    loss = weighted_bce(logits, torch.tensor([0.0, 1.0, 1.0]), torch.tensor([1.0, 2.0, 3.0]))
    loss.backward()
    assert loss.item() == pytest.approx(5e3)
    assert logits.grad.isfinite().all()
    assert weighted_bce(logits, torch.zeros(3), torch.zeros(3)).item() == 0.0


def test_a_weighted_sample_estimates_the_loss_over_all():
    chance = torch.Generator().manual_seed(0)
    n = 200_000
    logits = torch.randn(n, generator=chance) - 3
    labels = (torch.rand(n, generator=chance) < 0.03).float()
    rate = torch.where(logits > -3, 0.5, 0.1)  # hard negatives are drawn more often
    kept = (labels > 0) | (torch.rand(n, generator=chance) < rate)
    weights = torch.where(labels > 0, 1.0, 1.0 / rate)
    everything = weighted_bce(logits, labels).item()
    sample = weighted_bce(logits[kept], labels[kept], weights[kept]).item()
    assert sample == pytest.approx(everything, rel=0.01)
    assert weighted_bce(logits[kept], labels[kept]).item() != pytest.approx(everything, rel=0.3)


def naive_softmax(logits, labels, group, weights):
    losses = []
    for g in sorted(set(group)):
        rows = [i for i in range(len(group)) if group[i] == g]
        total = sum(labels[i] for i in rows)
        if total > 0:
            below = sum(weights[i] * math.exp(logits[i]) for i in rows)
            losses.append(-sum(labels[i] / total * math.log(math.exp(logits[i]) / below) for i in rows))
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("grades", [2, 4])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_listwise_softmax_is_its_definition(seed, weighted, grades):
    logits, labels, group = problem(seed=seed, grades=grades)
    weights = torch.rand(40, generator=torch.Generator().manual_seed(9)) * 9 + 1 if weighted else None
    found = listwise_softmax(logits, labels, group, 7, weights)
    expected = naive_softmax(
        logits.tolist(), labels.tolist(), group.tolist(), (torch.ones(40) if weights is None else weights).tolist()
    )
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_listwise_softmax_of_one_positive_is_torch_cross_entropy():
    logits = torch.randn(6, 11, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([3, 0, 10, 5, 5, 1])
    labels = torch.nn.functional.one_hot(target, 11).float().flatten()
    group = torch.arange(6).repeat_interleave(11)
    shuffled = torch.randperm(66, generator=torch.Generator().manual_seed(0))

    def ours(x):
        return listwise_softmax(x.flatten()[shuffled], labels[shuffled], group[shuffled], 6)

    def theirs(x):
        return torch.nn.functional.cross_entropy(x, target)

    assert ours(logits).item() == pytest.approx(theirs(logits).item(), rel=1e-5)
    assert torch.allclose(derivative(ours, logits), derivative(theirs, logits), atol=1e-6)


@pytest.mark.parametrize("loss", [listwise_softmax, lambda_rank])
@pytest.mark.parametrize("n", [0, 7])
def test_no_positive_anywhere_is_zero_with_a_gradient(loss, n):
    logits = torch.randn(n, requires_grad=True)
    value = loss(logits, torch.zeros(n), torch.zeros(n, dtype=torch.int64), 3)
    value.backward()
    assert value.item() == 0.0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("loss", [listwise_softmax, lambda_rank])
def test_far_scores_stay_finite_and_a_shift_of_a_group_does_nothing(loss):
    logits, labels, group = problem()
    shift = torch.tensor([0.0, 100.0, -100.0, 3.0, 50.0])[group]

    def of(x):
        return loss(x, labels, group, 5)

    assert of(logits + shift).item() == pytest.approx(of(logits).item(), rel=1e-4)
    assert torch.allclose(derivative(of, logits + shift), derivative(of, logits), atol=1e-4)
    far = derivative(of, logits * 1e4)
    assert far.isfinite().all()
    assert of(logits * 1e4).isfinite()


@pytest.mark.parametrize("loss", [weighted_bce, listwise_softmax, lambda_rank])
def test_half_precision_scores_are_taken_as_float32(loss):
    logits, labels, group = problem()
    rest = () if loss is weighted_bce else (group, 5)
    found = loss(logits.bfloat16(), labels, *rest)
    assert found.dtype == torch.float32
    assert found.item() == loss(logits.bfloat16().float(), labels, *rest).item()


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(-90, 90, width=32)), min_size=1, max_size=40))
def test_segment_logsumexp_is_scipys(rows):
    from scipy.special import logsumexp

    group, values = torch.tensor([r[0] for r in rows]), torch.tensor([r[1] for r in rows])
    found = segment_logsumexp(values, group, 5)
    for g in range(5):
        own = values[group == g].double().numpy()
        assert found[g].item() == pytest.approx(logsumexp(own) if len(own) else math.log(1e-38), rel=1e-4, abs=1e-4)


def dcg(labels, places, k):
    """Discounted gain of rows at places from 0."""
    return sum((2 ** labels[row] - 1) / math.log2(2 + r) for row, r in places.items() if r < k)


def naive_lambda(logits, labels, group, k):
    """By definition, over all ordered pairs; returns loss and gradient with the weights held fixed."""
    losses, gradient = [], np.zeros(len(logits))
    lists = [np.flatnonzero(group == g).tolist() for g in sorted(set(group.tolist()))]
    lists = [rows for rows in lists if any(labels[i] > 0 for i in rows)]
    for rows in lists:
        rank = {row: r for r, row in enumerate(sorted(rows, key=lambda i: -logits[i]))}
        ideal = dcg(labels, {row: r for r, row in enumerate(sorted(rows, key=lambda i: -labels[i]))}, k)
        total = 0.0
        for i in rows:
            for j in rows:
                if labels[i] > labels[j]:
                    exchanged = rank | {i: rank[j], j: rank[i]}
                    weight = abs(dcg(labels, rank, k) - dcg(labels, exchanged, k)) / ideal
                    margin = logits[i] - logits[j]
                    total += weight * math.log1p(math.exp(-margin))
                    pull = weight / (1 + math.exp(margin)) / len(lists)
                    gradient[i] -= pull
                    gradient[j] += pull
        losses.append(total)
    return sum(losses) / len(losses), gradient


@pytest.mark.parametrize("grades", [2, 4])
@pytest.mark.parametrize("k", [1, 3, 100])
@pytest.mark.parametrize("budget", [1, 30, 2**22])
def test_lambda_rank_is_its_definition(k, grades, budget):
    logits, labels, group = problem(n=30, groups=4, grades=grades, seed=k)
    value, gradient = naive_lambda(logits.double().numpy(), labels.numpy(), group.numpy(), k)
    assert lambda_rank(logits, labels, group, 6, k, budget).item() == pytest.approx(value, rel=1e-4)
    found = derivative(lambda x: lambda_rank(x, labels, group, 6, k, budget), logits)
    assert found.numpy() == pytest.approx(gradient, abs=1e-6)


def test_lambda_rank_by_hand():
    # The positive is second of two: exchanging them brings NDCG from 1 / log2(3) to 1.
    loss = lambda_rank(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([0, 0]), 1, k=5)
    assert loss.item() == pytest.approx((1 - 1 / math.log2(3)) * math.log(1 + math.e), rel=1e-5)


def test_lambda_rank_sees_nothing_below_k():
    labels, group = torch.tensor([0.0, 0.0, 1.0, 0.0]), torch.zeros(4, dtype=torch.int64)
    found = derivative(lambda x: lambda_rank(x, labels, group, 1, k=1), torch.tensor([4.0, 3.0, 2.0, 1.0]))
    assert (found != 0).tolist() == [True, False, True, False]


@settings(max_examples=20)
@given(st.permutations(range(20)))
def test_order_of_rows_does_not_matter(order):
    logits, labels, group = problem(n=20)
    for loss in (listwise_softmax, lambda_rank):
        one = loss(logits, labels, group, 5)
        assert loss(logits[order], labels[order], group[order], 5).item() == pytest.approx(one.item(), rel=1e-5)


@pytest.mark.parametrize("loss", [listwise_softmax, lambda_rank])
def test_descending_leads_to_the_perfect_order(loss):
    logits, labels, group = problem(grades=3)
    for _ in range(300):
        logits = logits - 2 * derivative(lambda x: loss(x, labels, group, 5), logits)
    for g in range(5):
        own = labels[group == g][logits[group == g].argsort(descending=True)]
        if loss is lambda_rank:
            assert own.tolist() == sorted(own.tolist(), reverse=True)
        else:
            assert own[: int((own > 0).sum())].min() > 0


def test_memory_does_not_grow_with_the_comparisons():
    """A chunk at a time: 2,000 positives in a list of 4,000 are 8 million comparisons."""
    n = 4000
    logits = torch.randn(n, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels, group = (torch.arange(n) % 2).float(), torch.zeros(n, dtype=torch.int64)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        loss = lambda_rank(logits, labels, group, 1, budget=100_000)
    assert sum(saved) < 10 * n
    loss.backward()
    assert logits.grad.isfinite().all()


def test_spread_within_groups_is_blind_to_what_parts_the_groups():
    values, group = torch.tensor([1.0, 3.0, 100.0, 102.0, 104.0]), torch.tensor([0, 0, 1, 1, 1])
    assert spread_within(values, group) == pytest.approx((10 / 5) ** 0.5)
    assert spread_within(values[:0], group[:0]) == 0.0
