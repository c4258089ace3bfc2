import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from recsys.training.ftrl import FTRL

ROWS, WIDTH = 6, 2
SETTINGS = {"lr": 0.3, "beta": 0.7, "l1": 0.4, "l2": 0.2}


def oracle(steps, size, alpha, beta, l1, l2):
    """Algorithm 1 of McMahan et al. 2013, one coordinate at a time; a gradient of None is a feature not there."""
    z, n, w = [0.0] * size, [0.0] * size, [0.0] * size
    for gradients in steps:
        for i, g in enumerate(gradients):
            if abs(z[i]) <= l1:
                w[i] = 0.0
            else:
                w[i] = -(z[i] - math.copysign(l1, z[i])) / ((beta + math.sqrt(n[i])) / alpha + l2)
            if g is not None:
                sigma = (math.sqrt(n[i] + g * g) - math.sqrt(n[i])) / alpha
                z[i] += g - sigma * w[i]
                n[i] += g * g
    for i in range(size):
        w[i] = 0.0 if abs(z[i]) <= l1 else -(z[i] - math.copysign(l1, z[i])) / ((beta + math.sqrt(n[i])) / alpha + l2)
    return w


GRADIENTS = st.lists(
    st.lists(st.one_of(st.none(), st.floats(-3, 3, width=32)), min_size=ROWS, max_size=ROWS), min_size=1, max_size=8
)


@pytest.mark.parametrize("sparse", [False, True])
@given(steps=GRADIENTS)
def test_agrees_with_the_paper(sparse, steps):
    p = nn.Parameter(torch.zeros(ROWS, 1))
    optimizer = FTRL([p], **SETTINGS)
    for gradients in steps:
        there = [i for i, g in enumerate(gradients) if g is not None]
        values = torch.tensor([[gradients[i]] for i in there]).view(-1, 1)
        index = torch.tensor([there], dtype=torch.int64)
        grad = torch.sparse_coo_tensor(index, values, (ROWS, 1), check_invariants=True)
        p.grad = grad if sparse else grad.to_dense()
        optimizer.step()
    expected = oracle(steps, ROWS, *SETTINGS.values())
    assert p.detach().squeeze(1).tolist() == pytest.approx(expected, abs=1e-4)


def test_one_step_by_hand():
    p = nn.Parameter(torch.zeros(3, 1))
    optimizer = FTRL([p], lr=0.5, beta=1.0, l1=1.0, l2=0.5)
    p.grad = torch.tensor([[3.0], [-3.0], [0.9]])
    optimizer.step()  # z = 3, -3, 0.9; n = 9: -(3 - 1) / ((1 + 3) / 0.5 + 0.5)
    assert p.detach().squeeze(1).tolist() == pytest.approx([-2 / 8.5, 2 / 8.5, 0.0])
    assert p[2] == 0


def test_repeated_rows_of_a_sparse_gradient_are_summed_first():
    moved = []
    for sparse in (True, False):
        torch.manual_seed(0)
        table = nn.Embedding(ROWS, WIDTH, padding_idx=0, sparse=sparse)
        nn.init.zeros_(table.weight)
        optimizer = FTRL(table.parameters(), lr=0.5)
        for ids in ([2, 2, 3, 0], [2, 5]):
            optimizer.zero_grad()
            (table(torch.tensor(ids)) - 1.0).square().sum().backward()
            optimizer.step()
        assert table.weight.grad.is_sparse == sparse
        moved.append(table.weight.detach())
    assert torch.allclose(*moved, atol=1e-6)
    assert (moved[0] != 0).any(1).tolist() == [False, False, True, True, False, True]


@pytest.mark.parametrize("l1", [0.0, 3.0])
def test_a_start_elsewhere_is_kept_where_nothing_pulls(l1):
    start = torch.tensor([[1.5], [-0.5], [0.0]])
    p = nn.Parameter(start.clone())
    optimizer = FTRL([p], lr=0.5, beta=1.0, l1=l1, l2=0.1)
    p.grad = torch.tensor([[0.0], [1e-6], [0.0]])
    optimizer.step()
    assert torch.equal(p[[0, 2]], start[[0, 2]])
    assert p[1].item() == pytest.approx(-0.5, abs=1e-4)


def logistic(l1, steps=300):
    """A logistic regression on 5 columns that matter and 95 that do not."""
    chance = torch.Generator().manual_seed(0)
    x = (torch.rand(2000, 100, generator=chance) < 0.3).float()
    truth = torch.zeros(100)
    truth[:5] = torch.tensor([2.0, -2.0, 1.5, -1.5, 2.5])
    y = (torch.rand(2000, generator=chance) < torch.sigmoid(x @ truth)).float()
    w = nn.Parameter(torch.zeros(100, 1))
    optimizer = FTRL([w], lr=0.3, beta=1.0, l1=l1)
    for step in range(steps):
        rows = torch.arange(step * 100, step * 100 + 100) % 2000
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits((x[rows] @ w).squeeze(1), y[rows]).backward()
        optimizer.step()
    return w.detach().squeeze(1)


def test_l1_leaves_weights_at_exactly_zero_and_keeps_those_that_matter():
    dense, sparse = logistic(0.0), logistic(4.0)
    assert (dense != 0).all()
    assert (sparse[5:] == 0).float().mean() > 0.8
    assert (sparse[:5] != 0).all()
    assert (sparse[:5].sign() == torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])).all()


def test_the_default_suits_a_mean_over_many_pairs():
    """A weight that few of 10,000 pairs have is learned in few steps."""
    w = nn.Parameter(torch.zeros(1, 1))
    optimizer = FTRL([w])
    for _ in range(20):
        optimizer.zero_grad()
        logits = torch.cat([w.expand(3, 1), torch.zeros(9997, 1)])
        nn.functional.binary_cross_entropy_with_logits(logits, torch.ones(10_000, 1)).backward()
        optimizer.step()
    assert w.item() > 0.2


def test_l2_shrinks():
    moved = []
    for l2 in (0.0, 10.0):
        p = nn.Parameter(torch.zeros(1, 1))
        optimizer = FTRL([p], l2=l2)
        p.grad = torch.ones(1, 1)
        optimizer.step()
        moved.append(p.item())
    assert moved[0] < moved[1] < 0


def test_minimises():
    target = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    p = nn.Parameter(torch.zeros(2, 2))
    optimizer = FTRL([p], lr=1.0)
    for _ in range(500):
        optimizer.zero_grad()
        (p - target).square().sum().backward()
        optimizer.step()
    assert torch.allclose(p, target, atol=1e-2)


def test_a_saved_optimizer_goes_on_as_if_nothing_happened():
    def go(p, optimizer, seed):
        chance = torch.Generator().manual_seed(seed)
        for _ in range(3):
            p.grad = torch.randn(ROWS, WIDTH, generator=chance)
            optimizer.step()

    p = nn.Parameter(torch.zeros(ROWS, WIDTH))
    optimizer = FTRL([p], **SETTINGS)
    go(p, optimizer, 1)
    disk = io.BytesIO()
    torch.save({"p": p.detach().clone(), "optimizer": optimizer.state_dict()}, disk)
    go(p, optimizer, 2)
    disk.seek(0)
    saved = torch.load(disk, weights_only=True)
    other = nn.Parameter(saved["p"])
    restored = FTRL([other], lr=9.0)
    restored.load_state_dict(saved["optimizer"])
    go(other, restored, 2)
    assert torch.equal(p, other)


def test_the_closure_runs_with_gradients():
    p = nn.Parameter(torch.zeros(1, 1))
    optimizer = FTRL([p])

    def closure():
        loss = (p - 1).square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 1.0
    assert p.item() > 0


def test_what_has_no_gradient_stays():
    p = nn.Parameter(torch.ones(1, 1))
    FTRL([p]).step()
    assert p.item() == 1.0


def test_device(device: torch.device):
    p = nn.Parameter(torch.zeros(ROWS, WIDTH, device=device))
    optimizer = FTRL([p], lr=0.5, beta=1.0)
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.allclose(p.detach().cpu(), torch.full((ROWS, WIDTH), -1 / 4.0))
