from dataclasses import replace

import pytest
import torch

from recsys.data.asof import ItemClock
from recsys.data.batches import MomentBatches
from recsys.data.tables import requests_as_of
from recsys.models.tower_shape import TowerShape
from recsys.models.two_tower import TwoTower
from recsys.training import task
from recsys.training.optimizers import retriever_optimizer
from recsys.training.task import LearningRates, RetrieverTask, embed_items, retrieval_loss
from tests.models.trained import BOUNDS, TOWERS

HISTORY = 6
WITHOUT_CHANCE = dict.fromkeys(("dropout", "id_dropout", "user_id_dropout", "history_dropout", "context_dropout"), 0.0)


def make(little, seed=0, trained=True, **changes):
    torch.manual_seed(seed)
    shape = TowerShape(**(TOWERS | {"width": 8, "hidden": 16, "heads": 2} | changes))
    model = TwoTower(little.inputs, shape, ["store", "clock"], 0.07, BOUNDS)
    if trained:
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape) * 0.2)
            for module in model.modules():
                if isinstance(module, torch.nn.Embedding):
                    module.weight[0] = 0.0
    return model


def batches_of(log, **changes):
    settings = {"history": HISTORY, "batch_moments": 40, "moments_per_block": 8, "negatives": 10, "seed": 1}
    return MomentBatches(log, **(settings | changes))


@pytest.fixture
def compared(monkeypatch):
    """What the loss compares: the queries and the candidates, as they reach the softmax."""
    seen = []

    def record(query, candidate, *rest):
        seen.append((query, candidate, *rest))
        return query.sum() + candidate.sum()

    monkeypatch.setattr(task, "sampled_softmax", record)
    return seen


@pytest.mark.parametrize("moments_per_block", [1, 8])
@torch.no_grad()
def test_training_sees_what_serving_sees(little, compared, moments_per_block):
    """A moment's query is that of a request at the moment's time, and a candidate is the item as of the batch's cut."""
    model = make(little).eval()
    events = len(little.log)
    no_context = replace(little.tables, context=little.tables.no_context(events))
    batches = batches_of(little.log, moments_per_block=moments_per_block)
    checked = 0
    for batch in batches:
        retrieval_loss(model, batch, no_context, batches)
        query, candidate = compared.pop()[:2]
        rows = batch.items[batch.candidates]
        state = ItemClock(little.log).state(rows, int(batch.as_of))
        assert torch.allclose(candidate, model.item_tower(little.tables.items(rows) | state), atol=1e-5)
        for row in range(0, len(batch.user), 3):
            time = int(little.log.time[batch.event[row]])
            request = requests_as_of(little.log, no_context, batch.user[row : row + 1], time, HISTORY)
            assert torch.allclose(query[row], model.user_tower(request)[0], atol=1e-5)
            checked += 1
    assert checked > 50


@torch.no_grad()
def test_training_sees_the_context_of_the_moment(little, compared):
    model = make(little).eval()
    batches = batches_of(little.log)
    batch = next(iter(batches))
    retrieval_loss(model, batch, little.tables, batches)
    query = compared.pop()[0]
    time = int(little.log.time[batch.event[0]])
    request = requests_as_of(little.log, little.tables, batch.user[:1], time, HISTORY)
    assert not torch.allclose(query[0], model.user_tower(request)[0], atol=1e-3)
    request |= {name: values[batch.event[:1]] for name, values in little.tables.context.items()}
    assert torch.allclose(query[0], model.user_tower(request)[0], atol=1e-5)


@torch.no_grad()
def test_positives_are_what_was_bought(little, compared):
    model = make(little).eval()
    batches = batches_of(little.log)
    for batch in batches:
        retrieval_loss(model, batch, little.tables, batches)
        _, candidate, temperature, log_q, query_of, candidate_of, weight = compared.pop()
        assert weight is None
        assert temperature.item() == model.temperature.item()
        assert log_q.shape == (len(batch.user), len(candidate))
        assert (log_q <= 0).all()
        assert log_q.isfinite().all()
        bought = batch.items[batch.candidates][candidate_of]
        block = batch.slot // batch.visible.size(1)
        for row in range(len(batch.user)):  # what its own block brought in is in the sample with certainty
            near = block[query_of] == block[row]
            certain = torch.zeros(len(candidate), dtype=torch.bool)
            certain[candidate_of[near]] = True
            assert (log_q[row, certain] == 0).all()
            assert (log_q[row, ~certain] < 0).all()
        for row in range(len(batch.user)):
            basket = little.log.basket == little.log.basket[batch.event[row]]
            assert set(bought[query_of == row].tolist()) == set(little.log.item[basket & little.log.relevant].tolist())


def test_loss_falls_and_every_weight_learns(little, device: torch.device):
    model = make(little, trained=False, **WITHOUT_CHANCE).to(device)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    batches, tables = batches_of(little.log.to(device)), little.tables.to(device)
    optimizer = retriever_optimizer(model, lr=1e-2, embedding_lr=0.1, weight_decay=0.0)
    losses = []
    for _ in range(4):
        for batch in batches:
            optimizer.zero_grad()
            loss = retrieval_loss(model, batch, tables, batches)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    epoch = len(batches)
    assert sum(losses[-epoch:]) < 0.9 * sum(losses[:epoch])
    still = {n for n, p in model.named_parameters() if p.requires_grad and torch.equal(p, before[n])}
    assert still == {"item_tower.popularity.missing"}  # popularity is never missing


@pytest.mark.parametrize(
    ("inputs", "shape"),
    [({}, {}), ({"item": ()}, {}), ({"user": ()}, {}), ({}, {"use_content": False}), ({}, {"use_ids": False})],
    ids=["all", "items without attributes", "neither users' features nor context", "id_only", "content_only"],
)
def test_every_trained_parameter_gets_a_gradient(little, inputs, shape):
    """Processes that train together wait for one of each: without, their fit is refused at its second step."""
    model = make(replace(little, inputs=replace(little.inputs, **inputs)), **shape)
    batches = batches_of(little.log)
    task = RetrieverTask(model, batches, little.tables, LearningRates(0.01, 0.1, 0.1, total_steps=10))
    retrieval_loss(model, next(iter(batches)), little.tables, batches).backward()
    before = {name: p.detach().clone() for name, p in task.named_parameters()}
    configured = task.configure_optimizers()
    configured["optimizer"].step()
    for name, p in task.named_parameters():
        assert p.requires_grad == (p.grad is not None), name
        assert p.requires_grad or p.equal(before[name]), name


def test_padding_never_learns(little):
    model = make(little, trained=False)
    batches = batches_of(little.log)
    optimizer = retriever_optimizer(model, lr=1e-2, embedding_lr=0.1, weight_decay=0.1)
    for batch in batches:
        optimizer.zero_grad()
        retrieval_loss(model, batch, little.tables, batches).backward()
        optimizer.step()
    embeddings = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    assert len(embeddings) >= 6
    assert not any(e.weight[0].any() for e in embeddings)


@pytest.mark.gpu
def test_loss_on_cuda_is_the_loss_on_cpu(little):
    losses, gradients = [], []
    for place in ("cpu", "cuda"):
        model = make(little, **WITHOUT_CHANCE).to(place)
        batches = batches_of(little.log.to(place))
        loss = retrieval_loss(model, next(iter(batches)), little.tables.to(place), batches)
        loss.backward()
        losses.append(loss.item())
        gradients.append({n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None})
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradients[1][name], gradient, rtol=1e-2, atol=1e-4), name


@pytest.mark.gpu
def test_half_precision_step_on_cuda(little):
    model = make(little, trained=False).cuda()
    batches, tables = batches_of(little.log.to("cuda")), little.tables.to("cuda")
    optimizer = retriever_optimizer(model, lr=1e-3, embedding_lr=0.05, weight_decay=0.0)
    for batch in batches:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = retrieval_loss(model, batch, tables, batches)
        loss.backward()
        optimizer.step()
        assert loss.dtype == torch.float32
        assert loss.isfinite()
    assert all(p.isfinite().all() for p in model.parameters())


@torch.no_grad()
def test_half_precision_is_near_full_precision(little):
    model = make(little).eval()
    batches = batches_of(little.log)
    batch = next(iter(batches))
    full = retrieval_loss(model, batch, little.tables, batches)
    with torch.autocast("cpu", torch.bfloat16):
        half = retrieval_loss(model, batch, little.tables, batches)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(full.item(), rel=0.05)


@torch.no_grad()
def test_catalogue_embedding_does_not_depend_on_chunks(little):
    model, clock = make(little).eval(), ItemClock(little.log)
    whole = embed_items(model, little.tables, clock, little.cut)
    assert len(whole) == little.log.n_items
    assert torch.allclose(embed_items(model, little.tables, clock, little.cut, chunk=5), whole, atol=1e-6)
    rows = torch.tensor([31, 4])
    alone = model.item_tower(little.tables.items(rows) | clock.state(rows, little.cut))
    assert torch.allclose(whole[rows], alone, atol=1e-6)


def test_learning_rates_fall_to_a_twentieth(little):
    model, batches = make(little), batches_of(little.log)
    module = RetrieverTask(model, batches, little.tables, LearningRates(0.01, 0.1, 0.0, total_steps=10))
    configured = module.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in range(12):
        rates.append(sorted(group["lr"] for group in optimizer.param_groups))
        optimizer.step()
        schedule.step()
    assert rates[0] == [0.01, 0.1]
    assert rates[5] == pytest.approx([0.005, 0.05])
    assert rates[11] == pytest.approx([0.01 / 20, 0.1 / 20])
