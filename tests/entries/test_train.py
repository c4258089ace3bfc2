"""The stages of the main job that can be looked at alone; tests/test_readme.py runs it whole."""

import logging

import pytest
from pytorch_lightning.callbacks import ModelSummary

from recsys.config.compose import compose
from recsys.entries.train import trainer_factory


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
