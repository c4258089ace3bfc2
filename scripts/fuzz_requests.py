"""Random raw requests for a bundle: everything that its door lets in, likely or not."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recsys.bundle.reader import Bundle
from recsys.bundle.requests import ASOF, Event, Id
from recsys.columns import ITEM_ID
from recsys.data.candidates import Candidates
from recsys.data.encode import Encoder
from recsys.data.recent import AGE
from recsys.features import HISTORY, OOV_ID, PAD_ID, REQUEST, Feature

ODD_TEXTS = (
    "", " ", "\x00", "nan", "None", "\u202eevil", "\U0001f600" * 9, "e\u0301", "\u00e9", "\ufeff", "I\u0307", "'; --",
    "x" * 999,
)  # fmt: skip
ODD_NUMBERS = (float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1e-45, 3.4e38, -1e30)
LENGTHS = (0, 0, 1, 2, 3, 5, 8, 13)
"""Of fresh histories, equally likely."""
LONG = (40, 120, 2000)
"""Of some of them in batches of long histories."""
DAYS = (0, 1, 2, 7, 15, 28, 31, 63, 365, 1023)
"""Ages of events come in whole days as well, where buckets of ages begin."""


@dataclass(frozen=True)
class Asked:
    """B raw requests, as :meth:`recsys.bundle.reader.Bundle.embed_users` takes them."""

    users: list[Id | None]
    histories: list[list[Event] | None]
    as_of: datetime
    context: pl.DataFrame | None


class Source:
    """Draws raw requests for a bundle."""

    def __init__(self, bundle: Bundle, seed: int) -> None:
        self.bundle = bundle
        self.chance = np.random.default_rng(seed)
        self.encoder: Encoder = bundle._towers.inputs.encoder
        self._users, self._items = bundle.user_ids.to_list(), bundle.item_ids.to_list()
        self._cut = datetime.fromisoformat(bundle.manifest.cut)

    def requests(self, n: int, long: bool) -> Asked:
        """Draw n requests of one moment: of strangers with short histories, or also of known users and long ones."""
        as_of = self._cut + timedelta(days=int(self.chance.choice(DAYS)), seconds=int(self.chance.integers(3)))
        kind = self.bundle.manifest.user_id_type
        users = [self._id(self._users, kind, known=0.8 if long else 0.0) for _ in range(n)]
        return Asked(users, [self._history(as_of, long) for _ in range(n)], as_of, self._context(n))

    def items(self, n: int) -> dict[str, Tensor]:
        """Draw n items for the item tower: those of the catalogue, with some attributes that are missing or odd."""
        frame = self.bundle.items[self.chance.integers(len(self._items), size=n)]
        columns = {feature.column: feature for feature in self.encoder.spec.side("item")}
        spoilt = [self._spoil(frame[name], feature) for name, feature in columns.items()]
        inputs = self.encoder.encode(frame.with_columns(spoilt), "item")
        for name in ASOF:
            values = self.chance.exponential(3.0 if name == "popularity" else 300.0, n).astype(np.float32)
            values[self.chance.random(n) < 0.1] = 0.0 if name == "popularity" else np.nan
            inputs[name] = torch.from_numpy(values)
        return inputs

    def pairs(self, asked: Asked, vectors: Tensor, each: int) -> dict[str, Tensor]:
        """Draw candidates for requests, and return their features with some that are missing or odd.

        Args:
            asked: B requests.
            vectors: What the user tower gives for them, ``[B, D]``, which here need not be computed again.
            each: Candidates of a request.
        """
        bundle, ranking = self.bundle, self.bundle.ranking
        assert ranking is not None
        who = bundle._ids.asking(asked.users, asked.histories, asked.as_of)
        people = bundle._towers.inputs.people(who.ids, who.rows, who.fresh, [who.now] * len(who))
        requests = ranking.requests(who.rows, who.fresh, who.now, vectors, people)
        query = torch.arange(len(asked.users)).repeat_interleave(each)
        item = torch.from_numpy(self.chance.integers(len(self._items), size=len(query)))
        rank = {
            name: torch.from_numpy(self.chance.integers(size + 1, size=len(query), dtype=np.int32))
            for name, size in ranking.state.candidate_plan.sizes.items()
        }
        inputs = ranking.inputs(requests, Candidates(query, item, rank), torch.arange(len(query)))
        for name, column in inputs.items():
            if name in (REQUEST, AGE) or name.startswith(HISTORY):
                continue
            spoilt = torch.from_numpy(self.chance.random(len(query)) < 0.02)
            odd = ODD_NUMBERS if column.is_floating_point() else (PAD_ID, OOV_ID)
            column = column.clone()
            column[spoilt] = torch.tensor(self.chance.choice(odd), dtype=column.dtype)
            inputs[name] = column
        return inputs

    def some(self, vectors: Tensor, most: int) -> Tensor:
        """Draw rows of a matrix, with repeats, as many as it has at most."""
        return vectors[torch.from_numpy(self.chance.integers(len(vectors), size=min(most, len(vectors))))]

    def _id(self, known_ids: list[Id], kind: str, known: float) -> Id | None:
        chance = self.chance.random()
        if chance < known:
            return known_ids[self.chance.integers(len(known_ids))]
        if chance < known + (1 - known) / 2:
            return None
        return int(self.chance.integers(-(2**62), 2**62)) if kind == "int" else str(self.chance.choice(ODD_TEXTS))

    def _history(self, as_of: datetime, long: bool) -> list[Event] | None:
        if self.chance.random() < 0.2:
            return None
        length = int(self.chance.choice(LONG if long and self.chance.random() < 0.05 else LENGTHS))
        kind = self.bundle.manifest.item_id_type
        few = [self._id(self._items, kind, known=0.9) for _ in range(max(length * 2 // 3, 1))]
        items = [few[i] for i in self.chance.integers(len(few), size=length)]  # so that some come again
        if self.chance.random() < 0.5:
            return items  # None is an item that nobody knows
        exact = self.chance.random(length) < 0.5
        ages = np.where(exact, self.chance.choice(DAYS, length), self.chance.exponential(60.0, length))
        return [(item, as_of - timedelta(days=float(age))) for item, age in zip(items, -np.sort(-ages), strict=True)]

    def _context(self, n: int) -> pl.DataFrame | None:
        """Return a context with some of its columns, or none at all."""
        if self.chance.random() < 0.3:
            return None
        columns = {}
        for feature in self.encoder.spec.side("context"):
            if feature.kind == "timestamp" or self.chance.random() < 0.2:
                continue  # the time of the request stands for it
            vocabulary = self.encoder.vocabularies.get(feature.name)
            if feature.kind == "numeric":
                values = pl.Series(self.chance.normal(0, 100, n))
            elif vocabulary is not None and len(vocabulary.values):
                values = vocabulary.values[self.chance.integers(len(vocabulary.values), size=n)]
            else:
                values = pl.Series([None] * n, dtype=pl.String)
            columns[feature.column] = self._spoil(values, feature)
        frame = pl.DataFrame({"row": range(n)})
        return frame.with_columns(column.alias(name) for name, column in columns.items()).drop("row")

    def _spoil(self, values: pl.Series, feature: Feature) -> pl.Series:
        """Replace one value in ten by what is missing, or odd."""
        n = len(values)
        odd: list[Any]
        if values.dtype.is_float():
            odd = [None, *ODD_NUMBERS]
        elif values.dtype == pl.String:
            odd = [None, *ODD_TEXTS]
        elif values.dtype.is_integer() and feature.column != ITEM_ID:
            odd = [None, 0, 1, 127]
        else:
            odd = [None]
        drawn = pl.Series([odd[i] for i in self.chance.integers(len(odd), size=n)], dtype=values.dtype, strict=False)
        return values.zip_with(pl.Series(self.chance.random(n) >= 0.1), drawn)
