"""The LightningModule of the retriever: the only place of this stage that logs."""

from dataclasses import dataclass

import pytorch_lightning as lightning
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from recsys.data.asof import ItemClock
from recsys.data.batches import Batch, MomentBatches
from recsys.data.log import InteractionLog
from recsys.data.tables import FeatureTables, requests_as_of
from recsys.models.losses import inclusion_log_probability, sampled_softmax
from recsys.models.two_tower import TwoTower
from recsys.training.optimizers import retriever_optimizer


@dataclass(frozen=True)
class LearningRates:
    """Of dense parameters and of embedding tables; both fall linearly to a twentieth over ``total_steps``."""

    dense: float
    embedding: float
    weight_decay: float
    total_steps: int


class RetrieverTask(lightning.LightningModule):
    """Trains a two-tower model on batches of moments.

    Args:
        model: The plain module that is trained. Parameters that it does not use are frozen: processes that train
            together would wait for their gradients.
        batches: Of the window to fit on.
        tables: Encoded features, on the device of the batches' log.
        rates: Learning rates.
    """

    def __init__(
        self,
        model: TwoTower,
        batches: MomentBatches,
        tables: FeatureTables,
        rates: LearningRates,
    ) -> None:
        super().__init__()
        self.model = model
        self._batches, self._tables, self._rates = batches, tables, rates
        encoder, user_tower = model.encoder, model.user_tower
        if not encoder.use_content:
            encoder.content.requires_grad_(False)
            encoder.project.requires_grad_(False)
        if not user_tower.use_content:
            user_tower.content.requires_grad_(False)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the loss of one batch."""
        loss = retrieval_loss(self.model, batch, self._tables, self._batches)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.user))
        self.log("train/temperature", self.model.temperature, batch_size=len(batch.user))
        return loss

    def on_train_epoch_start(self) -> None:
        """Set the order of this epoch: a fit that goes on from a checkpoint goes on with its order."""
        self._batches.epoch = self.current_epoch

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Row-wise Adagrad for tables, AdamW for the rest, both with linear decay."""
        rates = self._rates
        optimizer = retriever_optimizer(
            self.model, lr=rates.dense, embedding_lr=rates.embedding, weight_decay=rates.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: max(1 - step / max(rates.total_steps, 1), 0.05)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def retrieval_loss(model: TwoTower, batch: Batch, tables: FeatureTables, batches: MomentBatches) -> Tensor:
    """Run both towers once over a batch and return the sampled softmax loss, scalar.

    Every distinct item is encoded once; histories and candidates index into the result.
    """
    lookup = torch.nn.functional.embedding
    code, taste = model.encoder(tables.items(batch.items), "")  # [n, C], [n, D]
    window = batch.window  # [G, W]
    scores = lookup(window, model.user_tower.item_scores(code, taste))
    codes, tastes = model.user_tower.pool(
        lookup(window, code), lookup(window, taste), scores, batch.age, batch.repeats, batch.visible
    )
    length = batch.visible.sum(2).flatten()[batch.slot]
    features = tables.moments(batch.user, batch.event)
    query = model.user_tower.query(features, codes.flatten(0, 1)[batch.slot], tastes.flatten(0, 1)[batch.slot], length)

    rows = batch.items[batch.candidates]
    state = batches.clock.state(rows, int(batch.as_of))
    candidate = model.item_tower.candidates(
        lookup(batch.candidates, code),
        lookup(batch.candidates, taste),
        tables.item["item_id"][rows],
        state["popularity"],
        state["age"],
    )
    log_q = inclusion_log_probability(batch.share, len(batch.visible) - 1, batches.negatives, len(batches.catalogue))
    # What a block bought is among the candidates of its own moments with certainty.
    block = batch.slot // batch.visible.size(1)
    own = torch.zeros(len(batch.visible), len(rows), dtype=torch.bool, device=rows.device)
    own[block[batch.positive_query], batch.positive_candidate] = True
    log_q = torch.where(own[block], 0.0, log_q)  # [B, C]
    positives = batch.positive_query, batch.positive_candidate, batch.positive_weight
    return sampled_softmax(query, candidate, model.temperature, log_q, *positives)


@torch.no_grad()
def embed_items(model: TwoTower, tables: FeatureTables, clock: ItemClock, cut: int, chunk: int = 8192) -> Tensor:
    """Embed the whole catalogue as of a cut, ``[N, D]``."""
    rows = torch.arange(len(tables.item["item_id"]), device=tables.item["item_id"].device)
    return torch.cat([model.item_tower(tables.items(c) | clock.state(c, cut)) for c in rows.split(chunk)])


@torch.no_grad()
def embed_users(
    model: TwoTower, log: InteractionLog, tables: FeatureTables, users: Tensor, cut: int, history: int, chunk: int = 256
) -> Tensor:
    """Embed users ``[B]`` as of a cut, from their last ``history`` events, ``[B, D]``."""
    parts = (requests_as_of(log, tables, rows, cut, history) for rows in users.split(chunk))
    return torch.cat([model.user_tower(part) for part in parts])
