"""Item state as of a cut: what training, evaluation and serving all read, from events before the cut alone."""

import torch
from torch import Tensor

from recsys.data.log import DAY, POPULARITY_DAYS, InteractionLog


class ItemClock:
    """Answers for any item and time how popular the item was and how long it had been sold.

    Events are sorted once by item and time; an answer is two binary searches.
    """

    def __init__(self, log: InteractionLog, days: float = POPULARITY_DAYS) -> None:
        """Sort the events.

        Args:
            log: Events; irrelevant ones do not count.
            days: Over which popularity is counted.
        """
        self._days = days
        relevant = log.only_relevant()
        self._time = relevant.sorted_times
        self._span = len(relevant) + 1
        rank = torch.searchsorted(self._time, relevant.time)
        self._key = log.kept((relevant.item * self._span + rank).sort().values)

    def count(self, items: Tensor, start: int, end: int) -> Tensor:
        """Count the relevant events of each item with ``start <= time < end`` (microseconds), int64 ``[n]``."""
        return self._position(items, end) - self._position(items, start)

    def total(self, start: int, end: int) -> int:
        """Count all relevant events with ``start <= time < end``."""
        return int(self._rank(end) - self._rank(start))

    def state(self, items: Tensor, cut: int) -> dict[str, Tensor]:
        """Return the model's view of items as of ``cut``.

        Args:
            items: Item rows, int64 ``[n]``.
            cut: Microseconds; only events before it are read.

        Returns:
            ``popularity``: log(1 + events in the last ``days`` per 10,000 events of that time), float32 ``[n]``;
            ``age``: days since the item's first event, float32 ``[n]``, NaN before it.
        """
        start = cut - int(self._days * DAY)
        recent = self.count(items, start, cut).float() * (1e4 / max(self.total(start, cut), 1))
        first = torch.searchsorted(self._key, items * self._span)
        known = self._position(items, cut) > first
        born = self._time[self._key[first[known]] - items[known] * self._span]
        age = torch.full(items.shape, float("nan"), device=items.device)
        age[known] = (cut - born).float() / DAY
        return {"popularity": recent.log1p(), "age": age}

    def _position(self, items: Tensor, time: int) -> Tensor:
        return torch.searchsorted(self._key, items * self._span + self._rank(time))

    def _rank(self, time: int) -> Tensor:
        """How many events are earlier, scalar: it stands for the time wherever times are only compared."""
        return torch.searchsorted(self._time, time)
