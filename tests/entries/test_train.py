"""The stages of the main job that can be looked at alone; tests/test_readme.py runs it whole."""

import json
import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from io import StringIO
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from pytorch_lightning.callbacks import ModelSummary
from rich.console import Console

from recsys.bundle.format import read_manifest
from recsys.bundle.reader import Bundle
from recsys.cli import main
from recsys.config.compose import compose
from recsys.data.prepared import Prepared
from recsys.entries import serving
from recsys.entries.retriever import trainer_factory
from recsys.entries.serving import check_base_rate
from recsys.entries.train import summary
from recsys.errors import BundleError


def test_the_model_is_summarised_at_its_first_fit_alone(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addHandler(caplog.handler)
    cfg = compose("train")
    summaries = []
    for again in (False, True):
        trainer = trainer_factory(cfg, again)(callbacks=[], max_epochs=1, logger=False)
        summaries.append([type(callback) for callback in trainer.callbacks if isinstance(callback, ModelSummary)])
    logging.getLogger("pytorch_lightning.utilities.rank_zero").removeHandler(caplog.handler)
    assert summaries == [[ModelSummary], []]
    assert "model summary" not in caplog.text  # nor is there advice about it


def test_what_is_off_by_default_goes_through_every_stage(
    trained: Any, outside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Attention and embeddings that start from the towers; each bundle is held to the base rate before it counts."""
    checked: list[tuple[str, float, float]] = []

    def noted(bundle: Bundle, *arguments: Any) -> tuple[float, float]:
        mean, rate = check_base_rate(bundle, *arguments)
        checked.append((bundle.manifest.fitted_on, mean, rate))
        return mean, rate

    monkeypatch.setattr(serving, "check_base_rate", noted)
    switches = ("ranker.attention=4", "ranker.history=6", "ranker.start_from_towers=true", "evaluation.importance=10")
    quiet = ("tracking.enabled=false", "hydra.run.dir=run", "bundle.refit_on=all", "bundle.forms=torchscript")
    assert main(["train", *trained.data, "debug=does_it_run", *switches, *quiet]) == 0, capsys.readouterr().err
    assert [fitted_on for fitted_on, _, _ in checked] == ["train_val", "all"]
    assert all(0.5 < mean / rate < 2 for _, mean, rate in checked)

    bundle = Bundle.load(outside / "run" / "bundle")
    assert {"request", "history/item_id"} <= set(bundle.manifest.signatures["ranker"])
    assert bundle.check_sample() > 0
    assert len(bundle.recommend(["u0", None], k=5, histories=[["i3"], None])) == 10
    worth = json.loads((outside / "run" / "evaluation" / "importance.json").read_text())
    assert "history" in {row["name"] for row in worth}


@pytest.mark.parametrize("why", ["torch.export cannot express the model", "bundle.forms is torchscript"])
def test_the_summary_names_the_forms_that_could_not_be_made(why: str, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    absent = {"cuda": "no CUDA device", "user_tower.pt2": why, "user_tower.onnx": why}
    (tmp_path / "bundle" / "parity.json").write_text(json.dumps({"absent": absent}))
    metrics = {"val/ndcg_at_20": 0.25, "test/ndcg_at_20": 0.125}
    tracked: Any = SimpleNamespace(place="nowhere")
    console = Console(width=160, file=StringIO(), record=True)
    summary(console, compose("train"), tmp_path, metrics, tracked, None)
    said = console.export_text()
    assert ("not in the bundle" in said) == (f"user_tower.pt2, user_tower.onnx: {why}" in said) == ("cannot" in why)
    assert "0.1250" in said
    assert "no CUDA" not in said


def test_a_bundle_that_is_found_wanting_is_moved_aside(
    trained: Any, outside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def off(*_: Any) -> None:
        raise BundleError("bundle x: off.")

    monkeypatch.setattr(serving, "check_base_rate", off)
    quiet = ("tracking.enabled=false", "touchpoints=none", "bundle.forms=torchscript", "evaluation.rankers=[]")
    assert main(["train", *trained.data, "debug=does_it_run", *quiet, "hydra.run.dir=run"]) == 2
    assert "error: bundle x: off. It lies in " in capsys.readouterr().err
    assert not (outside / "run" / "bundle").exists()
    assert read_manifest(outside / "run" / "bundle.refused").fitted_on == "train_val"


@pytest.mark.parametrize(
    ("bought", "place"),
    [
        (range(1200), "window test ["),  # of 1,500 events the last 225 are the test window
        ((*range(600), *range(1300, 1500)), "window val ["),
        ((*range(50), *range(1060, 1500)), "what the ranker learns from ["),
    ],
)
def test_nothing_is_fitted_where_nothing_could_be_asked(
    trained: Any, outside: Path, capsys: pytest.CaptureFixture[str], bought: Sequence[int], place: str
) -> None:
    events = pl.read_parquet(trained.data[1].partition("=")[2]).with_row_index("n")
    kind = pl.when(pl.col("n").is_in(list(bought))).then(pl.lit("buy")).otherwise(pl.lit("view"))
    events.select(pl.exclude("n"), event_type=kind).write_parquet(outside / "rare.parquet")
    rare = ("data=tables", "data.events=rare.parquet", "data.relevant=[buy]", "debug=does_it_run")
    assert main(["train", *rare, "tracking.enabled=false", "hydra.run.dir=run"]) == 2
    told = capsys.readouterr().err
    assert f"error: {place}" in told
    assert "events, none of data.relevant=[buy]; the last are at 2024-01-" in told
    assert not (outside / "run" / "checkpoints").exists()


def test_a_log_in_files_makes_the_same_retriever(
    trained: Any, outside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In two parts, and nobody asks for all events at once."""
    job = ["train", *trained.data, "debug=does_it_run", "ranker=none", "tracking.enabled=false", "touchpoints=none"]
    assert main([*job, "bundle.forms=torchscript", "hydra.run.dir=memory"]) == 0, capsys.readouterr().err
    whole = cached_property(lambda prepared: pytest.fail(f"all events of {prepared.path} were read"))
    whole.__set_name__(Prepared, "events")
    monkeypatch.setattr(Prepared, "events", whole)
    files = ["data.log=mapped", "data.partitions=2", "data.cache_dir=parts"]
    assert main([*job, "bundle.forms=torchscript", *files, "hydra.run.dir=files"]) == 0, capsys.readouterr().err
    for name in ("user_embeddings", "item_embeddings", "histories"):
        one, two = (pl.read_parquet(outside / run / "bundle" / f"{name}.parquet") for run in ("memory", "files"))
        assert_frame_equal(one, two, check_exact=True)
    figures = [
        json.loads((outside / run / "evaluation" / "comparison.json").read_text()) for run in ("memory", "files")
    ]
    assert [model["metrics"] for model in figures[0]["models"]] == [model["metrics"] for model in figures[1]["models"]]


@pytest.mark.slow
def test_two_processes_fit_and_one_does_the_rest(
    trained: Any, python: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    """DDP on the CPU: gradients are reduced, validation is shared, and the bundle is written, measured, said once."""
    done = python(
        tmp_path,
        *("-m", "recsys", "train", *trained.data, "debug=does_it_run", "tracking.enabled=false"),
        "bundle.forms=torchscript",
        *("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"),
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test window, through the bundle") == 1
    assert "It is recommended to use `self.log" not in done.stdout + done.stderr
    one = json.loads((trained.bundle.parent / "evaluation" / "comparison.json").read_text())["models"]
    two = json.loads((tmp_path / "run" / "evaluation" / "comparison.json").read_text())["models"]
    assert [model["name"] for model in one] == [model["name"] for model in two]
    assert Bundle.load(tmp_path / "run" / "bundle").check_sample() > 0
