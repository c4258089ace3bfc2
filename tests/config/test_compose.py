"""Configurations compose to typed objects; whatever the schema does not have is refused."""

import ast
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from omegaconf import DictConfig, ListConfig

from recsys.config.compose import compose
from recsys.config.schema import (
    Config,
    EvaluateConfig,
    PrepareConfig,
    RecommendConfig,
)
from recsys.errors import ConfigError

TABLES = ["data=tables", "data.events=sales.parquet"]


def values_of(node: object) -> list[object]:
    """All values of a configuration object, at any depth."""
    if is_dataclass(node):
        return [v for f in fields(node) for v in values_of(getattr(node, f.name))]
    if isinstance(node, dict):
        return [v for value in node.values() for v in values_of(value)]
    return [node]


@pytest.mark.parametrize(
    ("verb", "overrides", "schema"),
    [
        ("prepare", [], PrepareConfig),
        ("train", [], Config),
        ("evaluate", ["bundle_uri=models:/shop/1"], EvaluateConfig),
        ("recommend", ["bundle=models:/shop/1"], RecommendConfig),
    ],
)
def test_roots_compose_to_their_own_types(verb: str, overrides: list[str], schema: type) -> None:
    cfg = compose(verb, overrides)
    assert type(cfg) is schema
    assert not any(isinstance(value, DictConfig | ListConfig) for value in values_of(cfg))


def test_defaults() -> None:
    cfg = compose("train")
    assert (cfg.data.name, cfg.data.source, cfg.data.context) == ("completejourney", "completejourney", ["store_id"])
    assert (cfg.objective.metric, cfg.objective.mode, cfg.seed) == ("val/ndcg_at_20", "max", 42)
    assert cfg.tracking.enabled
    assert cfg.tracking.model_name == "recsys-completejourney"
    assert cfg.trainer["_target_"] == "pytorch_lightning.Trainer"
    assert cfg.trainer["default_root_dir"] == cfg.run_dir
    assert Path(cfg.run_dir).parent == Path.cwd() / "runs" / "train"


def test_names_typed_by_habit() -> None:
    cfg = compose(
        "train",
        [
            *("model=id_only", "trainer=ddp", "logger=none", "callbacks=none", "seed=0", "tags=[dev,first]"),
            *("ckpt_path=last.ckpt", "tracking.tags.team=search", "+trainer.benchmark=true", "trainer.strategy=ddp"),
        ],
    )
    assert (cfg.model.use_ids, cfg.model.use_content) == (True, False)
    assert (cfg.trainer["strategy"], cfg.trainer["precision"], cfg.trainer["accelerator"]) == (
        "ddp",
        "bf16-mixed",
        "gpu",
    )
    assert cfg.trainer["benchmark"] is True
    assert not cfg.tracking.enabled
    assert cfg.callbacks == {}
    assert cfg.seed == 0
    assert cfg.ckpt_path == "last.ckpt"
    assert cfg.tracking.tags == {"dev": "true", "first": "true", "team": "search"}


def test_own_tables_by_overrides_alone() -> None:
    cfg = compose("train", [*TABLES, "data.items=i.csv", "data.users=u.csv", "data.columns.user_id=customer"])
    assert (cfg.data.events, cfg.data.items, cfg.data.users) == ("sales.parquet", "i.csv", "u.csv")
    assert cfg.data.columns == {"user_id": "customer"}
    assert cfg.data.name == "tables"


def test_own_yaml_inherits(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "myshop.yaml").write_text(
        "defaults: [tables]\nname: myshop\nevents: sales.parquet\ncolumns: {user_id: customer, item_id: sku}\n"
    )
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "wide.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: content_only\nmodel: {width: 128}\nseed: 7\n"
    )
    cfg = compose("train", ["data=myshop", "experiment=wide", "seed=8"], config_dir=tmp_path)
    assert (cfg.data.name, cfg.data.source) == ("myshop", "tables")
    assert cfg.data.columns == {"user_id": "customer", "item_id": "sku"}
    assert (cfg.model.width, cfg.model.use_ids, cfg.seed) == (128, False, 8)
    assert cfg.tracking.model_name == "recsys-myshop"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("evnts: sales.parquet", "data/myshop.yaml: data.evnts: no such key. Did you mean 'data.events'?"),
        ("max_reject_share: many", "data/myshop.yaml: data.max_reject_share"),
        ("split: {vall: 0.1}", "Did you mean 'data.split.val'?"),
    ],
)
@pytest.mark.parametrize("base", ["tables", "schema"])
def test_own_yaml_is_closed(tmp_path: Path, line: str, expected: str, base: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "myshop.yaml").write_text(f"defaults: [{base}]\nname: myshop\nsource: tables\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        compose("train", ["data=myshop"], config_dir=tmp_path)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.evnts=x"], "data.evnts: no such key. Did you mean 'data.events'?"),
        (["modle=id_only"], "modle: no such key. Did you mean 'model'?"),
        (["tracking_uri=x"], "tracking_uri: no such key. Did you mean 'tracking.uri'?"),
        (["loger=none"], "Did you mean 'logger'?"),
        (["trainer.max_epochs=3"], "Did you mean 'training.max_epochs'?"),
        (["trainer.limit_train_batch=3"], "Did you mean 'trainer.limit_train_batches'?"),
        (["+sed=1"], "sed: no such key. Did you mean 'seed'?"),
        (["+data.split.tst=0.1"], "data.split.tst: no such key. Did you mean 'data.split.test'?"),
        (["model=two_towr"], "model=two_towr: no such option. Did you mean 'two_tower'?"),
        (["data=tabels"], "Legal: completejourney, ml_100k, rees46_jewelry, tables."),
        (["seed=abc"], "seed: Value 'abc' of type 'str' could not be converted to Integer; expected int."),
        (["evaluation.ks=64"], "evaluation.ks: Invalid value assigned"),
        (["evaluation.ks=64"], "expected list[int]"),
        (["model.use_ids=perhaps"], "expected bool"),
        (["tags=dev"], "expected list[str]"),
        (["seed"], "cannot read the override 'seed': write KEY=VALUE"),
        (["data.name=???"], "data.name has no value"),
    ],
)
def test_refused_with_one_clear_message(overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose("train", overrides)
    assert expected in str(caught.value)


@pytest.mark.parametrize(("verb", "key"), [("evaluate", "bundle_uri"), ("recommend", "bundle")])
def test_bundle_must_be_named(verb: str, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} has no value"):
        compose(verb)


@pytest.mark.parametrize(
    ("verb", "override", "expected"),
    [
        (
            "recommend",
            "bundle_uri=x",
            "bundle_uri: no such key. Did you mean 'bundle'? Legal: as_of, batch_size, bundle,",
        ),
        ("recommend", "tracking.uri=x", "tracking: no such key. Did you mean 'tracking_uri'?"),
        ("evaluate", "tracking_uri=x", "tracking_uri: no such key. Did you mean 'tracking.uri'?"),
        ("evaluate", "bundle=models:/x/1", "expected the keys of BundleConfig. Did you mean 'bundle_uri'?"),
    ],
)
def test_what_another_verb_calls_it_is_told(verb: str, override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(verb, [override])
    assert expected in str(caught.value)
    assert verb == "evaluate" or "trainer" not in str(caught.value)  # a group that recommend does not have


@pytest.mark.parametrize("verb", ["prepare", "audit", "segment", "tune", "evaluate", "promote"])
def test_overrides_of_train_are_those_of_all_verbs_that_read_data(verb: str) -> None:
    needed = {"evaluate": ["bundle_uri=b"], "promote": ["candidate=models:/m/1"]}.get(verb, [])
    groups = ["data=tables", "data.events=e.csv", "model=id_only", "ranker=none", "trainer=cpu", "callbacks=none"]
    groups += ["logger=none", "evaluation=quick", "touchpoints=none", "debug=does_it_run"]
    assert compose(verb, [*needed, *groups]).model == compose("train", groups).model


def test_missing_config_dir() -> None:
    with pytest.raises(ConfigError, match="'/no/such/dir' does not exist"):
        compose("train", config_dir="/no/such/dir")


@pytest.mark.parametrize(("verb", "bundle"), [("train", []), ("evaluate", ["bundle_uri=b"])])
def test_train_and_evaluate_share_their_groups(verb: str, bundle: list[str]) -> None:
    assert (
        compose(verb, [*bundle, "evaluation=quick"]).evaluation == compose("prepare", ["evaluation=quick"]).evaluation
    )
    assert compose(verb, [*bundle, "debug=does_it_run"]).trainer["limit_train_batches"] == 4


def test_every_key_says_what_it_means(repo: Path) -> None:
    """In a comment on its line, or, where keys of its own lie below it, in the docstring of their class."""
    bare = []
    for path in sorted((repo / "recsys" / "config").glob("*.py")):
        lines, classes = path.read_text().splitlines(), ast.walk(ast.parse(path.read_text()))
        for schema in (node for node in classes if isinstance(node, ast.ClassDef)):
            keys = [key for key in schema.body if isinstance(key, ast.AnnAssign)]
            plain = [key for key in keys if "Config" not in ast.unparse(key.annotation)]
            bare += [
                f"{schema.name}: {ast.unparse(key)}"
                for key in plain
                if not any("  # " in line for line in lines[key.lineno - 1 : key.end_lineno])
            ]
    assert not bare
