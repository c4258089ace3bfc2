"""Segments of people whom the bundle does not know, from the fresh events of their requests."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.bundle.histories import Fresh
from recsys.columns import EVENT_TYPE, ITEM_ID, TIMESTAMP, USER_ID, VALUE
from recsys.segments.model import SegmentModel
from recsys.segments.store import load_segments

ITEM_VALUE = "asof/value"
"""Column of the catalogue: what an event with the item is worth, the median before the cut; null if it has none."""


@dataclass(frozen=True)
class FreshSegments:
    """What assigning segments to strangers needs.

    Attributes:
        model: As fitted on the training window.
        values: Worth of an event with each item, float64 ``[N + 1]``, the last for items that the bundle does not
            know; None where events have no value.
    """

    model: SegmentModel
    values: NDArray[np.float64] | None

    @classmethod
    def load(cls, folder: Path, items: pl.DataFrame) -> "FreshSegments":
        """Read the folder that :func:`recsys.segments.store.save_segments` wrote; ``items`` is the catalogue."""
        values = None
        if ITEM_VALUE in items.columns and items[ITEM_VALUE].median() is not None:
            known = items[ITEM_VALUE].fill_null(items[ITEM_VALUE].median()).to_numpy()
            values = np.append(known, np.median(known))
        return cls(load_segments(folder), values)

    def attributes(self, fresh: Sequence[Fresh], now: Sequence[int]) -> pl.DataFrame:
        """Return ``segment_KIND`` columns, B rows; null for a request without events.

        An event without a type counts as a relevant one, all are worth what is usual for their items, and one at the
        time of the request is part of what has been.

        Args:
            fresh: Of each request.
            now: Time of each request, microseconds since 1970 UTC.
        """
        request = np.repeat(np.arange(len(fresh)), [len(events.items) for events in fresh])
        items = np.concatenate([np.empty(0, np.int64), *(events.items for events in fresh)])
        ages = np.concatenate([np.empty(0, np.int64), *(t - e.times for t, e in zip(now, fresh, strict=True))])
        events = pl.DataFrame({USER_ID: request, ITEM_ID: items, TIMESTAMP: pl.Series(-ages, dtype=pl.Int64)})
        events = events.with_columns(pl.col(TIMESTAMP).cast(pl.Datetime("us", "UTC")))
        if self.values is not None:
            events = events.with_columns(pl.Series(VALUE, self.values[items]))
        if self.model.relevant:
            names = [name for of_one in fresh for name in of_one.named(self.model.relevant[0])]
            events = events.with_columns(pl.Series(EVENT_TYPE, names, pl.String))
        groups = self.model.demographic.attributes if self.model.demographic else ()
        people = pl.DataFrame({USER_ID: np.arange(len(fresh))}).with_columns(pl.lit(None).alias(n) for n in groups)
        return self.model.attributes(events, people, cut=1)


def item_values(events: pl.DataFrame, items: pl.DataFrame) -> pl.Series:
    """Return the median value of an event with each item, :data:`ITEM_VALUE`, null where it has none."""
    worth = events.group_by(ITEM_ID).agg(pl.col(VALUE).median().alias(ITEM_VALUE))
    return items.select(ITEM_ID).join(worth, on=ITEM_ID, how="left", maintain_order="left")[ITEM_VALUE]
