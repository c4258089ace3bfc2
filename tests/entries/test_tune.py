"""``recsys tune`` as a whole, on the small shop: trials, runs, files, a failure, a signal, and going on."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from recsys.cli import main
from recsys.config.check import check
from recsys.config.compose import compose
from recsys.config.schema import Config
from recsys.config.search import value_at
from recsys.entries import trial, tune
from recsys.tracking.server import quiet

RATES = "training.learning_rate: {low: 0.0001, high: 0.1, log: true}"
WIDTHS = "model.width: {low: 16, high: 64, step: 16}"


@pytest.fixture
def command(trained: Any, outside: Path) -> list[str]:
    """Two epochs a trial, so that there is something to prune; data that have been prepared before."""
    small = ("debug=does_it_run", "training.max_epochs=2", "trainer.limit_train_batches=2", "callbacks=none")
    cache = f"data.cache_dir={trained.folder}/prepared"
    return ["tune", *trained.data, *small, cache, "~search", f"+search={{{RATES}, {WIDTHS}}}", "hydra.run.dir=run"]


def study_of(folder: Path, name: str = "tables") -> optuna.Study:
    with quiet():
        return optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/tune.db")


def test_a_study_from_its_space_to_its_best(
    command: list[str], outside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four trials, of which the second runs out of memory; and a file that ``recsys train`` takes."""
    import mlflow

    run_trial, tried = trial.run_trial, []

    def runs_out(bench: Any, cfg: Config, *arguments: Any) -> dict[str, float]:
        tried.append(cfg)
        if len(tried) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return run_trial(bench, cfg, *arguments)

    monkeypatch.setattr(trial, "run_trial", runs_out)
    assert main([*command, "trials=4", "pruner.name=none"]) == 0
    printed = capsys.readouterr().out
    study = study_of(outside)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[1].user_attrs["reason"].startswith("out of memory: CUDA")
    assert study.trials[0].params == {"training.learning_rate": 1e-3, "model.width": 64}
    assert not any(cfg.ranker.enabled for cfg in tried)  # none of its keys is searched
    assert list((outside / "run" / "trials").iterdir()) == []  # checkpoints are gone
    assert "trial   1  fail" in printed

    found = json.loads((outside / "run" / "study" / "summary.json").read_text())
    assert found["best"]["values"] == [study.best_value]
    assert found["first"]["values"] == study.trials[0].values
    for name in ("history", "importance", "parallel_coordinates", "slices"):
        assert (outside / "run" / "study" / f"{name}.png").is_file()

    best = compose("train", ["experiment=best"], outside / "run")
    assert {key: value_at(best, key) for key in study.best_params} == study.best_params
    assert (best.data.events, best.training.max_epochs, best.ranker.enabled) == (tried[0].data.events, 2, True)
    assert len((outside / "run" / "experiment" / "best.yaml").read_text().splitlines()) <= 40

    with quiet():
        runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
        (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        nested = {run.info.run_name: run for run in runs if run is not parent}
        assert {run.data.tags["mlflow.parentRunId"] for run in nested.values()} == {parent.info.run_id}
        assert {name: run.info.status for name, run in nested.items()} == {
            "trial 0": "FINISHED",
            "trial 1": "FAILED",
            "trial 2": "FINISHED",
            "trial 3": "FINISHED",
        }
        assert "out of memory" in nested["trial 1"].data.tags["reason"]
        assert nested["trial 2"].data.metrics["best/val/ndcg_at_20"] == study.trials[2].value
        assert nested["trial 2"].data.params["model.width"] == str(study.trials[2].params["model.width"])
        assert parent.info.status == "FINISHED"
        assert parent.data.metrics["best/val/ndcg_at_20"] == study.best_value
        assert not [key for run in runs for key in run.data.metrics if key.startswith("test/")]

    assert main([*command, "trials=5", "pruner.name=none"]) == 0  # one more, in the same run
    assert len(study_of(outside).trials) == 5
    with quiet():
        assert len(mlflow.search_runs(search_all_experiments=True, output_format="list")) == 6
    assert main([*command, "trials=6", "training.negatives=99"]) == 2
    assert "training.negatives was 256, is 99" in capsys.readouterr().err


@pytest.mark.parametrize("ks", [[5], None], ids=["own cut-offs", "default"])
def test_train_takes_the_best_at_its_cut_off(tmp_path: Path, ks: list[int] | None) -> None:
    own = ["evaluation.ks=[5]", "objective.metric=val/recall_at_5"] if ks else []
    found = {"study": "s", "objectives": ["val/recall_at_5"], "best": {"number": 0, "values": [0.5]}}
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "best.yaml").write_text(tune.best_yaml(compose("tune", own), found))
    best = compose("train", ["experiment=best"], tmp_path)
    check(best)
    assert best.evaluation.ks == (ks or compose("train").evaluation.ks)


def test_the_best_keeps_event_types_with_dots(tmp_path: Path) -> None:
    cfg = compose("tune")
    cfg = replace(cfg, data=replace(cfg.data, weights={"page.view": 0.5, "buy": 2.0}))
    found = {"study": "s", "objectives": ["val/ndcg_at_20"], "best": {"number": 0, "values": [0.5]}}
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "best.yaml").write_text(tune.best_yaml(cfg, found))
    assert compose("train", ["experiment=best"], tmp_path).data.weights == {"page.view": 0.5, "buy": 2.0}


def test_the_best_begins_where_its_trials_began(tmp_path: Path) -> None:
    """What moves the weights of a trial is part of it; where it ran is not."""
    moves = ["init_from=models:/recsys-shop/1", "+trainer.gradient_clip_val=1.0"]
    cfg = compose("tune", [*moves, "trainer.num_nodes=1", "trainer.log_every_n_steps=7"])
    found = {"study": "s", "objectives": ["val/ndcg_at_20"], "best": {"number": 0, "values": [0.5]}}
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "best.yaml").write_text(tune.best_yaml(cfg, found))
    best = compose("train", ["experiment=best"], tmp_path)
    assert best.init_from == "models:/recsys-shop/1"
    assert best.trainer["gradient_clip_val"] == 1.0
    assert best.trainer.get("log_every_n_steps") == compose("train").trainer.get("log_every_n_steps") != 7
    common = tune.settings(cfg, "data")
    assert common["init_from"] == "models:/recsys-shop/1"
    assert common["trainer.gradient_clip_val"] == 1.0
    assert "trainer.log_every_n_steps" not in common


def test_a_signal_in_the_middle_of_a_fit_leaves_a_study_that_goes_on(
    command: list[str], outside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The signal comes after the first epoch of the second trial, while Lightning has handlers of its own."""
    run_trial, tried = trial.run_trial, []

    def interrupted(bench: Any, cfg: Config, tracked: Any, folder: Path, watch: Any) -> dict[str, float]:
        tried.append(cfg)

        def send(metrics: dict[str, float]) -> None:
            watch(metrics)
            if len(tried) == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        return run_trial(bench, cfg, tracked, folder, send)

    monkeypatch.setattr(trial, "run_trial", interrupted)
    quick = [*command, "trials=2", "tracking.enabled=false", "storage=sqlite:///tune.db", "pruner.name=none"]
    assert main(quick) == 128 + signal.SIGTERM
    assert "the same command goes on with study 'tables'" in " ".join(capsys.readouterr().out.split())
    assert [t.state.name for t in study_of(outside).trials] == ["COMPLETE", "FAIL", "WAITING"]
    assert main(quick) == 0
    trials = study_of(outside).trials
    assert [t.state.name for t in trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert trials[2].params == trials[1].params


def test_a_hopeless_trial_is_pruned_after_its_first_epoch(
    command: list[str], outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_trial = trial.run_trial

    def worse_and_worse(bench: Any, cfg: Config, tracked: Any, folder: Path, watch: Any) -> dict[str, float]:
        if cfg.training.learning_rate == 1e-3:
            return run_trial(bench, cfg, tracked, folder, watch)
        return run_trial(bench, cfg, tracked, folder, lambda metrics: watch(dict.fromkeys(metrics, -1.0)))

    monkeypatch.setattr(trial, "run_trial", worse_and_worse)
    quiet_run = ["tracking.enabled=false", "pruner.startup=1", "study=pruned"]
    assert main([*command, "trials=2", *quiet_run]) == 0
    first, second = study_of(outside, "pruned").trials
    assert (first.state.name, len(first.intermediate_values)) == ("COMPLETE", 2)
    assert (second.state.name, second.intermediate_values) == ("PRUNED", {0: -1.0})


def test_a_grid_ends_when_it_has_been_walked(
    command: list[str], outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []

    def noted(bench: Any, cfg: Config, *arguments: Any) -> dict[str, float]:
        widths.append(cfg.model.width)
        return {"val/ndcg_at_20": 1 / cfg.model.width, "val/coverage_at_20": 0.5, "milliseconds_a_user": 1.0}

    monkeypatch.setattr(trial, "run_trial", noted)
    grid = [*command[:-2], f"+search={{{WIDTHS}}}", "sampler.name=grid", "trials=100"]
    several = ["also=[coverage_at_20,milliseconds_a_user]", "pruner.name=none", "tracking.enabled=false", "study=grid"]
    assert main([*grid, *several, "hydra.run.dir=run"]) == 0
    assert widths == [64, 16, 32, 48]
    study = study_of(outside, "grid")
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MAXIMIZE", "MINIMIZE"]
    assert (outside / "run" / "study" / "front.png").is_file()


def test_the_final_fit_is_the_main_job_with_the_best(
    command: list[str], outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recsys.entries import train

    fitted: list[Config] = []
    monkeypatch.setattr(train, "run", fitted.append)
    monkeypatch.setattr(trial, "run_trial", lambda bench, cfg, *rest: {"val/ndcg_at_20": -float(cfg.model.width)})
    off = ["tracking.enabled=false", "study=final", "sampler.name=random", "pruner.name=none"]
    assert main([*command, *off, "trials=6", "final_fit=true"]) == 0
    (cfg,) = fitted
    assert type(cfg) is Config
    assert cfg.model.width == study_of(outside, "final").best_params["model.width"] < 64
    assert cfg.run_dir == str(outside / "run" / "final")
    assert cfg.ranker.enabled


def test_a_worker_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cfg = compose("tune", ["trainer=gpu"])
    with tune.on_device(cfg) as first, tune.on_device(cfg) as second:
        assert [one.trainer["devices"] for one in (first, second)] == [[0], [1]]
    with tune.on_device(compose("tune", [])) as on_cpu:
        assert on_cpu.trainer["devices"] == 1
