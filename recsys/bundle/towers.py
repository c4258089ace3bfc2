"""The two compiled towers of a bundle, with all that they read of users and items."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from recsys.bundle import format as part
from recsys.bundle.format import Manifest
from recsys.bundle.histories import Fresh, Histories
from recsys.bundle.parts import read_tower, run_tower
from recsys.bundle.requests import ASOF_COLUMN, Id, UserInputs, item_table
from recsys.bundle.segments import FreshSegments
from recsys.data.encode import Encoder

CHUNK = 512
"""Requests, or items, that go through a tower at a time."""


class Towers:
    """User and item tower in memory; nothing in it changes.

    Args:
        folder: Of the bundle.
        manifest: Of the bundle.
        users: ``user_id`` and attributes, U rows.
        items: The catalogue with its ``asof/`` features, N rows.

    Attributes:
        inputs: What stands between a raw request and the user tower.
    """

    def __init__(self, folder: Path, manifest: Manifest, users: pl.DataFrame, items: pl.DataFrame) -> None:
        self._user_tower = read_tower(folder / part.USER_TOWER)
        self._item_tower = read_tower(folder / part.ITEM_TOWER)
        self._width = manifest.width
        encoder = Encoder.load(folder / part.VOCABULARIES)
        table = item_table(encoder, items)
        histories = Histories.load(folder / part.HISTORIES, manifest.n_users)
        segments = FreshSegments.load(folder / part.SEGMENTS, items) if (folder / part.SEGMENTS).is_dir() else None
        length, user_type = manifest.history_length, manifest.user_id_type
        self.inputs = UserInputs(encoder, users, table, histories, length, user_type, segments)
        self._asof = {name: torch.from_numpy(items[column].to_numpy().copy()) for name, column in ASOF_COLUMN.items()}

    @property
    def item_features(self) -> dict[str, Tensor]:
        """Encoded features of the items, ``[N]`` or ``[N, slots]``."""
        return {name: column[1:-1] for name, column in self.inputs.table.items()}

    def users(
        self,
        ids: Sequence[Id | None],
        rows: Sequence[int],
        fresh: Sequence[Fresh],
        now: int,
        context: pl.DataFrame | None,
        told: pl.DataFrame | None = None,
    ) -> Tensor:
        """Embed B users as of ``now``, ``[B, D]``; arguments as :meth:`UserInputs.build` takes them."""
        out = torch.empty(len(ids), self._width)
        for start in range(0, len(ids), CHUNK):
            chunk = slice(start, start + CHUNK)
            some, asked = rows[chunk], None if context is None else context[chunk]
            theirs = None if told is None else told[chunk]
            inputs = self.inputs.build(ids[chunk], some, fresh[chunk], [now] * len(some), asked, theirs)
            out[chunk] = run_tower(self._user_tower, inputs)
        return out

    def items(self, rows: Sequence[int]) -> Tensor:
        """Embed items of the catalogue by row as of the cut, ``[B, D]``."""
        out = torch.empty(len(rows), self._width)
        for start in range(0, len(rows), CHUNK):
            out[start : start + CHUNK] = run_tower(self._item_tower, self.item_inputs(rows[start : start + CHUNK]))
        return out

    def item_inputs(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Return what the item tower reads of items of the catalogue as of the cut, ``[B]`` or ``[B, slots]``."""
        places = torch.tensor(rows, dtype=torch.int64)
        inputs = {name: column[places + 1] for name, column in self.inputs.table.items()}
        return inputs | {name: column[places] for name, column in self._asof.items()}
