"""A retriever that starts from an earlier one: rows by id, the rest as it was, new ids as if nothing were known."""

from dataclasses import replace

import pytest
import torch

from recsys.config.schema import ModelConfig, TrainingConfig
from recsys.data.log import DAY
from recsys.data.moments import moments_of
from recsys.errors import ConfigError
from recsys.training.fit import make_model, start_from_log
from recsys.training.warm import WarmStart, id_tables, start_warm
from tests.training.conftest import START
from tests.training.test_fit import MODEL, TRAINING, fit

CUT = START + 60 * DAY
SAME = {"item_id": 34, "brand": 6, "words": 20, "user_id": 26, "store": 5, "clock": 45}
"""Rows of the tables of the little shop."""


def unchanged(model, **changed: torch.Tensor) -> WarmStart:
    """What a model has learned, every id being what it was."""
    rows = {name: torch.arange(size) for name, size in SAME.items()}
    return WarmStart("yesterday", CUT, dict(model.state_dict()), rows | changed)


def made(little, seed: int, config: ModelConfig = MODEL):
    torch.manual_seed(seed)
    model = make_model(little.inputs, ["store", "clock"], config, sparse=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def test_every_table_is_of_a_feature(little) -> None:
    model = made(little, 0)
    tables = dict(id_tables(model))
    assert set(tables.values()) == set(SAME)
    embeddings = {n for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, torch.nn.Embedding)}
    assert {f"{name}.table" for name in tables} == {name for name in embeddings if "fold_in" not in name}
    for name, feature in tables.items():
        assert len(model.get_submodule(name).table.weight) == SAME[feature]


@pytest.mark.parametrize("use_ids", [True, False], ids=["all", "content_only"])
def test_with_the_same_ids_it_is_the_same_model(little, use_ids) -> None:
    config = replace(MODEL, use_ids=use_ids)
    old, new = made(little, 0, config), made(little, 1, config)
    factors = new.fold_in.factors.weight.clone()
    taken = start_warm(new, unchanged(old))
    for name, tensor in new.state_dict().items():
        assert ("fold_in" in name) or torch.equal(tensor, old.state_dict()[name]), name
    assert torch.equal(new.fold_in.factors.weight, factors)  # of today
    tables = {name: size for name, size in SAME.items() if use_ids or name not in ("item_id", "user_id")}
    assert taken >= sum(tables.values()) - 2 * len(tables)


def test_rows_go_by_id_and_new_ones_stay(little) -> None:
    """Items 5 and 9 change places, 7 is gone, and so its place is a new item's."""
    old, new = made(little, 0), made(little, 1)
    rows = torch.arange(34)
    rows[[5, 9, 7]] = torch.tensor([9, 5, 1])
    fresh = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    start_warm(new, unchanged(old, item_id=rows))
    for name in ("encoder.code", "encoder.id_embedding", "item_tower.prior"):
        key = f"{name}.table.weight"
        now, before = new.state_dict()[key], old.state_dict()[key]
        assert torch.equal(now[[9, 5]], before[[5, 9]])
        assert torch.equal(now[7], fresh[key][7])
        others = [n for n in range(34) if n not in (5, 7, 9)]
        assert torch.equal(now[others], before[others])


def test_only_what_came_since_is_trained_on(little, tmp_path) -> None:
    old = fit(little, tmp_path / "old", epochs=1).model
    fit(little, tmp_path / "new", epochs=1, warm=unchanged(old))
    steps = [torch.load(tmp_path / part / "last.ckpt", weights_only=True)["global_step"] for part in ("old", "new")]
    moments = moments_of(little.log)
    since = int((moments.time >= CUT).sum())
    assert 0 < since < len(moments)
    # So few moments make smaller batches, to a quarter, but not for a model that is fitted already.
    assert steps == [len(moments) // (TRAINING.batch_moments // 4), since // TRAINING.batch_moments]


def test_it_begins_where_the_earlier_one_stopped(little, tmp_path) -> None:
    training = TrainingConfig(batch_moments=48, negatives=16, max_epochs=1, learning_rate=1e-12)
    training = replace(training, embedding_learning_rate=1e-12, weight_decay=0.0)
    old = fit(little, tmp_path / "old", epochs=2).model
    warm = fit(little, tmp_path / "new", training=training, epochs=1, seed=5, warm=unchanged(old)).model
    cold = fit(little, tmp_path / "cold", training=training, epochs=1, seed=5).model
    state = {name: tensor for name, tensor in old.state_dict().items() if "fold_in" not in name}
    for name, tensor in state.items():
        torch.testing.assert_close(warm.state_dict()[name], tensor, atol=1e-6, rtol=1e-5)
    assert any(not torch.allclose(cold.state_dict()[name], tensor, atol=1e-3) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (replace(MODEL, width=16), r"'encoder.id_embedding.table.weight' is \[34, 8\] there and \[34, 16\] here"),
        (replace(MODEL, use_ids=False), "init_from=yesterday: a model of other features or sizes"),
        (replace(MODEL, use_content=False), "is in the earlier model alone"),
    ],
)
def test_another_model_is_refused(little, config, expected) -> None:
    with pytest.raises(ConfigError, match=expected):
        start_warm(made(little, 1, config), unchanged(made(little, 0)))


def test_priors_of_new_items_are_what_the_log_says(little) -> None:
    old, new = made(little, 0), made(little, 1)
    start_from_log(new, little.log, little.tables, MODEL, 0)
    prior = new.item_tower.prior.table.weight.detach().clone()
    gone = torch.arange(34)
    gone[20:] = 1
    start_warm(new, unchanged(old, item_id=gone))
    assert torch.equal(new.item_tower.prior.table.weight[20:], prior[20:])
