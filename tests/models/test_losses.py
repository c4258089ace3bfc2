import math

import pytest
import torch

from recsys.models.losses import inclusion_log_probability, sampled_softmax


def naive(query, candidate, temperature, log_q, positive_query, positive_candidate):
    """The loss by its definition, one exponential at a time."""
    pairs = list(zip(positive_query.tolist(), positive_candidate.tolist(), strict=True))
    total = 0.0
    for q, c in pairs:
        own = {other for row, other in pairs if row == q}

        def score(j, q=q):
            inner = sum(float(a) * float(b) for a, b in zip(query[q], candidate[j], strict=True))
            return inner / float(temperature)

        chance = log_q.expand(len(query), -1)[q].exp()
        negatives = [math.exp(score(j)) / float(chance[j]) for j in range(len(candidate)) if j not in own]
        total -= math.log(math.exp(score(c)) / (math.exp(score(c)) + sum(negatives)))
    return total / len(pairs)


def problem(seed=0, dtype=torch.float32):
    chance = torch.Generator().manual_seed(seed)
    query = torch.randn(4, 6, generator=chance, dtype=dtype)
    candidate = torch.randn(9, 6, generator=chance, dtype=dtype)
    log_q = torch.rand(9, generator=chance, dtype=dtype).log()
    positive_query = torch.tensor([0, 0, 0, 1, 3, 3])  # query 2 has none, queries 0 and 1 share candidate 2
    positive_candidate = torch.tensor([2, 5, 8, 2, 0, 4])
    temperature = torch.tensor(0.7, dtype=dtype)
    return [query, candidate, temperature, log_q, positive_query, positive_candidate]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("each_query", [False, True])
def test_loss_is_its_definition(seed, each_query):
    arguments = problem(seed)
    if each_query:  # a sample that is not equally likely for all queries
        arguments[3] = torch.rand(4, 9, generator=torch.Generator().manual_seed(seed)).log()
    assert sampled_softmax(*arguments).item() == pytest.approx(naive(*arguments), rel=1e-5)


def test_loss_by_hand():
    # Scores are 1, 0, 0; q is 1/2, 1/4, 1/4, so the terms are e for the positive and 4, 4 for the negatives.
    query, candidate = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    log_q = torch.tensor([0.5, 0.25, 0.25]).log()
    zero = torch.tensor([0])
    loss = sampled_softmax(query, candidate, torch.tensor(1.0), log_q, zero, zero)
    assert loss.item() == pytest.approx(-math.log(math.e / (math.e + 8)))
    # Candidate 1 is a positive too: it is no negative of the first, nor the first of it.
    both = sampled_softmax(query, candidate, torch.tensor(1.0), log_q, torch.tensor([0, 0]), torch.tensor([0, 1]))
    parts = -math.log(math.e / (math.e + 4)), -math.log(1 / (1 + 4))
    assert both.item() == pytest.approx(sum(parts) / 2)
    pair, weight = (torch.tensor([0, 0]), torch.tensor([0, 1])), torch.tensor([3.0, 0.5])
    weighted = sampled_softmax(query, candidate, torch.tensor(1.0), log_q, *pair, weight)
    assert weighted.item() == pytest.approx((3 * parts[0] + 0.5 * parts[1]) / 3.5)


def test_gradients_are_those_of_the_function():
    query, candidate, temperature, log_q, positive_query, positive_candidate = problem(dtype=torch.float64)
    for part in (query, candidate, temperature):
        part.requires_grad_()

    def loss(q, c, t):
        return sampled_softmax(q, c, t, log_q, positive_query, positive_candidate)

    scores = (query @ candidate.T).detach()
    assert scores.dtype == torch.float64  # the loss itself works in float32, so steps must not be too small
    assert torch.autograd.gradcheck(loss, (query, candidate, temperature), eps=1e-2, atol=2e-3, rtol=1e-2)


def test_positives_of_a_query_do_not_repel_each_other():
    query, candidate, temperature, log_q, *_ = problem()
    candidate.requires_grad_()
    # All candidates but one are positives of query 0; only the one is pushed away.
    positive_candidate = torch.arange(8)
    sampled_softmax(
        query, candidate, temperature, log_q, torch.zeros(8, dtype=torch.int64), positive_candidate
    ).backward()
    along = candidate.grad @ query[0]
    assert (along[:8] < 0).all()
    assert along[8] > 0


def test_a_query_whose_candidates_are_all_positives_teaches_nothing():
    query, candidate, temperature, log_q, *_ = problem()
    for part in (query, candidate):
        part.requires_grad_()
    loss = sampled_softmax(query, candidate, temperature, log_q, torch.zeros(9, dtype=torch.int64), torch.arange(9))
    loss.backward()
    assert loss.item() == 0.0
    assert not query.grad.any()
    assert not candidate.grad.any()


def test_finite_in_half_precision(device: torch.device):
    query, candidate, _, log_q, *positive = (part.to(device) for part in problem())
    unit = [torch.nn.functional.normalize(v, dim=1).requires_grad_() for v in (query, candidate)]
    temperature = torch.tensor(0.02, device=device, requires_grad=True)
    arguments = (temperature, log_q * 20, *positive)
    with torch.autocast(device.type, torch.bfloat16):
        loss = sampled_softmax(*unit, *arguments)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert all(part.grad.isfinite().all() for part in (*unit, temperature))
    assert loss.item() == pytest.approx(sampled_softmax(*unit, *arguments).item(), rel=0.1)


def test_inclusion_probability_by_hand():
    share = torch.tensor([0.0, 0.5, 1.0])
    probability = inclusion_log_probability(share, draws=3, uniform=2, n_items=4).exp()
    assert probability.tolist() == pytest.approx([1 - 0.75**2, 1 - 0.5**3 * 0.75**2, 1.0], rel=1e-5)
    alone = inclusion_log_probability(torch.tensor([1e-9]), draws=10, uniform=0, n_items=4).exp()
    assert alone.item() == pytest.approx(1e-8, rel=1e-3)  # no cancellation for rare items
    never = inclusion_log_probability(torch.tensor([0.0]), draws=10, uniform=0, n_items=4)
    assert never.isfinite().all()


def test_inclusion_probability_is_how_often_items_are_in():
    chance = torch.Generator().manual_seed(0)
    share = torch.tensor([0.5, 0.25, 0.15, 0.05, 0.03, 0.02, 0.0, 0.0])
    draws, in_batch, uniform = 20_000, 5, 3
    positives = torch.multinomial(share.expand(draws, -1), in_batch, replacement=True, generator=chance)
    negatives = torch.randint(8, (draws, uniform), generator=chance)
    inside = torch.zeros(draws, 8).scatter_(1, torch.cat([positives, negatives], 1), 1.0)
    expected = inclusion_log_probability(share, in_batch, uniform, 8).exp()
    deviation = (expected * (1 - expected) / draws).sqrt()
    assert ((inside.mean(0) - expected).abs() < 4 * deviation + 1e-9).all()


def fitted_distribution(corrected: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit free scores of 2 queries by items to sampled batches; returns them as probabilities, and the truth."""
    chance = torch.Generator().manual_seed(0)
    n_items, in_batch, uniform = 30, 24, 6
    truth = (torch.randn(2, n_items, generator=chance) * 1.2).softmax(1)
    share = truth.mean(0)
    scores = torch.zeros(2, n_items, requires_grad=True)
    optimizer = torch.optim.Adam([scores], lr=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(1 - step / 700, 0.01))
    log_share = inclusion_log_probability(share, in_batch, uniform, n_items)
    for _ in range(700):
        query = torch.randint(2, (in_batch,), generator=chance)
        item = torch.multinomial(truth[query], 1, generator=chance).squeeze(1)
        negative = torch.randint(n_items, (uniform,), generator=chance)
        candidates = torch.cat([item, negative]).unique()
        log_q = log_share[candidates] if corrected else torch.zeros(len(candidates))
        loss = sampled_softmax(
            torch.eye(2)[query],
            scores.T[candidates],
            torch.tensor(1.0),
            log_q,
            torch.arange(in_batch),
            torch.searchsorted(candidates, item),
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return scores.detach().softmax(1), truth


def test_correction_recovers_the_true_distribution():
    def distance(corrected):
        found, truth = fitted_distribution(corrected)
        return (found - truth).abs().sum(1).max().item() / 2  # total variation

    with_it, without = distance(True), distance(False)
    print(with_it, without)
    assert with_it < 0.05
    assert without > 2 * with_it
