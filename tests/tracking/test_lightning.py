"""Epoch metrics of a real fit reach the run, and the fit does not close it."""

import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks.progress.progress_bar import get_standard_metrics
from torch import Tensor, nn

from recsys.config.schema import TrackingConfig
from recsys.tracking.lightning import RunLogger
from recsys.tracking.run import start_run


class Tiny(pl.LightningModule):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Tensor) -> Tensor:
        loss = self.layer(batch).pow(2).mean()
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> torch.utils.data.DataLoader[Tensor]:
        return torch.utils.data.DataLoader(torch.ones(4, 1), batch_size=2)


def test_a_fit_logs_and_leaves_the_run_open(tracking: TrackingConfig, tmp_path: Path) -> None:
    import mlflow

    with start_run(tracking, tmp_path) as run:
        trainer = pl.Trainer(
            max_epochs=3, logger=RunLogger(run, "refit/"), enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accelerator="cpu",
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning's advice on loaders and logging intervals
            trainer.fit(Tiny())
        assert get_standard_metrics(trainer) == {}  # no piece of the run's id in the progress bar
        assert mlflow.get_run(str(run.run_id)).info.status == "RUNNING"
    told = mlflow.MlflowClient().get_metric_history(str(run.run_id), "refit/train/loss")
    assert len(told) == 3
    assert [m.step for m in told] == [1, 3, 5]
    assert "refit/epoch" not in mlflow.get_run(str(run.run_id)).data.metrics
