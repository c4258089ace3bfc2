"""Item state as of a cut: what training, evaluation and serving all read, from events before the cut alone."""

import torch
from torch import Tensor

from recsys.data.log import DAY, InteractionLog

POPULARITY_DAYS = 28


class ItemClock:
    """Answers for any item and time how popular the item was and how long it had been sold.

    Events are sorted once by item and time; an answer is two binary searches.
    """

    def __init__(self, log: InteractionLog) -> None:
        relevant = log.only_relevant()
        self._base = int(relevant.time.min()) if len(relevant) else 0
        last = int(relevant.time.max()) if len(relevant) else 0
        self._span = last - self._base + 2
        if self._span > 2**62 // max(log.n_items, 1):
            raise OverflowError("items x time span do not fit 63 bits; use coarser timestamps")
        self._key = (relevant.item * self._span + (relevant.time - self._base)).sort().values
        self._time = relevant.time.sort().values
        self._n_items = log.n_items

    def count(self, items: Tensor, start: int, end: int) -> Tensor:
        """Count the relevant events of each item with ``start <= time < end`` (microseconds), int64 ``[n]``."""
        return self._position(items, end) - self._position(items, start)

    def total(self, start: int, end: int) -> int:
        """Count all relevant events with ``start <= time < end``."""
        edges = torch.tensor([start, end], device=self._time.device)
        low, high = torch.searchsorted(self._time, edges).tolist()
        return int(high - low)

    def state(self, items: Tensor, cut: int) -> dict[str, Tensor]:
        """Return the model's view of items as of ``cut``.

        Args:
            items: Item rows, int64 ``[n]``.
            cut: Microseconds; only events before it are read.

        Returns:
            ``popularity``: log(1 + events in the last 28 days per 10,000 events of that time), float32 ``[n]``;
            ``age``: days since the item's first event, float32 ``[n]``, NaN before it.
        """
        start = cut - POPULARITY_DAYS * DAY
        recent = self.count(items, start, cut).float() * (1e4 / max(self.total(start, cut), 1))
        first = self._position(items, self._base)
        known = self._position(items, cut) > first
        born = self._key[first.clamp(max=max(len(self._key) - 1, 0))] - items * self._span + self._base
        age = ((cut - born).float() / DAY).masked_fill(~known, float("nan"))
        return {"popularity": recent.log1p(), "age": age}

    def _position(self, items: Tensor, time: int) -> Tensor:
        offset = min(max(time - self._base, 0), self._span - 1)
        return torch.searchsorted(self._key, items * self._span + offset)
