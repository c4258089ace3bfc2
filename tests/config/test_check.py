"""The rules across groups, each broken once."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.config import conf_dir, schema
from recsys.config.check import check
from recsys.config.data import DataConfig, ImputationConfig, SessionsConfig, SplitConfig
from recsys.config.publish import PublishConfig
from recsys.config.schema import (
    CandidatesConfig,
    Config,
    ExplainConfig,
    RankerTrainingConfig,
    RecommendConfig,
    SegmentsConfig,
)
from recsys.errors import ConfigError
from recsys.evaluation.baselines import BASELINES
from recsys.evaluation.metrics import FAMILIES
from recsys.evaluation.slices import LIST_OF
from recsys.export.index import KINDS
from recsys.models.transforms import FORMS
from recsys.models.wide_deep import NORMS
from recsys.training.fit_ranker import CALIBRATIONS
from recsys.training.ranker_task import LOSSES


def make_config(**groups: dict[str, object]) -> Config:
    """A legal configuration with some values of some groups replaced."""
    cfg = Config(data=DataConfig(name="shop", events="events.parquet"), run_dir="run")
    changed = {name: replace(getattr(cfg, name), **values) for name, values in groups.items()}
    return replace(cfg, **changed)


def test_defaults_are_legal() -> None:
    check(make_config())
    check(RecommendConfig(bundle="b"))


@pytest.mark.parametrize(
    ("group", "values", "expected"),
    [
        (
            "objective",
            {"metric": "test/ndcg_at_20"},
            "objective.metric=test/ndcg_at_20: choices made on the test window",
        ),
        ("objective", {"metric": "test/new/recall_at_10"}, "such as val/new/recall_at_10"),
        ("objective", {"metric": "val/ndgc_at_20"}, "Did you mean 'val/ndcg_at_20'?"),
        ("objective", {"metric": "val/newest/ndcg_at_20"}, "Did you mean 'val/new/ndcg_at_20'?"),
        ("objective", {"metric": "train/loss"}, "must be val/METRIC_at_K"),
        ("objective", {"metric": "val/ndcg_at_30"}, "must be one of evaluation.ks=[10, 20, 50, 100]"),
        (
            "objective",
            {"mode": "maximize"},
            "objective.mode=maximize: of all these metrics more is better",
        ),
        ("objective", {"mode": "min"}, "objective.mode=min: of all these metrics more is better"),
        ("evaluation", {"ks": [0, 20]}, "evaluation.ks=[0, 20]"),
        ("evaluation", {"ks": []}, "evaluation.ks=[]"),
        ("evaluation", {"ks": [20, 20]}, "evaluation.ks=[20, 20]"),
        ("evaluation", {"baselines": ["popular", "item_kn"]}, "Did you mean 'item_knn'?"),
        ("evaluation", {"variants": ["content"]}, "Did you mean 'content_only'?"),
        ("evaluation", {"bootstrap": 0}, "evaluation.bootstrap=0: must be 100 or more"),
        ("evaluation", {"bootstrap": 2}, "evaluation.bootstrap=2: must be 100 or more"),
        ("evaluation", {"max_users": 0}, "evaluation.max_users=0: must be 1 or more, or null"),
        ("evaluation", {"baselines": ["popular", "popular"]}, "['popular', 'popular']: one is named twice"),
        ("segments", {"kinds": []}, "segments.kinds=[]: must be one or more kinds"),
        ("evaluation", {"chunk_users": 0}, "evaluation.chunk_users=0"),
        ("data", {"source": "table"}, "Did you mean 'tables'?"),
        ("data", {"events": None}, "data.events has no value"),
        ("data", {"source": "completejourney"}, "brings its own tables"),
        ("data", {"timestamp_unit": "sec"}, "data.timestamp_unit: 'sec' is not one of auto, s, ms, us, ns."),
        ("data", {"timezone": "Europe/Berln"}, "Did you mean 'Europe/Berlin'?"),
        ("data", {"max_reject_share": 1.5}, "data.max_reject_share=1.5"),
        ("data", {"columns": {"usr_id": "customer"}}, "data.columns.usr_id: not a column"),
        (
            "data",
            {"context": ["store", "price"], "item_attributes": ["price"]},
            "data.item_attributes=['price']: the context names them too",
        ),
        (
            "data",
            {"features": [{"name": "dear", "side": "context", "kind": "id", "column": "p"}], "item_attributes": ["p"]},
            "data.item_attributes=['p']: the context names them too",
        ),
        (
            "data",
            {"features": [{"name": "age", "side": "user", "kind": "id", "widht": 3}]},
            "data.features: feature 'age': unknown key 'widht'; legal: ",
        ),
        (
            "data",
            {"features": [{"name": "age", "side": "user", "kind": "id"}] * 2},
            "data.features: features declared twice: age",
        ),
        ("data", {"features": [{"side": "context"}]}, "data.features: feature '?': no name and no kind"),
        ("data", {"split": SplitConfig(val=0.5, test=0.5)}, "together they must be below 1"),
        ("data", {"split": SplitConfig(val=0.0)}, "data.split.val=0.0"),
        ("data", {"split": SplitConfig(val_start="2024-01-01")}, "give both or neither"),
        ("data", {"split": SplitConfig(val_start="May", test_start="2024-01-01")}, "'May' is not an ISO time"),
        (
            "data",
            {"split": SplitConfig(val_start="2024-02-01T01:00:00+02:00", test_start="2024-01-31")},
            "data.split.val_start=2024-02-01T01:00:00+02:00 must be before data.split.test_start",
        ),
        ("data", {"split": SplitConfig(end="2024-13-01")}, "data.split.end: '2024-13-01'"),
        (
            "data",
            {"imputation": ImputationConfig(default="average")},
            "data.imputation.default: 'average' is not one of",
        ),
        ("data", {"imputation": ImputationConfig(items={"size": "kn"})}, "Did you mean 'knn'?"),
        ("data", {"sessions": SessionsConfig(by="basket")}, "data.sessions.by: 'basket' is not one of gap, basket_id."),
        ("data", {"sessions": SessionsConfig(gap_minutes=0)}, "data.sessions.gap_minutes=0: must be above 0"),
        ("data", {"timezone": "localtime"}, "data.timezone: 'localtime' is not a time zone."),
        ("data", {"sessions": SessionsConfig(timezone="Asia/Tokio")}, "Did you mean 'Asia/Tokyo'?"),
        ("data", {"sessions": SessionsConfig(holidays=["25.12."])}, "'25.12.' is not a date such as 2024-12-25."),
        (
            "data",
            {"sessions": SessionsConfig(weights={"view": -1})},
            "data.sessions.weights.view=-1: must be 0 or more",
        ),
        ("model", {"use_ids": False, "use_content": False}, "nothing is left to learn from"),
        ("model", {"history": 0}, "model.history=0: must be 1 or more"),
        ("model", {"heads": 0}, "model.heads=0"),
        ("model", {"hidden": 0}, "model.hidden=0"),
        ("model", {"dropout": 1.0}, "model.dropout=1.0"),
        ("model", {"id_dropout": -0.1}, "model.id_dropout=-0.1"),
        ("model", {"code_width": 0}, "model.code_width=0: must be 1 or more"),
        ("model", {"user_id_dropout": 2.0}, "model.user_id_dropout=2.0: must be a share from 0 to 1"),
        ("model", {"history_dropout": 1.0}, "model.history_dropout=1.0: must be a share from 0 to below 1"),
        ("model", {"context_dropout": -0.5}, "model.context_dropout=-0.5"),
        ("model", {"factor_width": -5}, "model.factor_width=-5: must be 0 or more"),
        ("model", {"factor_weight": -1.0}, "model.factor_weight=-1.0"),
        ("model", {"factor_confidence": 0.0}, "model.factor_confidence=0.0: must be above 0"),
        ("model", {"factor_decay": -0.5}, "model.factor_decay=-0.5"),
        ("model", {"factor_regularization": 0.0}, "model.factor_regularization=0.0: must be above 0"),
        ("model", {"temperature_bounds": [1.0, 0.02]}, "model.temperature_bounds=[1.0, 0.02]"),
        ("model", {"temperature_bounds": [0.3, 1.0]}, "model.temperature=0.2"),
        ("model", {"temperature_bounds": [0.02]}, "must be two numbers"),
        ("training", {"batch_moments": 0}, "training.batch_moments=0"),
        ("training", {"moments_per_block": 0}, "training.moments_per_block=0"),
        ("training", {"learning_rate": 0.0}, "training.learning_rate=0.0: must be above 0"),
        ("training", {"negatives": -1}, "training.negatives=-1"),
        ("training", {"max_epochs": 0}, "training.max_epochs=0"),
        ("bundle", {"index": "hsnw"}, "Did you mean 'hnsw'?"),
        ("bundle", {"refit_on": "everything"}, "bundle.refit_on: 'everything' is not one of train_val, all."),
        ("bundle", {"min_index_recall": 1.1}, "bundle.min_index_recall=1.1"),
    ],
)
def test_broken_rule(group: str, values: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(make_config(**{group: values}))
    assert expected in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("filling", [ImputationConfig(default="auto"), ImputationConfig(users={"age": "knn"})])
def test_what_fills_attributes_is_not_fitted_for_each_fold_in_time(filling: ImputationConfig) -> None:
    for kind in ("expanding", "rolling"):
        with pytest.raises(ConfigError, match=f"validation={kind} with data.imputation .*: what fills attributes is"):
            check(replace(make_config(data={"imputation": filling}), validation=kind))
    for kind in ("holdout", "kfold"):
        check(replace(make_config(data={"imputation": filling}), validation=kind))
    check(replace(make_config(data={"imputation": ImputationConfig(default="missing")}), validation="rolling"))


def test_a_column_of_the_events_may_be_called_as_one_of_the_items() -> None:
    check(make_config(data={"context": ["price"], "item_attributes": ["price"], "items": "items.parquet"}))


SETTINGS = RankerTrainingConfig()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"use_wide": False, "use_deep": False}, "ranker.use_wide=false and ranker.use_deep=false: nothing is left"),
        ({"hidden": []}, "ranker.hidden=[]: one or more widths of 1 or more"),
        ({"hidden": [64, 0]}, "ranker.hidden=[64, 0]"),
        ({"width": 0}, "ranker.width=0: must be 1 or more"),
        ({"knots": 1}, "ranker.knots=1: must be 2 or more"),
        ({"cross_buckets": 0}, "ranker.cross_buckets=0"),
        ({"dropout": 1.0}, "ranker.dropout=1.0"),
        ({"id_dropout": 1.1}, "ranker.id_dropout=1.1"),
        ({"attention": -1}, "ranker.attention=-1"),
        ({"attention": 8, "use_deep": False}, "ranker.attention=8: is of the deep part; leave it out"),
        ({"start_from_towers": True, "use_deep": False}, "ranker.start_from_towers=true: is of the deep part"),
        ({"history": 0}, "ranker.history=0: must be 1 or more"),
        ({"norm": "layr"}, "ranker.norm: 'layr' is not one of layer, batch, none. Did you mean 'layer'?"),
        ({"forms": ["log", "piecwise"]}, "Did you mean 'piecewise'?"),
        ({"calibration": "plat"}, "Did you mean 'platt'?"),
        ({"candidates": CandidatesConfig(limit=0)}, "ranker.candidates.limit=0: must be 1 or more"),
        ({"candidates": CandidatesConfig(sizes={}, shares={})}, "ranker.candidates.sizes: no source; give one or more"),
        (
            {"candidates": CandidatesConfig(sizes={"histroy": 5}, shares={})},
            "ranker.candidates.sizes: 'histroy' is not one of history, nearest, near_history, linked, popular, "
            "popular_in_group. Did you mean 'history'?",
        ),
        (
            {"candidates": CandidatesConfig(sizes={"popular": -1}, shares={})},
            "sizes.popular=-1: must be above 0, or 0 for",
        ),
        ({"candidates": CandidatesConfig(sizes={"popular": 0}, shares={})}, "ranker.candidates.sizes: no source; give"),
        (
            {"candidates": CandidatesConfig(sizes={"popular": 5}, shares={"history": 1.0})},
            "ranker.candidates.shares: 'history' is not one of popular.",
        ),
        (
            {"candidates": CandidatesConfig(sizes={"popular": 5}, shares={"popular": -1.0})},
            "ranker.candidates.shares.popular=-1.0: must be above 0",
        ),
        (
            {"candidates": CandidatesConfig(sizes={"popular_in_group": 5}, shares={})},
            "ranker.candidates.group has no value; the source popular_in_group needs",
        ),
        (
            {"candidates": CandidatesConfig(group="store")},
            "ranker.candidates.group=store: its popular items are candidates of the source popular_in_group; say how",
        ),
        ({"training": replace(SETTINGS, snapshots=0)}, "ranker.training.snapshots=0"),
        (
            {"training": replace(SETTINGS, stride_days=-1.0)},
            "ranker.training.stride_days=-1.0: must be above 0, or",
        ),
        ({"training": replace(SETTINGS, horizon_days=0.0)}, "ranker.training.horizon_days=0.0: must be above 0, or"),
        ({"training": replace(SETTINGS, max_users=0)}, "ranker.training.max_users=0"),
        ({"training": replace(SETTINGS, negatives=0.0)}, "ranker.training.negatives=0.0: must be a share above 0"),
        ({"training": replace(SETTINGS, negatives=1.5)}, "ranker.training.negatives=1.5"),
        ({"training": replace(SETTINGS, bce_weight=-1.0)}, "ranker.training.bce_weight=-1.0"),
        ({"training": replace(SETTINGS, batch_groups=0)}, "ranker.training.batch_groups=0"),
        ({"training": replace(SETTINGS, max_epochs=0)}, "ranker.training.max_epochs=0"),
        ({"training": replace(SETTINGS, wide_learning_rate=0.0)}, "ranker.training.wide_learning_rate=0.0"),
        ({"training": replace(SETTINGS, wide_l1=-0.1)}, "ranker.training.wide_l1=-0.1"),
        ({"training": replace(SETTINGS, loss="listwse")}, "Did you mean 'listwise'?"),
        ({"training": replace(SETTINGS, wide_optimizer="ftlr")}, "Did you mean 'ftrl'?"),
        ({"training": replace(SETTINGS, deep_optimizer="adamm")}, "Did you mean 'adamw'?"),
    ],
)
def test_broken_rule_of_the_ranker(values: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(make_config(ranker=values))
    assert expected in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_ranker_of_one_part_or_one_source_is_legal() -> None:
    check(make_config(ranker={"use_wide": False}))
    check(make_config(ranker={"use_deep": False}))
    check(make_config(ranker={"candidates": CandidatesConfig(sizes={"popular": 5}, shares={})}))
    grouped = CandidatesConfig(sizes={"popular_in_group": 5}, shares={"popular_in_group": 2.0}, group="segment")
    check(make_config(ranker={"candidates": grouped}))
    with pytest.raises(ConfigError, match="Did you mean 'lightgbm'"):
        check(make_config(evaluation={"rankers": ["lightgmb"]}))


def test_explain_ranges() -> None:
    check(ExplainConfig(bundle="b", user=1, item=2))
    with pytest.raises(ConfigError, match="top=0: must be 1 or more"):
        check(ExplainConfig(bundle="b", user=1, item=2, top=0))


def test_rules_of_the_folds() -> None:
    for changed, expected in (
        ({"validation": "expandin"}, "Did you mean 'expanding'?"),
        ({"folds": 1}, "folds=1: must be 2 or more"),
        ({"validation": "kfold", "segments": SegmentsConfig(features=["rfm"])}, "validation=kfold with segments.feat"),
    ):
        with pytest.raises(ConfigError) as error:
            check(replace(make_config(), **changed))  # type: ignore[arg-type]
        assert expected in str(error.value)
    check(replace(make_config(), validation="kfold"))


def test_all_problems_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        check(make_config(model={"history": 0}, bundle={"index": "annoy"}, objective={"metric": "test/mrr_at_10"}))
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_range(seed: int) -> None:
    with pytest.raises(ConfigError, match=f"seed={seed}"):
        check(replace(make_config(), seed=seed))


@pytest.mark.parametrize("change", [{"k": 0}, {"batch_size": 0}])
def test_recommend_ranges(change: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="must be 1 or more"):
        check(replace(RecommendConfig(bundle="b"), **change))


@pytest.mark.parametrize("name", ["shop:email", " "])
def test_names_of_publications(name: str) -> None:
    cfg = PublishConfig(bundle="b", to="redis://localhost", name="shop")
    check(cfg)
    with pytest.raises(ConfigError, match=f"name={name}: must be a name without ':'"):
        check(replace(cfg, name=name))


def test_mapped_attributes_of_event_lines_are_legal() -> None:
    check(
        make_config(
            data={
                "columns": {"user_id": "customer", "device": "dev", "brand": "marke"},
                "context": ["device"],
                "item_attributes": ["brand"],
            }
        )
    )


@given(val=st.floats(-0.5, 1.5), test=st.floats(-0.5, 1.5))
def test_shares_leave_something_to_train_on(val: float, test: float) -> None:
    cfg = make_config(data={"split": SplitConfig(val=val, test=test)})
    if val > 0 and test > 0 and val + test < 1:
        check(cfg)
    else:
        with pytest.raises(ConfigError, match=r"data\.split"):
            check(cfg)


def test_legal_names_are_those_that_the_rooms_know() -> None:
    assert set(schema.METRICS) == set(FAMILIES)
    assert set(schema.SLICES) | {"all"} == set(LIST_OF)
    assert set(schema.BASELINES) == set(BASELINES)
    assert set(schema.INDEXES) == set(KINDS)
    assert set(schema.RANKER_NORMS) == set(NORMS)
    assert set(schema.NUMERIC_FORMS) == set(FORMS)
    assert set(schema.RANKING_LOSSES) == set(LOSSES)
    assert set(schema.CALIBRATIONS) == {*CALIBRATIONS, "none"}
    assert set(schema.VARIANTS) < {path.stem for path in (conf_dir() / "model").glob("*.yaml")}
