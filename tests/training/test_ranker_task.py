import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from recsys.config.schema import RankerTrainingConfig
from recsys.data.pair_batches import PairBatch, PairBatches
from recsys.models.ranking_losses import lambda_rank
from recsys.models.transforms import fit_numeric
from recsys.models.wide import Cross, IdInput
from recsys.models.wide_deep import RankerInputs, RankerShape, WideDeep
from recsys.training.ftrl import FTRL
from recsys.training.optimizers import RowwiseAdagrad
from recsys.training.ranker_task import RankerTask, ranker_loss, ranker_optimizer
from tests.models.trained import RANKER

IDS = (IdInput("item_id", 12), IdInput("brand", 6))
PRICE = torch.arange(24).float()
FEATURES = {"item_id": torch.arange(24) % 10 + 2, "brand": torch.arange(24) % 4 + 2, "price": PRICE}
HISTORIES = {
    "request": torch.arange(24) // 6,
    "history/item_id": torch.arange(8).view(4, 2) + 2,
    "history/age": torch.ones(4, 2),
}


def make(tasks=1, history=(), **shape):
    torch.manual_seed(0)
    inputs = RankerInputs(IDS, (fit_numeric("price", PRICE),), (Cross(("item_id", "brand"), 32),), history)
    return WideDeep(inputs, RankerShape(**(RANKER | {"width": 4, "hidden": (8,)} | shape)), [0.2] * tasks)


def batches_of(model, features=FEATURES):
    labels = torch.stack([PRICE.remainder(3).eq(t).float() for t in range(len(model.base_rates))], 1)
    rest = (part.to(model.bias.device) for part in (labels, torch.ones(24), torch.arange(24) // 6))
    return PairBatches(model.encode(features), *rest, batch_groups=2)


def test_the_first_task_has_the_loss_of_choice_and_the_others_cross_entropy():
    """Two groups of two pairs; logits 0 and about log 3."""
    batch = PairBatch(
        encoded={},
        labels=torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0]]),
        weights=torch.tensor([1.0, 4.0, 2.0, 1.0]),
        group=torch.tensor([0, 0, 1, 1]),
        n_groups=2,
        samples=torch.tensor([0, 1]),
    )
    alone = replace(batch, labels=batch.labels[:, :1])
    x = math.log(3)
    first = torch.tensor([0.0, x, 0.0, x], dtype=torch.bfloat16).float()
    x = first[1].item()
    low, high = math.log1p(math.exp(-x)), math.log1p(math.exp(x))  # of a positive, of a negative
    bce = (math.log(2) + 4 * high + 2 * math.log(2) + low) / 8
    # e^0 against e^0 + 4 e^x, and e^x against 2 e^0 + e^x
    listwise = (math.log(1 + 4 * math.exp(x)) + math.log(2 + math.exp(x)) - x) / 2
    lambdas = lambda_rank(first, batch.labels[:, 0], batch.group, 2).item()
    other = math.log(2)  # of logits 0, whatever the labels and the weights
    for kind, expected in {"bce": bce, "listwise": listwise, "lambda_rank": lambdas}.items():
        assert ranker_loss(first, alone, kind).item() == pytest.approx(expected, rel=1e-5)
        both = torch.stack([first, torch.zeros(4)], 1)
        assert ranker_loss(both, batch, kind).item() == pytest.approx((expected + other) / 2, rel=1e-5)
        half = ranker_loss(both.bfloat16(), batch, kind)
        assert half.dtype == torch.float32
        assert half.item() == pytest.approx((expected + other) / 2, rel=1e-5)
    second = torch.stack([torch.zeros(4), first], 1)  # weights count for it as well
    expected = (math.log(2) + 4 * low + 2 * math.log(2) + low) / 8
    assert ranker_loss(second, batch, "bce").item() == pytest.approx((math.log(2) + expected) / 2, rel=1e-5)


@pytest.mark.parametrize("shape", [{}, {"use_deep": False}, {"use_wide": False}], ids=["both", "wide", "deep"])
def test_every_part_has_its_optimizer_and_the_wide_rate_stays(shape):
    model = make(**shape)
    training = RankerTrainingConfig(
        max_epochs=5, learning_rate=0.01, embedding_learning_rate=0.1, wide_learning_rate=0.3, wide_l1=0.7
    )
    task = RankerTask(model, batches_of(model), training)
    configured = task.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["interval"] == "step"
    start = {"wide": (FTRL, 0.3), "tables": (RowwiseAdagrad, 0.1), "rest": (torch.optim.AdamW, 0.01)}
    if not model.use_wide:
        del start["wide"]
    if not model.use_deep:
        del start["tables"]
    assert [(type(p), p.param_groups[0]["lr"]) for p in optimizer.parts] == list(start.values())
    if model.use_wide:
        assert optimizer.parts[0].param_groups[0]["l1"] == 0.7
    placed = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(placed) == sorted(map(id, (*model.wide_parameters(), *model.deep_parameters())))
    if model.use_deep:
        tables = {id(part.table.weight) for part in model.deep.embeddings}
        assert {id(p) for p in optimizer.parts[-2].param_groups[0]["params"]} == tables

    rates = []
    for _ in range(13):  # two batches an epoch
        rates.append([part.param_groups[0]["lr"] for part in optimizer.parts])
        optimizer.step()
        schedule.step()
    for step, share in ((0, 1.0), (5, 0.5), (9, 0.1), (10, 0.02), (12, 0.02)):
        assert rates[step] == pytest.approx([lr if part == "wide" else lr * share for part, (_, lr) in start.items()])


def test_adagrad_may_move_every_part():
    model = make()
    training = RankerTrainingConfig(wide_optimizer="adagrad", deep_optimizer="adagrad", wide_learning_rate=0.3)
    parts = ranker_optimizer(model, training).parts
    assert [type(part) for part in parts] == [RowwiseAdagrad, RowwiseAdagrad, torch.optim.Adagrad]
    assert parts[0].param_groups[0]["lr"] == 0.3


@pytest.mark.parametrize("history", [(), ("item_id",)])
@pytest.mark.parametrize("shape", [{}, {"use_deep": False}, {"use_wide": False}], ids=["both", "wide", "deep"])
def test_what_can_be_trained_gets_a_gradient(shape, history):
    """Processes that train together wait for the gradients of all that can be trained."""
    model = make(history=history, id_dropout=0.0, **shape)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    features = FEATURES | (HISTORIES if history else {})
    batches = batches_of(model, features)
    task = RankerTask(model, batches, RankerTrainingConfig())
    batch = next(iter(batches))
    ranker_loss(model.score(batch.encoded), batch, "bce").backward()
    trained = {name for name, p in task.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in task.named_parameters() if p.grad is not None}
    assert "model.bias" in trained
    assert ("model.wide.table.weight" in trained) == model.use_wide
    assert ("model.deep.mlp.0.weight" in trained) == model.use_deep
    assert ("model.deep.attention.of_product" in trained) == (model.use_deep and bool(history))


@pytest.mark.parametrize("kind", ["bce", "listwise", "lambda_rank"])
def test_padding_stays_zero_and_half_precision_is_near(kind):
    model = make(tasks=2).train()
    batches = batches_of(model)
    training = RankerTrainingConfig(loss=kind)
    task = RankerTask(model, batches, training)
    optimizer = ranker_optimizer(model, training)
    for batch in batches:
        optimizer.zero_grad()
        ranker_loss(model.score(batch.encoded), batch, kind).backward()
        optimizer.step()
    embeddings = [m for m in task.modules() if isinstance(m, nn.Embedding) and m.padding_idx == 0]
    assert len(embeddings) == 3
    assert not any(e.weight[0].any() for e in embeddings)
    assert all(e.weight.any() for e in embeddings)
    model.eval()
    with torch.no_grad():
        full = ranker_loss(model.score(batch.encoded), batch, kind)
        with torch.autocast("cpu", torch.bfloat16):
            half = ranker_loss(model.score(batch.encoded), batch, kind)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(full.item(), rel=0.02)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["bce", "listwise", "lambda_rank"])
def test_half_precision_step_on_cuda(kind):
    model = make(tasks=2, history=("item_id",), sparse_rows=8).cuda()
    batches = batches_of(model, {name: values.cuda() for name, values in (FEATURES | HISTORIES).items()})
    optimizer = ranker_optimizer(model, RankerTrainingConfig())
    before = [p.detach().clone() for p in model.wide_parameters()]
    for batch in batches:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = ranker_loss(model.score(batch.encoded), batch, kind)
        loss.backward()
        optimizer.step()
        assert loss.dtype == torch.float32
        assert loss.isfinite()
    assert all(p.isfinite().all() for p in model.parameters())
    assert not any(a.equal(b) for a, b in zip(before, model.wide_parameters(), strict=True))
