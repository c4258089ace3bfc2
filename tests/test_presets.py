"""Every preset in ``conf/`` composes and means something; the quickest of them runs the whole job."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from recsys.config.check import check
from recsys.config.compose import compose
from recsys.config.schema import Config

CONF = Path(__file__).resolve().parents[1] / "conf"
GROUPS = (
    *("callbacks", "data", "debug", "evaluation", "experiment", "logger", "model", "ranker", "search"),
    *("touchpoints", "trainer"),
)
PRESETS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
VERBS = {
    "prepare": [],
    "audit": [],
    "segment": [],
    "train": [],
    "tune": [],
    "evaluate": ["bundle_uri=b"],
    "touchpoints": ["bundle_uri=b"],
    "recommend": ["bundle=b"],
}
VERBS |= {"explain": ["bundle=b", "user=u", "item=i"], "erase": ["users=people.csv"], "sync": []}
VERBS |= {"promote": ["candidate=models:/m/1"], "rollback": ["name=m"], "publish": ["bundle=b", "to=redis://h"]}
VERBS |= {"add_items": ["bundle=b", "items=new.parquet"]}


def test_every_file_belongs_to_a_verb_or_a_group() -> None:
    files = {path.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml")}
    known = {f"{verb}.yaml" for verb in VERBS} | {f"{group}/{name}.yaml" for group, name in PRESETS}
    assert files == known | {"hydra/default.yaml"}


@pytest.mark.parametrize(("group", "name"), PRESETS)
def test_every_preset_composes_and_passes_the_check(group: str, name: str) -> None:
    own_table = ["data.events=events.parquet"] if (group, name) == ("data", "tables") else []
    cfg = compose("tune" if group == "search" else "train", [f"{group}={name}", *own_table])
    assert isinstance(cfg, Config)
    check(cfg)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_composes(verb: str) -> None:
    check(compose(verb, VERBS[verb]))


@pytest.mark.parametrize("name", [name for group, name in PRESETS if group == "trainer"])
def test_lightning_takes_every_trainer(name: str, tmp_path: Path) -> None:
    """With the rehearsal's overrides, since this machine may have no CUDA device."""
    from hydra.utils import instantiate

    cpu = ["trainer.accelerator=cpu", "trainer.devices=1", "trainer.precision=32-true", f"run_dir={tmp_path}"]
    cfg = compose("train", [f"trainer={name}", *cpu])
    trainer = instantiate(cfg.trainer, logger=False, max_epochs=1)
    assert trainer.default_root_dir == str(tmp_path)
    assert trainer.max_epochs == 1


def test_trainers_mean_what_they_say() -> None:
    from hydra.utils import instantiate

    trainers = {name: compose("train", [f"trainer={name}"]).trainer for name in ("cpu", "gpu", "ddp")}
    assert {name: t["accelerator"] for name, t in trainers.items()} == {"cpu": "cpu", "gpu": "gpu", "ddp": "gpu"}
    assert [trainers[name]["precision"] for name in ("cpu", "gpu", "ddp")] == ["32-true", "bf16-mixed", "bf16-mixed"]
    assert trainers["ddp"]["devices"] == -1
    strategy = trainers["ddp"]["strategy"]
    assert strategy["_target_"].endswith(".DDPStrategy")
    assert instantiate(strategy["timeout"]) >= timedelta(days=1)  # others wait while the first evaluates


def test_can_it_learn_hides_nothing() -> None:
    cfg = compose("train", ["debug=can_it_learn"])
    for part in (cfg.model, cfg.ranker):
        assert {value for name, value in vars(part).items() if "dropout" in name} == {0.0}


@pytest.mark.parametrize("name", [name for group, name in PRESETS if group == "callbacks"])
def test_callbacks_can_be_made(name: str) -> None:
    from hydra.utils import instantiate
    from pytorch_lightning import Callback

    made = [instantiate(callback) for callback in compose("train", [f"callbacks={name}"]).callbacks.values()]
    assert all(isinstance(callback, Callback) for callback in made)


@pytest.mark.parametrize(("group", "name"), [preset for preset in PRESETS if preset[0] in ("data", "experiment")])
def test_presets_stay_small(group: str, name: str) -> None:
    lines = (CONF / group / f"{name}.yaml").read_text().splitlines()
    assert len(lines) <= (30 if group == "data" else 40)
    assert lines[0].startswith("#")
    if group == "experiment":  # the command stands on top
        assert any(line.startswith("#") and f"experiment={name}" in line for line in lines)


def test_does_it_run(trained: Any) -> None:
    """The main job, end to end: data, both fits, bundle, table, a registered version; apart from the real models."""
    from mlflow import MlflowClient

    from recsys.bundle.reader import Bundle
    from recsys.tracking.server import quiet

    assert trained.seconds < 60
    run = trained.folder / "run"
    for name in ("data_report.html", "config.json", "environment.json", "evaluation/comparison.csv", "train.log"):
        assert (run / name).is_file(), name
    assert json.loads((run / "config.json").read_text())["training"]["max_epochs"] == 1
    assert "models:/debug-tables/1" in trained.output

    with quiet():
        client = MlflowClient(f"sqlite:///{trained.folder}/mlflow.db")
        version = client.get_model_version("debug-tables", "1")
        logged = client.get_run(version.run_id)
    assert logged.info.status == "FINISHED"
    bundle = Bundle.load(trained.bundle)
    assert bundle.check_sample() > 0
    assert logged.data.metrics["test/ndcg_at_20"] == pytest.approx(bundle.manifest.metrics["test/ndcg_at_20"])
    assert logged.data.params["training.max_epochs"] == "1"
    assert logged.data.tags["data_fingerprint"] == bundle.manifest.data_fingerprint
