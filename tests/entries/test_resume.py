"""The main job is stopped in one of its fits, and goes on; tests/scripts/test_kill_and_resume.py kills it for good."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch

from recsys.cli import main

STOPS = "+callbacks.stops={_target_: tests.training.fitting.Sends, hook: on_train_batch_end, turn: 3, numbers: [15]}"
"""SIGTERM in the third batch of whatever fit has so many left."""


def runs(uri: str) -> list[Any]:
    client = mlflow.MlflowClient(uri)
    return client.search_runs([one.experiment_id for one in client.search_experiments()])


def states(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    places = sorted(run.glob("checkpoints/**/*.ckpt"))
    return {str(p.relative_to(run)): torch.load(p, weights_only=True)["state_dict"] for p in places}


@pytest.mark.slow
def test_a_job_that_is_stopped_goes_on_in_the_same_run(
    trained: Any, new_store: Callable[[Path], str], outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_store(outside / "mlflow.db")
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    less = (
        "evaluation.rankers=[]",
        "evaluation.baselines=[popular]",
        "evaluation.bootstrap=100",
        "bundle.forms=torchscript",
    )
    job = ("train", *trained.data, "debug=does_it_run", "hydra.run.dir=run", "ckpt_path=last", *less)
    assert main([*job, STOPS]) == 143  # in the towers
    assert capsys.readouterr().err.endswith("terminated\n")
    (run,) = runs("sqlite:///mlflow.db")
    assert run.info.status == "KILLED"
    assert main([*job, STOPS]) == 143  # in the early towers
    assert sorted(path.parent.name for path in Path("run").glob("checkpoints/**/last.ckpt")) == ["checkpoints", "early"]

    assert main(job) == 0, capsys.readouterr().err
    told = capsys.readouterr().err
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    (again,) = runs("sqlite:///mlflow.db")
    assert (again.info.run_id, again.info.status) == (run.info.run_id, "FINISHED")
    assert "tracking server" not in told  # MLflow refuses parameters that change

    whole, parts = states(trained.folder / "run"), states(Path("run"))
    assert [name for name in whole if "_only/" not in name] == [*parts]  # wide_only, deep_only
    for name, state in parts.items():
        assert all(whole[name][key].equal(value) for key, value in state.items()), name
    assert main([*job, "model.width=32"]) == 2
    assert "model.width was 64, now it is 32" in capsys.readouterr().err
