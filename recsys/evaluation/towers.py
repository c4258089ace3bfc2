"""A model in memory as a scorer: for the validation window, before there is a bundle."""

import torch
from torch import Tensor

from recsys.data.log import InteractionLog
from recsys.data.tables import FeatureTables
from recsys.models.two_tower import TwoTower
from recsys.training.task import embed_items, embed_users


class TowerScorer:
    """Scores the catalogue as of a cut with both towers; everything on the device of the model.

    Args:
        model: In evaluation mode.
        log: Events before the cut.
        tables: Encoded features.
        cut: Microseconds since 1970 UTC.
        history: L, the events that the user tower reads.
    """

    name = "two_tower"

    def __init__(self, model: TwoTower, log: InteractionLog, tables: FeatureTables, cut: int, history: int) -> None:
        device = next(model.parameters()).device
        self._model, self._log, self._tables = model, log.to(device), tables.to(device)
        self._cut, self._history, self._device = cut, history, device
        self._items = embed_items(model, self._tables, self._tables.clock(self._log), cut)

    @torch.no_grad()
    def scores(self, users: Tensor) -> Tensor:
        """Return inner products ``[B, N]`` for user rows ``[B]``."""
        rows = users.to(self._device)
        return (embed_users(self._model, self._log, self._tables, rows, self._cut, self._history) @ self._items.T).cpu()
