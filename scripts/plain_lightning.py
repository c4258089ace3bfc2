"""What `benchmark.py train` is measured against: the two-tower model trained as tutorials do.

A Dataset that builds one example a row, the default collate, dense gradients and Adam for every table. Model, loss,
negatives, item state and data are those of recsys; what differs is that every event is a query of its own, with a
history of its own. In its favour: items of the batch are encoded once however often they were drawn, and batches
are near each other in time as ours are, without which its item state would be that of the first day.
"""

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from recsys.data.batches import PERIOD_DAYS, MomentBatches
from recsys.data.log import DAY, InteractionLog
from recsys.data.moments import Moments
from recsys.data.tables import FeatureTables
from recsys.models.losses import inclusion_log_probability, sampled_softmax
from recsys.models.two_tower import TwoTower


class PositiveEvents(Dataset[dict[str, Any]]):
    """One positive event a row; everything on the CPU.

    ``features`` is what ``UserTower.forward`` takes, histories padded behind to ``history``; ``item`` the item's row,
    ``time`` that of the moment in microseconds.
    """

    def __init__(self, log: InteractionLog, moments: Moments, tables: FeatureTables, history: int) -> None:
        self._log, self._moments, self._tables, self._history = log, moments, tables, history
        self._moment = torch.repeat_interleave(torch.arange(len(moments)), moments.offsets.diff())
        self.time = moments.time[self._moment]

    def __len__(self) -> int:
        return len(self._moment)

    def __getitem__(self, index: int) -> dict[str, Any]:
        log, moments, tables = self._log, self._moments, self._tables
        moment = self._moment[index]
        user, event, time = moments.user[moment], moments.event[moment], moments.time[moment]
        end = int(moments.history_end[moment])
        begin = max(end - self._history, int(log.offsets[user]))
        items = log.item[begin:end]
        features = {name: values[user] for name, values in tables.user.items()}
        features |= {name: values[event] for name, values in tables.context.items()}
        features |= {f"history/{name}": self._padded(values[items]) for name, values in tables.item.items()}
        features["history/age"] = self._padded((time - log.time[begin:end]).float() / DAY)
        features["history/repeats"] = self._padded(log.repeats[begin:end])
        return {"features": features, "item": moments.items[index], "time": time}

    def _padded(self, values: Tensor) -> Tensor:
        whole = values.new_zeros(self._history, *values.shape[1:])
        whole[: len(values)] = values
        return whole


class TimeLocal(Sampler[list[int]]):
    """Shuffled batches of rows that are near each other in time."""

    def __init__(self, time: Tensor, batch_size: int, seed: int) -> None:
        self._period = (time - time.min()) // (PERIOD_DAYS * DAY)
        self._size = batch_size
        self._chance = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self._period) // self._size)

    def __iter__(self) -> Iterator[list[int]]:
        key = self._period + torch.rand(len(self._period), generator=self._chance, dtype=torch.float64)
        batches = key.argsort().split(self._size)
        for turn in torch.randperm(len(batches), generator=self._chance).tolist():
            yield batches[turn].tolist()


class PlainTask(lightning.LightningModule):
    """The usual module: both towers on what the loader brings, dense Adam at a constant rate.

    ``ours`` lends catalogue, number of negatives and item clock; it and ``tables`` are on the device to train on.
    """

    def __init__(self, model: TwoTower, ours: MomentBatches, tables: FeatureTables, lr: float) -> None:
        super().__init__()
        self.model, self._lr = model, lr
        self._ours, self._tables = ours, tables

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        positive, time, ours = batch["item"], batch["time"], self._ours
        query = self.model.user_tower(batch["features"])
        drawn = torch.randint(len(ours.catalogue), (ours.negatives,), device=positive.device)
        rows, place = torch.cat([positive, ours.catalogue[drawn]]).unique(return_inverse=True)
        as_of, until = int(time.min()), int(time.max()) + 1
        candidate = self.model.item_tower(self._tables.items(rows) | ours.clock.state(rows, as_of))
        share = ours.clock.count(rows, as_of, until).float() / max(ours.clock.total(as_of, until), 1)
        log_q = inclusion_log_probability(share, len(positive), ours.negatives, len(ours.catalogue))
        own = torch.arange(len(positive), device=positive.device)
        loss = sampled_softmax(query, candidate, self.model.temperature, log_q, own, place[: len(positive)])
        self.log("train/loss", loss, batch_size=len(positive))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self._lr)


def plain_loader(events: PositiveEvents, batch_size: int, seed: int) -> DataLoader[dict[str, Any]]:
    """Load in this process; a worker would be a second one."""
    return DataLoader(events, batch_sampler=TimeLocal(events.time, batch_size, seed))
