import logging
import warnings
from dataclasses import replace

import pytest
import pytorch_lightning as lightning
import torch

from recsys.config.schema import ModelConfig, ObjectiveConfig, TrainingConfig
from recsys.data.asof import ItemClock
from recsys.data.log import DAY
from recsys.data.tables import requests_as_of
from recsys.features import OOV_ID
from recsys.models.history import FAST
from recsys.models.two_tower import GAIN, TwoTower
from recsys.training.epochs import Fitted
from recsys.training.fit import fit_retriever, make_model, start_factors, start_from_log
from recsys.training.task import embed_items
from tests.training.fitting import equal, scripted, trainer_on

MODEL = ModelConfig(width=8, code_width=8, hidden=16, heads=2, history=12, factor_width=6)
WITHOUT_CHANCE = dict.fromkeys(("dropout", "id_dropout", "user_id_dropout", "history_dropout", "context_dropout"), 0.0)
TRAINING = TrainingConfig(batch_moments=48, negatives=16, max_epochs=3, patience=1, learning_rate=1e-2)
OBJECTIVE = ObjectiveConfig("val/ndcg_at_20", "max")


def fit(little, folder, *, model=MODEL, training=TRAINING, seed=0, trainer_of=None, **arguments) -> Fitted[TwoTower]:
    trainer_of = trainer_of or trainer_on("cpu")
    return fit_retriever(
        log=little.log,
        tables=little.tables,
        eligible=torch.ones(little.log.n_items, dtype=torch.bool),
        inputs=little.inputs,
        model_config=model,
        training=training,
        trainer_of=trainer_of,
        folder=folder,
        seed=seed,
        **arguments,
    )


def recall(little, model, k=8):
    """Share of what users bought after the cut that stands among their first k."""
    users = little.future.user.unique()
    request = requests_as_of(little.log, little.tables, users, little.cut, MODEL.history)
    with torch.no_grad():
        items = embed_items(model, little.tables, ItemClock(little.log), little.cut)
        top = (model.user_tower(request) @ items.T).topk(k).indices
    hits = [
        int(i) in top[(users == u).nonzero().item()]
        for u, i in zip(little.future.user, little.future.item, strict=True)
    ]
    return sum(hits) / len(hits)


def test_fit_learns_what_the_shop_is_about(little, tmp_path):
    fitted = fit(little, tmp_path, epochs=6, training=TrainingConfig(batch_moments=48, negatives=16, max_epochs=6))
    assert recall(little, fitted.model) > 0.5  # four brands of eight items: a guess finds a quarter
    assert (fitted.epochs, fitted.results) == (6, ())
    assert fitted.best != fitted.best  # NaN: nothing was validated
    assert not fitted.model.training


def test_best_epoch_is_kept_and_fitting_stops(little, tmp_path):
    seen = []
    training = TrainingConfig(batch_moments=48, negatives=16, max_epochs=6, patience=1)
    fitted = fit(
        little, tmp_path, training=training, objective=OBJECTIVE, validate=scripted([0.1, 0.3, 0.2, 0.9], seen)
    )
    assert [found[OBJECTIVE.metric] for found in fitted.results] == [0.1, 0.3, 0.2]
    assert fitted.epochs == 2
    assert fitted.best == pytest.approx(0.3)
    state = fitted.model.state_dict()
    assert all(torch.equal(state[name], seen[1][name]) for name in state)
    assert any(not torch.equal(state[name], seen[2][name]) for name in state)
    assert not fitted.model.training


def test_the_objective_may_be_minimised(little, tmp_path):
    objective = ObjectiveConfig("val/ndcg_at_20", "min")
    fitted = fit(little, tmp_path, objective=objective, validate=scripted([0.3, 0.2, 0.4]))
    assert (fitted.epochs, fitted.best) == (2, pytest.approx(0.2))


def test_the_last_epoch_may_be_the_best(little, tmp_path):
    fitted = fit(little, tmp_path, objective=OBJECTIVE, validate=scripted([0.1, 0.2, 0.3]))
    assert (fitted.epochs, [found[OBJECTIVE.metric] for found in fitted.results]) == (3, [0.1, 0.2, 0.3])


def test_same_seed_same_numbers(little, tmp_path):
    losses, models = [], []
    for i, seed in enumerate((0, 0, 1)):
        fitted = fit(little, tmp_path / str(i), seed=seed, epochs=2)
        models.append(fitted.model)
        losses.append(recall(little, fitted.model))
        torch.rand(i + 1)  # whatever happened before does not matter
    assert equal(models[0], models[1])
    assert losses[0] == losses[1]
    assert not equal(models[0], models[2])


def test_refit_for_the_chosen_epochs_follows_the_same_schedule(little, tmp_path):
    """Fitting for the chosen number of epochs gives the model that validation saw, when the window is the same."""
    seen = []
    fitted = fit(little, tmp_path / "choose", objective=OBJECTIVE, validate=scripted([0.1, 0.3, 0.2], seen))
    again = fit(little, tmp_path / "refit", epochs=fitted.epochs)
    assert again.epochs == 2
    assert equal(again.model, fitted.model)


def test_a_fit_goes_on_from_its_checkpoint(little, tmp_path):
    model = ModelConfig(**(vars(MODEL) | WITHOUT_CHANCE))
    training = TrainingConfig(batch_moments=48, negatives=16, max_epochs=4, patience=9)
    values = [0.1, 0.4, 0.3, 0.2]
    arguments = {"model": model, "training": training, "objective": OBJECTIVE}
    whole = fit(little, tmp_path / "whole", validate=scripted(values), **arguments)

    def interrupted(values):
        validate, calls = scripted(values), []

        def stop_in_the_fourth_epoch(model):
            calls.append(1)
            if len(calls) == 4:
                raise InterruptedError
            return validate(model)

        return stop_in_the_fourth_epoch

    with pytest.raises(InterruptedError):
        fit(little, tmp_path / "parts", validate=interrupted(values), **arguments)
    resumed = fit(
        little,
        tmp_path / "parts",
        validate=scripted(values[3:]),
        ckpt_path=str(tmp_path / "parts/last.ckpt"),
        **arguments,
    )
    assert resumed.results == whole.results
    assert [found[OBJECTIVE.metric] for found in resumed.results] == values
    assert (resumed.epochs, resumed.best) == (whole.epochs, whole.best) == (2, pytest.approx(0.4))
    assert equal(resumed.model, whole.model)
    last = [torch.load(tmp_path / part / "last.ckpt", weights_only=True)["state_dict"] for part in ("whole", "parts")]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])


def test_checkpoints_hold_tensors_and_plain_types_only(little, tmp_path):
    fit(little, tmp_path, epochs=1)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert {"state_dict", "optimizer_states", "lr_schedulers", "epoch"} <= saved.keys()


@pytest.mark.parametrize("variant", [{"use_ids": False}, {"use_content": False}], ids=["content_only", "id_only"])
def test_variants_are_fitted_too(little, tmp_path, variant):
    fitted = fit(little, tmp_path, model=ModelConfig(**(vars(MODEL) | variant)), epochs=2)
    assert all(value.isfinite().all() for value in fitted.model.state_dict().values())
    assert recall(little, fitted.model) > 0.25


def test_loss_and_temperature_are_logged(little, tmp_path):
    class Count(lightning.Callback):
        epochs = 0

        def on_train_epoch_end(self, trainer, pl_module):
            self.epochs += 1
            assert "train/loss" in trainer.callback_metrics
            assert 0.02 <= trainer.callback_metrics["train/temperature"] <= 1

    count = Count()

    def trainer_of(callbacks, **settings):
        return trainer_on("cpu")(callbacks=[*callbacks, count], **settings)

    fit(little, tmp_path, epochs=2, trainer_of=trainer_of)
    assert count.epochs == 2


def test_factors_are_fitted_again_and_nothing_else_moves(little):
    torch.manual_seed(0)
    model = make_model(little.inputs, list(little.tables.context), MODEL, sparse=True)
    start_from_log(model, little.log, little.tables, MODEL, 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    early = little.log.between(None, int(little.log.time.median()))
    start_factors(model, early, little.tables, MODEL, 0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all("fold_in" in name for name in changed)


@pytest.mark.parametrize(("share", "start"), [(0.0, 0.1), (0.005, 0.1), (0.03, 0.25), (0.06, 1.0), (0.9, 1.0)])
def test_codes_start_as_loud_as_users_repeat(little, tmp_path, share, start):
    still = replace(TRAINING, learning_rate=0.0, embedding_learning_rate=0.0)
    known = replace(little, tables=replace(little.tables, repeat_share=share))
    tower = fit(known, tmp_path, epochs=1, training=still).model.user_tower
    assert float(((tower.gain * FAST).exp() / tower.temperature()).detach()) == pytest.approx(start * GAIN, rel=1e-4)


def test_where_items_come_and_go_the_latest_popularity_is_what_a_model_starts_from(little):
    model = make_model(little.inputs, list(little.tables.context), MODEL, sparse=True)
    start_from_log(model, little.log, replace(little.tables, popularity_days=2.0), MODEL, 0)
    log = little.log.only_relevant()
    first = log.repeats == 0
    late = torch.bincount(log.item[first & (log.time > little.log.time.max() - 2 * DAY)], minlength=log.n_items)
    prior = model.item_tower.prior.table.weight[little.tables.item["item_id"], 0].detach()
    assert torch.allclose(prior, (2.0 * late + 1.0).log() * (little.tables.item["item_id"] > OOV_ID))
    assert 0 < int((late > 0).sum()) < len(log.item[first].unique())


def test_a_model_starts_from_buyers_also_of_what_was_looked_at_before(little):
    """Every purchase comes after a view of the same item: the prior is that of purchases all the same."""
    log = little.log.only_relevant()
    names = ("user", "item", "time", "basket", "relevant")
    twice = replace(log, **{name: getattr(log, name).repeat_interleave(2) for name in names})
    twice = replace(twice, relevant=torch.arange(len(twice)) % 2 == 1)
    priors = []
    for one in (log, twice):
        model = make_model(little.inputs, list(little.tables.context), MODEL, sparse=True)
        start_from_log(model, one, little.tables, replace(MODEL, factor_width=0), 0)
        priors.append(model.item_tower.prior.table.weight.detach().clone())
    assert torch.equal(*priors)
    assert priors[0].std() > 0


def test_large_tables_take_sparse_gradients_in_one_process(little):
    inputs = little.inputs.__class__(item_rows=20_000, user_rows=26)
    for sparse in (True, False):
        model = make_model(inputs, [], MODEL, sparse)
        tables = [m for m in model.modules() if isinstance(m, torch.nn.Embedding) and m.weight.requires_grad]
        assert {m.sparse for m in tables if m.num_embeddings == 20_000} == {sparse}
        assert not any(m.sparse for m in tables if m.num_embeddings < 100)


def test_a_trainer_that_clips_gets_no_sparse_gradients(little, tmp_path):
    large = replace(little, inputs=replace(little.inputs, item_rows=20_000))
    fitted = fit(large, tmp_path, trainer_of=trainer_on("cpu", gradient_clip_val=1.0), epochs=1)
    assert len(fitted.model.encoder.code.table.weight) == 20_000
    assert all(value.isfinite().all() for value in fitted.model.state_dict().values())


def test_the_config_reaches_the_model(little):
    config = ModelConfig(
        **(vars(MODEL) | {"width": 10, "code_width": 5, "temperature": 0.3, "temperature_bounds": [0.1, 0.2]})
    )
    model = make_model(little.inputs, ["store"], config, sparse=False)
    assert model.temperature.item() == pytest.approx(0.2)
    assert model.user_tower.context_names == ["store"]
    state = {"popularity": torch.zeros(2), "age": torch.zeros(2)}
    assert model.item_tower(little.tables.items(torch.arange(2)) | state).shape == (2, 5 + 10 + 1 + 6)


def test_the_console_belongs_to_the_job(little, tmp_path, caplog):
    """Lightning's notes on devices, services and its own insides are not repeated at every fit; others are shown."""
    lightning_log = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    caplog.set_level(logging.INFO, lightning_log.name)
    lightning_log.addHandler(caplog.handler)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        fit(little, tmp_path, epochs=1)
    lightning_log.info("Restoring states from the checkpoint")
    lightning_log.removeHandler(caplog.handler)
    assert set(caplog.messages) == {"Restoring states from the checkpoint"}
    assert not [w for w in warned if "LeafSpec" in str(w.message)]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_fit_on_cuda(little, tmp_path, precision):
    """One epoch on the GPU; the result is on the CPU and answers there."""
    trainer_of = trainer_on("gpu", precision=precision)
    fitted = fit(little, tmp_path, trainer_of=trainer_of, epochs=1)
    assert {p.device.type for p in fitted.model.parameters()} == {"cpu"}
    assert all(value.isfinite().all() for value in fitted.model.state_dict().values())
    assert 0 <= recall(little, fitted.model) <= 1
