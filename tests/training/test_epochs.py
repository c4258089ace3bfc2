import pytest
import pytorch_lightning as lightning
import torch

from recsys.config.schema import ObjectiveConfig
from recsys.training.epochs import Course
from tests.training.fitting import trainer_on

OBJECTIVE = ObjectiveConfig("val/loss", "min")


class Task(lightning.LightningModule):
    """Counts the steps in a parameter: each adds 1."""

    def __init__(self):
        super().__init__()
        self.model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.model.weight)

    def training_step(self, batch, _):
        assert self.model.training
        return -self.model(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


class Batches:
    """Three an epoch; of a list Lightning would think that it holds loaders."""

    def __len__(self):
        return 3

    def __iter__(self):
        return iter([torch.ones(1, 1)] * 3)

    def state_dict(self):
        return {"cuts": [[3, 0]]}

    def load_state_dict(self, state):
        raise AssertionError("nothing is gone on with here")

    def steps_left(self):
        return 0


def run(folder, values=(), objective=OBJECTIVE, max_epochs=4, patience=1):
    """Validation returns given values, or is left out if there are none."""
    turn = iter(values)

    def validate(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        return {"val/loss": next(turn)}

    course = Course(
        trainer_on("cpu"),
        folder,
        max_epochs=max_epochs,
        patience=patience,
        made_from={},
        objective=objective,
        validate=validate if values else None,
    )
    fitted = course.run(Task(), Batches())
    assert not fitted.model.training
    return fitted, fitted.model.weight.item(), course.trainer


def test_the_task_gets_the_best_epoch(tmp_path):
    fitted, steps, trainer = run(tmp_path, (0.5, 0.25, 0.75))
    assert (fitted.epochs, fitted.best, fitted.metrics) == (2, 0.25, {"val/loss": 0.25})
    assert [found["val/loss"] for found in fitted.results] == [0.5, 0.25, 0.75]
    assert steps == 6  # three an epoch
    assert trainer.current_epoch == 3
    assert trainer.callback_metrics["val/loss"] == 0.75
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]


def test_patience_is_how_many_epochs_may_be_worse(tmp_path):
    fitted, _, trainer = run(tmp_path, (0.5, 0.75, 0.25, 0.5), patience=2)
    assert (trainer.current_epoch, fitted.epochs) == (4, 3)


@pytest.mark.parametrize("values", [(), (0.5, 0.25, 0.75)])
def test_without_an_objective_all_epochs_are_run(tmp_path, values):
    fitted, steps, trainer = run(tmp_path, values, objective=None, max_epochs=3)
    assert (trainer.current_epoch, fitted.epochs, len(fitted.results), steps) == (3, 3, len(values), 9)
    assert fitted.best != fitted.best  # NaN
    assert ("val/loss" in trainer.callback_metrics) == bool(values)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
