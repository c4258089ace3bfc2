import math

import pytest
import torch
import torch.nn.functional as F

from recsys.models.history import FAST, HistoryAttention, by_head

BLOCKS, SLOTS, EVENTS, WIDTH = 3, 2, 7, 4


@pytest.fixture
def pooling():
    """Weights as if trained."""
    torch.manual_seed(0)
    module = HistoryAttention(WIDTH, [0.5, 2.0])
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return module


def by_hand(module, vectors, age, repeats, visible):
    """The definition, one moment, head and event at a time."""
    pooled = torch.zeros(*visible.shape[:2], module.heads, vectors.shape[2])
    for g, s, h in torch.cartesian_prod(*map(torch.arange, pooled.shape[:3])).tolist():
        total = 0.0
        for w in range(vectors.shape[1]):
            if visible[g, s, w]:
                bucket = min(int(math.log2(max(float(age[g, s, w]), 0.0) + 1.0) * 1.8), 15)
                logit = module.item_score(vectors[g, w])[h]
                logit = logit + FAST * (module.recency[bucket, h] + module.repetition[min(int(repeats[g, w]), 5), h])
                pooled[g, s, h] += logit.exp() * vectors[g, w]
                total = total + logit.exp()
        if visible[g, s].any():
            pooled[g, s, h] /= total
    return pooled


def test_pooling_is_its_definition(pooling):
    chance = torch.Generator().manual_seed(1)
    vectors = torch.randn(BLOCKS, EVENTS, WIDTH, generator=chance)
    age = torch.rand(BLOCKS, SLOTS, EVENTS, generator=chance) * 700 - 20
    repeats = torch.randint(0, 9, (BLOCKS, EVENTS), generator=chance)
    visible = torch.rand(BLOCKS, SLOTS, EVENTS, generator=chance) < 0.6
    visible[1, 0] = False
    with torch.no_grad():
        found = pooling(vectors, pooling.item_score(vectors), age, repeats, visible)
        assert torch.allclose(found, by_hand(pooling, vectors, age, repeats, visible), atol=1e-5)
    assert found.shape == (BLOCKS, SLOTS, 2, WIDTH)
    assert not found[1, 0].any()


def test_rows_by_head_are_those_of_an_embedding():
    chance = torch.Generator().manual_seed(2)
    one = torch.randn(6, 3, generator=chance, dtype=torch.float64).requires_grad_()
    other = one.detach().clone().requires_grad_()
    rows = torch.randint(0, 6, (2, 4, 5), generator=chance)
    weights = torch.randn(2, 4, 3, 5, generator=chance, dtype=torch.float64)
    found, wanted = by_head(one, rows), F.embedding(rows, other).transpose(2, 3)
    assert torch.equal(found, wanted)
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    assert torch.allclose(one.grad, other.grad)
