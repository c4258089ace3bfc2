"""From rows of a table to the interaction log."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recsys.columns import BASKET_ID, EVENT_TYPE, EVENT_WEIGHT
from recsys.data.log import InteractionLog
from recsys.data.past_lines import PastEvents, baskets_of
from recsys.data.segmented import lengths


def log_of_rows(rows: pl.DataFrame, n_users: int, n_items: int, relevant: Sequence[str]) -> InteractionLog:
    """Return events as a log; an event without a basket number is a moment of its own time.

    Args:
        rows: ``user`` and ``item``, row numbers, and ``time`` in microseconds since 1970 UTC, sorted by these three
            in the order user, time, item; ``basket_id``, ``event_type`` and ``event_weight`` where there are any.
        n_users: U.
        n_items: N.
        relevant: Event types that count as positives; empty: all.
    """
    moment = ["user", "time"]
    if BASKET_ID in rows.columns:
        moment = ["user", BASKET_ID, "alone"]
        rows = rows.with_columns(alone=pl.when(pl.col(BASKET_ID).is_null()).then("time"))
    basket = rows.select(pl.struct(moment).rank("dense").cast(pl.Int64) - 1).to_series()
    counts = pl.Series([True]).new_from_index(0, len(rows))
    if relevant and EVENT_TYPE in rows.columns:
        counts = rows[EVENT_TYPE].is_in(list(relevant)).fill_null(False)
    user, item, time = (_tensor(rows[name].cast(pl.Int64)) for name in ("user", "item", "time"))
    weight = _tensor(rows[EVENT_WEIGHT].cast(pl.Float32)) if EVENT_WEIGHT in rows.columns else None
    return InteractionLog(user, item, time, _tensor(basket), _tensor(counts), n_users, n_items, weight)


def log_of_events(events: PastEvents, n_users: int, n_items: int) -> InteractionLog:
    """Return the past of requests as a log.

    Args:
        events: Sorted by user, time and item.
        n_users: U.
        n_items: N.
    """
    order, starts = baskets_of(events)
    basket = np.empty(len(events), np.int64)
    basket[order] = np.repeat(np.arange(len(starts)), lengths(starts, len(events)))
    columns = (events.user, events.item, events.time, basket, events.relevant)
    user, item, time, moment, relevant = map(torch.from_numpy, columns)
    return InteractionLog(user, item, time, moment, relevant, n_users, n_items)


def _tensor(series: pl.Series) -> Tensor:
    return torch.from_numpy(series.to_numpy().copy())
