import logging
from dataclasses import replace

import pytest
import torch
from pytorch_lightning.loggers import Logger

from recsys.config.schema import ObjectiveConfig, RankerConfig, RankerTrainingConfig
from recsys.data.snapshots import RankingSet
from recsys.errors import ConfigError, DataError
from recsys.models.calibration import IsotonicScale, PlattScale
from recsys.models.wide import Cross, IdInput
from recsys.models.wide_deep import RankerShape, WideDeep
from recsys.training.epochs import Fitted
from recsys.training.fit_ranker import calibrate, encode_pairs, fit_ranker, make_ranker, predict, score_keys
from tests.training.fitting import equal, scripted, trainer_on

GROUPS, PAIRS = 40, 20
IDS = (IdInput("brand", 8), IdInput("item_id", 42), IdInput("words", 9, slots=2))
CROSSES = (Cross(("brand", "item_id"), 64),)
TRAINING = RankerTrainingConfig(
    batch_groups=4, max_epochs=4, learning_rate=0.02, embedding_learning_rate=0.3, wide_learning_rate=0.5
)
CONFIG = RankerConfig(width=4, hidden=[16], dropout=0.0, id_dropout=0.0, training=TRAINING)
WIDE, DEEP = {"use_deep": False}, {"use_wide": False}
OBJECTIVE = ObjectiveConfig("val/ndcg_at_20", "max")


def shop(seed=0, tasks=1, history=False):
    """Pairs whose label is a line through a number and one weight for each brand; a tenth of the numbers is missing."""
    chance = torch.Generator().manual_seed(seed)
    n = GROUPS * PAIRS
    count = torch.randn(n, generator=chance)
    brand = torch.randint(6, (n,), generator=chance)
    liking = torch.tensor([-2.0, -1.2, -0.4, 0.4, 1.2, 2.0])[brand]
    labels = torch.stack([(count + liking > 1.5).float(), (brand == 3).float(), (count > 0).float()], 1)
    features = {
        "count": torch.where(torch.arange(n) % 10 == 0, float("nan"), count),
        "brand": brand + 2,
        "item_id": torch.randint(2, 42, (n,), generator=chance),
        "words": torch.randint(0, 9, (n, 2), generator=chance),
    }
    labels[::10, 0] = (liking[::10] > 0).float()
    group = torch.arange(n) // PAIRS
    if history:
        features |= {
            "request": group,
            "history/item_id": torch.randint(2, 42, (GROUPS, 5), generator=chance),
            "history/words": torch.randint(0, 9, (GROUPS, 5, 2), generator=chance),
            "history/age": torch.rand(GROUPS, 5, generator=chance) * 90,
        }
    return RankingSet(group, features, labels[:, :tasks], torch.ones(n))


def fit(folder, *, train=None, config=CONFIG, seed=0, trainer_of=None, **arguments) -> Fitted[WideDeep]:
    return fit_ranker(
        train or shop(),
        config,
        id_inputs=IDS,
        crosses=CROSSES,
        trainer_of=trainer_of or trainer_on("cpu"),
        folder=folder,
        seed=seed,
        **arguments,
    )


def auc(model, of, task=0):
    """Chance that a positive is scored above a negative."""
    logits = predict(model, of.features) if task == 0 else model(of.features)[:, task].detach()
    positive = of.labels[:, task] > 0
    return (logits[positive][:, None] > logits[~positive]).float().mean().item()


@pytest.mark.parametrize("loss", ["bce", "listwise", "lambda_rank"])
@pytest.mark.parametrize("parts", [{}, WIDE, DEEP], ids=["both", "wide", "deep"])
def test_every_part_learns_a_line_by_every_loss(tmp_path, parts, loss):
    config = replace(CONFIG, **parts, training=replace(TRAINING, loss=loss))
    fitted = fit(tmp_path, config=config, epochs=4)
    assert auc(fitted.model, shop(seed=1)) > 0.95
    assert (fitted.epochs, fitted.results) == (4, ())
    assert fitted.best != fitted.best  # NaN: nothing was validated
    assert not fitted.model.training


def test_every_task_is_learned(tmp_path):
    fitted = fit(tmp_path, train=shop(tasks=3), epochs=4)
    test = shop(seed=1, tasks=3)
    assert auc(fitted.model, test) > 0.95
    assert auc(fitted.model, test, task=1) > 0.95
    assert auc(fitted.model, test, task=2) > 0.8  # a tenth cannot be known
    assert predict(fitted.model, test.features).equal(fitted.model(test.features)[:, 0])


def test_probabilities_are_those_among_all_candidates(tmp_path):
    """A set of which a quarter of the negatives was kept teaches the rate of the whole."""
    whole = shop()
    keep = (whole.labels[:, 0] > 0) | (torch.arange(len(whole)) % 4 == 0)
    rate = torch.where(whole.labels[:, 0] > 0, 1.0, 0.25)[keep]
    features = {name: values[keep] for name, values in whole.features.items()}
    thin = RankingSet(whole.group[keep], features, whole.labels[keep], rate)
    share = whole.labels.mean().item()
    assert make_ranker(thin, CONFIG, IDS, CROSSES, False).base_rates.tolist() == pytest.approx([share], rel=0.05)
    fitted = fit(tmp_path, train=thin, epochs=4)
    assert predict(fitted.model, whole.features).sigmoid().mean().item() == pytest.approx(
        share, rel=0.2
    )  # unweighted it would be 0.56


def test_best_epoch_is_kept_and_fitting_stops(tmp_path):
    seen = []
    fitted = fit(tmp_path, objective=OBJECTIVE, validate=scripted([0.1, 0.3, 0.2, 0.9], seen))
    assert [found[OBJECTIVE.metric] for found in fitted.results] == [0.1, 0.3, 0.2]
    assert (fitted.epochs, fitted.best) == (2, pytest.approx(0.3))
    state = fitted.model.state_dict()
    assert all(torch.equal(state[name], seen[1][name]) for name in state)
    assert any(not torch.equal(state[name], seen[2][name]) for name in state)


def test_refit_for_the_chosen_epochs_gives_what_validation_saw(tmp_path):
    fitted = fit(tmp_path / "choose", objective=OBJECTIVE, validate=scripted([0.1, 0.3, 0.2], []))
    again = fit(tmp_path / "refit", epochs=fitted.epochs)
    assert equal(again.model, fitted.model)


def test_same_seed_same_parameters(tmp_path):
    config = replace(CONFIG, dropout=0.2, id_dropout=0.2)
    one, same, other = (
        fit(tmp_path / str(i), config=config, seed=seed, epochs=1).model for i, seed in enumerate((0, 0, 1))
    )
    assert equal(one, same)
    assert not equal(one, other)


def test_checkpoints_hold_tensors_and_plain_types_only(tmp_path):
    fitted = fit(tmp_path, epochs=1)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert {"state_dict", "optimizer_states", "lr_schedulers", "epoch"} <= saved.keys()
    for name, value in fitted.model.state_dict().items():
        assert torch.equal(saved["state_dict"][f"model.{name}"], value)


def test_a_set_without_positives_says_what_to_do(tmp_path):
    train = shop(tasks=2)
    train.labels[:, 0] = 0.0
    with pytest.raises(DataError, match=r"none of its 800 pairs .*7 items .*horizon_days.*snapshots.*candidates"):
        fit(tmp_path, train=replace(train, lost=7))


def test_loss_and_metrics_are_logged(tmp_path):
    class Keys(Logger):
        name = version = "keys"

        def __init__(self):
            super().__init__()
            self.seen = set()

        def log_metrics(self, metrics, step=None):
            self.seen |= metrics.keys()

        def log_hyperparams(self, *args, **kwargs):
            pass

    logger = Keys()
    fit(tmp_path, epochs=1, objective=OBJECTIVE, validate=scripted([0.5], []), logger=logger)
    assert {"train/ranker_loss", "val/ndcg_at_20"} <= logger.seen


VARIANTS = {"both": {}, "wide": WIDE, "deep": DEEP, "attention": {"attention": 3}}


@pytest.mark.parametrize("parts", VARIANTS.values(), ids=VARIANTS)
def test_the_encoded_set_holds_what_is_scored_and_nothing_else(parts):
    train = shop(history=True)
    model = make_ranker(train, replace(CONFIG, **parts), IDS, CROSSES, False).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape) * 0.1)
        encoded = encode_pairs(model, train.features, chunk=77)
        assert encoded.keys() == score_keys(model)
        assert torch.allclose(model.score(encoded), model(train.features), atol=1e-5)
        for name in encoded:
            with pytest.raises(KeyError, match=name):
                model.score({key: value for key, value in encoded.items() if key != name})


def test_the_set_is_encoded_and_scored_in_chunks():
    for history in (False, True):
        test = shop(history=history)
        model = make_ranker(test, replace(CONFIG, attention=3 * history), IDS, CROSSES, False).eval()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape) * 0.1)
            whole = model(test.features)
        chunked = predict(model, test.features, chunk=77)
        assert chunked.shape == (GROUPS * PAIRS,)
        assert not chunked.requires_grad
        assert torch.allclose(chunked, whole, atol=1e-5)
        nothing = {name: values if "/" in name else values[:0] for name, values in test.features.items()}
        assert predict(model, nothing).shape == (0,)


def test_the_config_reaches_the_model():
    train = shop(history=True, tasks=2)
    config = replace(CONFIG, width=5, hidden=[7, 6], norm="none", forms=["quantile"], attention=3, dropout=0.4)
    model = make_ranker(train, config, IDS, CROSSES, False)
    assert model.base_rates.tolist() == pytest.approx(train.labels.mean(0).tolist())
    assert model.numeric.names == ["count"]  # ages of the history are no feature of a pair
    assert model.deep.mask_name == "history/item_id"  # although brand is the first feature
    assert model.deep.in_history == [False, True, True]
    widths = [m.out_features for m in model.deep.mlp if isinstance(m, torch.nn.Linear)]
    assert widths == [7, 6, 2]
    assert model.deep.embeddings[0].table.weight.shape == (8, 5)
    assert model.deep.attention.of_age.shape[1] == 3
    assert not any(isinstance(m, torch.nn.LayerNorm) for m in model.modules())


def test_large_tables_take_sparse_gradients_in_one_process():
    ids = (*IDS[:1], IdInput("item_id", 20_000), *IDS[2:])
    for sparse in (True, False):
        model = make_ranker(shop(), CONFIG, ids, CROSSES, sparse)
        assert model.deep.embeddings[1].table.sparse == sparse
        assert model.wide.table.sparse == sparse
        assert not model.deep.embeddings[0].table.sparse


def test_a_trainer_that_clips_gets_no_sparse_gradients(tmp_path, monkeypatch):
    monkeypatch.setattr(RankerShape, "sparse_rows", 16)
    assert make_ranker(shop(), CONFIG, IDS, CROSSES, sparse=True).wide.table.sparse
    fitted = fit(tmp_path, trainer_of=trainer_on("cpu", gradient_clip_val=1.0), epochs=4)
    assert auc(fitted.model, shop(seed=1)) > 0.9


def test_attention_without_histories_is_refused():
    with pytest.raises(ConfigError, match=r"attention is 3.*set it to 0"):
        make_ranker(shop(), replace(CONFIG, attention=3), IDS, CROSSES, False)


def test_an_attribute_called_as_the_days_of_events_is_no_part_of_the_history():
    train = shop(history=True)
    ids = (*IDS, IdInput("age", 6, 0))
    features = train.features | {"age": train.features["brand"] - 2}
    model = make_ranker(replace(train, features=features), replace(CONFIG, attention=3), ids, CROSSES, False)
    assert model.deep.in_history == [False, True, True, False]
    assert predict(model.eval(), features).isfinite().all()


def test_attention_is_fitted_too(tmp_path):
    fitted = fit(tmp_path, train=shop(history=True), config=replace(CONFIG, attention=3), epochs=2)
    assert auc(fitted.model, shop(seed=1, history=True)) > 0.9
    assert fitted.model.deep.attention.of_age.any()


def test_calibration_of_choice():
    chance = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, generator=chance) * 2
    labels = (torch.rand(4000, generator=chance) < torch.sigmoid(0.5 * logits - 1)).float()
    assert isinstance(calibrate(logits, labels, "isotonic"), IsotonicScale)
    platt, temperature = (calibrate(logits, labels, kind) for kind in ("platt", "temperature"))
    assert isinstance(platt, PlattScale)
    assert (platt.slope.item(), platt.bias.item()) == pytest.approx((0.5, -1.0), abs=0.15)
    assert temperature.bias == 0
    assert calibrate(logits, labels, "none") is None


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_labels_of_one_kind_calibrate_nothing(caplog, value):
    with caplog.at_level(logging.WARNING, "recsys.training.fit_ranker"):
        assert calibrate(torch.randn(5), torch.full((5,), value), "isotonic") is None
    assert f"{5 * int(value)} of 5 labels are positive" in caplog.text


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_fit_on_cuda(tmp_path, precision):
    """One epoch on the GPU; the result is on the CPU and answers there."""
    trainer_of = trainer_on("gpu", precision=precision)
    train = shop(history=True)
    fitted = fit(tmp_path, train=train, config=replace(CONFIG, attention=3), trainer_of=trainer_of, epochs=1)
    assert {p.device.type for p in fitted.model.parameters()} == {"cpu"}
    assert all(value.isfinite().all() for value in fitted.model.state_dict().values() if value.is_floating_point())
    assert auc(fitted.model, train) > 0.7
