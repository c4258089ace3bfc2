import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from recsys.training.optimizers import RowwiseAdagrad, retriever_optimizer

ROWS, WIDTH = 7, 3


class Model(nn.Module):
    """A table behind a matrix."""

    def __init__(self, sparse=False):
        super().__init__()
        self.table = nn.Embedding(ROWS, WIDTH, padding_idx=0, sparse=sparse)
        self.linear = nn.Linear(WIDTH, 2)

    def forward(self, ids):
        return self.linear(self.table(ids)).square().sum()


def make(sparse=False, seed=0):
    torch.manual_seed(seed)
    model = Model(sparse)
    return model, retriever_optimizer(model, lr=0.01, embedding_lr=0.1, weight_decay=0.1)


def train(model, optimizer, batches, schedule=None):
    for ids in batches:
        optimizer.zero_grad()
        model(torch.tensor(ids)).backward()
        optimizer.step()
        if schedule:
            schedule.step()


def test_rowwise_adagrad_by_hand():
    p = nn.Parameter(torch.tensor([[1.0, 1.0], [2.0, 2.0]]))
    optimizer = RowwiseAdagrad([p], lr=0.1)
    p.grad = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    optimizer.step()  # the row's mean square is 12.5
    assert torch.allclose(p[0], 1 - 0.1 * torch.tensor([3.0, 4.0]) / math.sqrt(12.5))
    assert p[1].tolist() == [2.0, 2.0]
    before = p.detach().clone()
    p.grad = torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    optimizer.step()  # 12.5 + 1 and 2
    assert torch.allclose(p[0], before[0] - 0.1 * torch.tensor([1.0, 1.0]) / math.sqrt(13.5))
    assert torch.allclose(p[1], before[1] - 0.1 * torch.tensor([0.0, 2.0]) / math.sqrt(2))


IDS = st.lists(st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=6), min_size=1, max_size=5)


@given(batches=IDS)
def test_sparse_and_dense_gradients_move_alike_and_as_numpy_says(batches):
    (sparse, _), (dense, _) = make(sparse=True), make(sparse=False)
    optimizers = [RowwiseAdagrad([m.table.weight], lr=0.1, eps=1e-8) for m in (sparse, dense)]
    table, total = dense.table.weight.detach().numpy().astype(np.float64), np.zeros(ROWS)
    for ids in batches:
        for model, optimizer in zip((sparse, dense), optimizers, strict=True):
            optimizer.zero_grad()
            model(torch.tensor(ids)).backward()
            optimizer.step()
        matrix, bias = (p.detach().numpy() for p in (dense.linear.weight, dense.linear.bias))
        gradient = np.zeros_like(table)
        for row in ids:
            if row != 0:  # padding learns nothing
                gradient[row] += 2 * (matrix @ table[row] + bias) @ matrix
        total += (gradient**2).mean(1)
        table = table - 0.1 * gradient / (np.sqrt(total) + 1e-8)[:, None]
    assert sparse.table.weight.grad.is_sparse
    assert not dense.table.weight.grad.is_sparse
    assert torch.allclose(sparse.table.weight, dense.table.weight, atol=1e-6)
    np.testing.assert_allclose(dense.table.weight.detach().numpy(), table, atol=1e-5)


@pytest.mark.parametrize("sparse", [True, False])
def test_untouched_rows_do_not_move(sparse):
    model, optimizer = make(sparse)
    before = model.table.weight.detach().clone()
    train(model, optimizer, [[2, 5], [5, 0]])
    moved = (model.table.weight != before).any(1).tolist()
    assert moved == [False, False, True, False, False, True, False]


def test_everything_but_tables_is_adamw():
    model, optimizer = make()
    other, _ = make()
    adamw = torch.optim.AdamW(other.linear.parameters(), lr=0.01, weight_decay=0.1)
    adagrad = RowwiseAdagrad([other.table.weight], lr=0.1)
    for ids in ([1, 2], [3], [2, 2, 6]):
        train(model, optimizer, [ids])
        other.zero_grad()
        other(torch.tensor(ids)).backward()
        adamw.step()
        adagrad.step()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_every_parameter_has_one_place():
    model, optimizer = make()
    placed = [p for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, placed)) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize("sparse", [True, False])
def test_a_saved_optimizer_goes_on_as_if_nothing_happened(sparse):
    model, optimizer = make(sparse)
    train(model, optimizer, [[1, 2], [2, 3]])
    disk = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, disk)
    train(model, optimizer, [[2, 4], [3]])

    other, restored = make(sparse, seed=9)
    disk.seek(0)
    saved = torch.load(disk, weights_only=True)
    other.load_state_dict(saved["model"])
    restored.load_state_dict(saved["optimizer"])
    train(other, restored, [[2, 4], [3]])
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_schedule_moves_both_learning_rates_also_after_a_restore():
    model, optimizer = make()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    assert [part.param_groups[0]["lr"] for part in optimizer.parts] == [0.1, 0.01]
    train(model, optimizer, [[1], [2], [3]], schedule)
    assert [part.param_groups[0]["lr"] for part in optimizer.parts] == [0.1 / 4, 0.01 / 4]

    other, restored = make()
    again = torch.optim.lr_scheduler.LambdaLR(restored, lambda step: 1 / (1 + step))
    restored.load_state_dict(optimizer.state_dict())
    again.load_state_dict(schedule.state_dict())
    train(other, restored, [[1]], again)
    assert [part.param_groups[0]["lr"] for part in restored.parts] == pytest.approx([0.1 / 5, 0.01 / 5])


def test_the_learning_rate_is_the_one_used():
    model, optimizer = make()
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    before = [p.detach().clone() for p in model.parameters()]
    train(model, optimizer, [[1, 2, 3]])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_the_closure_runs_once_and_with_gradients():
    model, optimizer = make()
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = model(torch.tensor([1, 2]))
        loss.backward()
        calls.append(loss)
        return loss

    before = model.linear.weight.detach().clone()
    assert optimizer.step(closure) is calls[0]
    assert len(calls) == 1
    assert not torch.equal(before, model.linear.weight)


def test_gradients_are_cleared_in_both_parts():
    model, optimizer = make()
    model(torch.tensor([1])).backward()
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_device(device: torch.device):
    moved = []
    for place in ("cpu", device):
        model, _ = make(sparse=True)
        model.to(place)
        optimizer = retriever_optimizer(model, lr=0.01, embedding_lr=0.1, weight_decay=0.1)
        for ids in ([1, 2], [2, 3, 3]):
            optimizer.zero_grad()
            model(torch.tensor(ids, device=place)).backward()
            optimizer.step()
        moved.append([p.detach().cpu() for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*moved, strict=True))
