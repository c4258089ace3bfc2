"""The LightningModule of the ranker: the only place of the second stage that logs."""

from collections.abc import Callable

import pytorch_lightning as lightning
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from recsys.config.schema import RankerTrainingConfig
from recsys.data.pair_batches import PairBatch, PairBatches
from recsys.models.ranking_losses import lambda_rank, listwise_softmax, weighted_bce
from recsys.models.wide_deep import WideDeep
from recsys.training.ftrl import FTRL
from recsys.training.optimizers import JoinedOptimizer, RowwiseAdagrad

FirstLoss = Callable[[Tensor, Tensor, PairBatch], Tensor]

LOSSES: dict[str, FirstLoss] = {
    "bce": lambda logits, labels, batch: weighted_bce(logits, labels, batch.weights),
    "listwise": lambda logits, labels, batch: listwise_softmax(
        logits, labels, batch.group, batch.n_groups, batch.weights
    ),
    "lambda_rank": lambda logits, labels, batch: lambda_rank(logits, labels, batch.group, batch.n_groups),
}
"""Name to the loss of the first task, of logits and labels ``[p]``."""
SLOWEST = 0.02
"""The share of a learning rate that is left at the end of a schedule."""


class RankerTask(lightning.LightningModule):
    """Trains a Wide & Deep ranker on groups of pairs.

    Args:
        model: The plain module that is trained. Parameters that it does not use are frozen: processes that train
            together would wait for their gradients.
        batches: Of encoded pairs.
        training: Loss, optimizers and learning rates.
    """

    def __init__(self, model: WideDeep, batches: PairBatches, training: RankerTrainingConfig) -> None:
        super().__init__()
        self.model = model
        self._batches, self._training = batches, training
        model.requires_grad_(False)
        for p in (*model.wide_parameters(), *model.deep_parameters()):
            p.requires_grad_(True)
        if not model.deep.use_history:
            model.deep.attention.requires_grad_(False)

    def training_step(self, batch: PairBatch, _: int) -> Tensor:
        """Return the loss of one batch."""
        training = self._training
        loss = ranker_loss(self.model.score(batch.encoded), batch, training.loss, training.bce_weight)
        self.log("train/ranker_loss", loss, prog_bar=True, batch_size=batch.n_groups)
        return loss

    def on_train_epoch_start(self) -> None:
        """Set the order of this epoch: a fit that goes on from a checkpoint goes on with its order."""
        self._batches.epoch = self.current_epoch

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Give each part its optimizer; the rates fall linearly to a fiftieth, but for those of the wide part."""
        optimizer = ranker_optimizer(self.model, self._training)
        steps = max(self._training.max_epochs * len(self._batches), 1)

        def falling(step: int) -> float:
            return max(1 - step / steps, SLOWEST)

        def constant(_: int) -> float:
            return 1.0

        wide = {id(p) for p in self.model.wide_parameters()}
        lambdas: list[Callable[[int], float]] = [
            constant if id(group["params"][0]) in wide else falling for group in optimizer.param_groups
        ]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambdas)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def ranker_loss(logits: Tensor, batch: PairBatch, kind: str, bce_weight: float = 0.0) -> Tensor:
    """Average the losses of the tasks: of the first by ``kind``, of the others by cross entropy; scalar, float32.

    Args:
        logits: ``[p]``, or ``[p, T]`` for several tasks.
        batch: Of these pairs.
        kind: One of :data:`LOSSES`.
        bce_weight: Of the first task's cross entropy beside a loss of lists or of orders, which by itself leaves open
            what a logit is worth.
    """
    columns = logits.view(len(batch.weights), -1).unbind(1)
    labels = batch.labels.unbind(1)
    first = LOSSES[kind](columns[0], labels[0], batch)
    if kind != "bce" and bce_weight:
        first = first + bce_weight * weighted_bce(columns[0], labels[0], batch.weights)
    losses = [first]
    losses += [weighted_bce(x, y, batch.weights) for x, y in zip(columns[1:], labels[1:], strict=True)]
    return torch.stack(losses).mean()


def ranker_optimizer(model: WideDeep, training: RankerTrainingConfig) -> JoinedOptimizer:
    """Move the wide part by FTRL or row-wise Adagrad, embedding tables by the latter, the rest by AdamW or Adagrad."""
    wide = model.wide_parameters()
    tables = [m.weight for m in model.deep.modules() if isinstance(m, nn.Embedding)] if model.use_deep else []
    is_table = {id(table) for table in tables}
    dense = [p for p in model.deep_parameters() if id(p) not in is_table]
    parts: list[torch.optim.Optimizer] = []
    if wide and training.wide_optimizer == "ftrl":
        parts.append(FTRL(wide, lr=training.wide_learning_rate, l1=training.wide_l1))
    elif wide:
        parts.append(RowwiseAdagrad(wide, lr=training.wide_learning_rate))
    if tables:
        parts.append(RowwiseAdagrad(tables, lr=training.embedding_learning_rate))
    if training.deep_optimizer == "adagrad":
        parts.append(torch.optim.Adagrad(dense, lr=training.learning_rate))
    else:
        parts.append(torch.optim.AdamW(dense, lr=training.learning_rate, weight_decay=training.weight_decay))
    return JoinedOptimizer(parts)
