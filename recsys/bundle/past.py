"""What users did, as the second stage reads it: the events that the bundle stores, joined to the fresh ones."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import polars as pl

from recsys.bundle.histories import ITEM_ROW, NOTHING, USER_ROW, Fresh
from recsys.columns import BASKET_ID, EVENT_TYPE, ITEM_ID, QUANTITY, TIMESTAMP, USER_ID, VALUE
from recsys.data.pair_plan import PairPlan
from recsys.data.past_lines import PastEvents, event_columns
from recsys.data.segmented import Ints

EVENT_COLUMNS = (BASKET_ID, EVENT_TYPE, QUANTITY, VALUE)
"""What features of pairs read of an event beside user, item and time."""


class Past:
    """The stored events of all users; nothing in it changes.

    Args:
        path: Of the stored events, sorted by user.
        plan: What of them is read.
        n_users: U.
        item_ids: Raw ids, ``[N]``.
    """

    def __init__(self, path: Path, plan: PairPlan, n_users: int, item_ids: pl.Series) -> None:
        table = pl.read_parquet(path)
        rows = {"user": pl.col(USER_ROW).cast(pl.Int64), "item": pl.col(ITEM_ROW).cast(pl.Int64)}
        self._stored = PastEvents.of(table.select(**rows, **event_columns(plan, table.schema)))
        self._offsets = np.searchsorted(self._stored.user, np.arange(n_users + 1))
        self._types = table[EVENT_TYPE].cast(pl.String) if EVENT_TYPE in table.columns else None
        self._plan, self._item_ids = plan, item_ids

    def of(self, rows: Sequence[int], fresh: Sequence[Fresh]) -> tuple[PastEvents, pl.DataFrame | None]:
        """Return what came before B requests.

        Args:
            rows: User rows; -1 is an unknown user.
            fresh: Events that the bundle does not know of.

        Returns:
            Events by number of the request, sorted by it, time and item; and, for a plan with sessions, the same as a
            table of prepared events whose users are these numbers.
        """
        known = np.asarray(rows, np.int64)
        start = np.where(known >= 0, self._offsets[known], 0)
        count = np.where(known >= 0, self._offsets[known + 1] - start, 0)
        request = np.repeat(np.arange(len(rows)), count)
        place = np.arange(len(request)) - (np.cumsum(count) - count)[request] + start[request]
        new = self._new(fresh)
        parts = self._stored.take(place), new
        own = np.concatenate([request, new.user])
        joined = PastEvents(own, *(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(PastEvents)[1:]))
        order = np.lexsort((joined.item, joined.time, joined.user))
        events = joined.take(order)
        return events, self._table(events, place, order, fresh) if self._plan.sessions else None

    def _new(self, fresh: Sequence[Fresh]) -> PastEvents:
        """Return the fresh events of items that the bundle knows: each is a moment of its own time."""
        user = np.repeat(np.arange(len(fresh)), [len(f.items) for f in fresh])
        item = np.concatenate([NOTHING.items, *(f.items for f in fresh)])
        time = np.concatenate([NOTHING.times, *(f.times for f in fresh)])
        counts = np.concatenate([NOTHING.counts, *(f.counts for f in fresh)])
        known = item < len(self._item_ids)
        user, item, time, counts = user[known], item[known], time[known], counts[known]
        n = len(user)
        return PastEvents(
            user, item, time, np.zeros(n, np.int64), np.ones(n, bool), np.ones(n), np.full(n, np.nan), counts
        )

    def _table(self, events: PastEvents, place: Ints, order: Ints, fresh: Sequence[Fresh]) -> pl.DataFrame:
        columns = [
            pl.Series(USER_ID, events.user),
            self._item_ids.gather(events.item).alias(ITEM_ID),
            pl.Series(TIMESTAMP, events.time).cast(pl.Datetime("us", "UTC")),
            pl.Series(BASKET_ID, events.basket).set(pl.Series(events.alone), None),
        ]
        if self._types is not None:
            counts, n_items = self._plan.relevant[0] if self._plan.relevant else None, len(self._item_ids)
            named = (zip(f.items.tolist(), f.named(counts), strict=True) for f in fresh)
            new = pl.Series([name for of_one in named for item, name in of_one if item < n_items], dtype=pl.String)
            columns.append(pl.concat([self._types.gather(place), new]).gather(order).alias(EVENT_TYPE))
        return pl.DataFrame(columns)
