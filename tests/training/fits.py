"""Fits on processes of their own: ``python -m tests.training.fits SHOP FOLDER PROCESSES KIND STEPS [SIGNAL]``.

After so many steps the first process sends itself the signal, by default SIGTERM.
"""

import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback

from recsys.config.schema import ModelConfig, ObjectiveConfig, RankerConfig, RankerTrainingConfig, TrainingConfig
from recsys.data.asof import ItemClock
from recsys.data.snapshots import RankingSet
from recsys.data.tables import requests_as_of
from recsys.models.wide import IdInput
from recsys.stop import Stop
from recsys.training.fit import fit_retriever
from recsys.training.fit_ranker import fit_ranker
from recsys.training.task import embed_items

MODEL = ModelConfig(width=8, code_width=8, hidden=16, heads=2, history=12, factor_width=6)
OBJECTIVE = ObjectiveConfig("val/recall_at_8", "max")
EPOCHS = 3


class StopsAfter(Callback):
    """Sends this process a signal after so many steps; 0: never. One process is told, the others learn of it."""

    def __init__(self, steps: int, number: int) -> None:
        self.left, self.number = steps, number

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.left -= 1
        if self.left == 0 and trainer.is_global_zero:
            os.kill(os.getpid(), self.number)


def trainer_of(processes: int, stop_after: int, number: int = signal.SIGTERM) -> Any:
    """Make Trainers of one process, or of several that talk by gloo."""

    def make(callbacks: list[Callback], **arguments: Any) -> lightning.Trainer:
        return lightning.Trainer(
            accelerator="cpu",
            devices=processes,
            strategy="ddp" if processes > 1 else "auto",
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=1,
            callbacks=[StopsAfter(stop_after, number), *callbacks],
            **arguments,
        )

    return make


def recall(shop: Any, model: Any, k: int = 8) -> float:
    """Share of what users bought after the cut that stands among their first k."""
    users = shop.future.user.unique()
    request = requests_as_of(shop.log, shop.tables, users, shop.cut, MODEL.history)
    top = (model.user_tower(request) @ embed_items(model, shop.tables, ItemClock(shop.log), shop.cut).T).topk(k).indices
    hits = top[torch.searchsorted(users, shop.future.user)] == shop.future.item[:, None]
    return float(hits.any(1).float().mean())


def fit_towers(
    shop: Any,
    folder: Path,
    processes: int,
    stop_after: int = 0,
    number: int = signal.SIGTERM,
    *,
    batch_moments: int | None = None,
    checkpoint_minutes: float = 5.0,
) -> Any:
    """Fit a retriever on batches that do not come out even, and go on where ``folder`` stands.

    The processes share batches of 60 moments, or take ``batch_moments`` each.
    """
    training = TrainingConfig(
        batch_moments=batch_moments or 60 // processes,
        epoch_batches=1,
        negatives=16,
        max_epochs=EPOCHS,
        patience=EPOCHS,
        checkpoint_minutes=checkpoint_minutes,
        ledger=True,
    )
    return fit_retriever(
        shop.log,
        shop.tables,
        torch.ones(shop.log.n_items, dtype=torch.bool),
        shop.inputs,
        MODEL,
        training,
        trainer_of=trainer_of(processes, stop_after, number),
        folder=folder,
        seed=0,
        objective=OBJECTIVE,
        validate=lambda model: {"val/recall_at_8": recall(shop, model)},
        ckpt_path="last",
    )


def fit_pairs(folder: Path, processes: int, stop_after: int = 0) -> Any:
    """Fit a ranker without chance on 26 groups; the processes share batches of 8."""
    chance = torch.Generator().manual_seed(0)
    group = torch.arange(26).repeat_interleave(6)
    brand = torch.randint(2, 8, (len(group),), generator=chance)
    features = {"count": torch.randn(len(group), generator=chance), "brand": brand}
    train = RankingSet(group, features, (brand > 5).float()[:, None], torch.ones(len(group)))
    training = RankerTrainingConfig(batch_groups=8 // processes, epoch_batches=1, max_epochs=EPOCHS)
    return fit_ranker(
        train,
        RankerConfig(width=4, hidden=[8], dropout=0.0, id_dropout=0.0, training=training),
        id_inputs=(IdInput("brand", 8),),
        crosses=(),
        trainer_of=trainer_of(processes, stop_after),
        folder=folder,
        seed=0,
        epochs=EPOCHS,
        ckpt_path="last",
        ledger=True,
    )


def main(shop: str, folder: str, processes: str, kind: str, steps: str, number: str = str(int(signal.SIGTERM))) -> None:
    """Do one fit; one that is killed saves every few steps."""
    stop, place, many, after = Stop(), Path(folder), int(processes), int(steps)
    minutes = 5.0 if int(number) == signal.SIGTERM else 0.0
    with stop.listening(), stop.armed():
        if kind == "towers":
            little = torch.load(shop, weights_only=False)
            fit_towers(little, place, many, after, int(number), checkpoint_minutes=minutes)
        else:
            fit_pairs(place, many, after)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
