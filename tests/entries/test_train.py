"""The stages of the main job that can be looked at alone; tests/test_readme.py runs it whole."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from pytorch_lightning.callbacks import ModelSummary

from recsys.bundle.reader import Bundle
from recsys.config.compose import compose
from recsys.entries.retriever import trainer_factory


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


def test_two_processes_fit_and_one_does_the_rest(
    trained: Any, python: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    """DDP on the CPU: gradients are reduced, validation is shared, and the bundle is written, measured, said once."""
    done = python(
        tmp_path,
        *("-m", "recsys", "train", *trained.data, "debug=does_it_run", "tracking.enabled=false"),
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
