"""From the prepared tables to what models train on: the log, and features encoded by one window's vocabularies."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import polars as pl
import torch
from torch import Tensor

from recsys.columns import BASKET_ID, EVENT_TYPE, EVENT_WEIGHT, ITEM_ID, TIMESTAMP, USER_ID
from recsys.data.encode import Encoder
from recsys.data.log import InteractionLog
from recsys.data.log_rows import log_of_rows
from recsys.data.prepared import Prepared
from recsys.data.tables import FeatureTables


@dataclass(frozen=True)
class FittedData:
    """Everything that is known as of a cut, and nothing later.

    Attributes:
        cut: Microseconds since 1970 UTC; fitted on the events before it.
        log: Those events.
        encoder: Vocabularies and scales fitted on them.
        tables: Features of all items and users, and of the log's events, encoded by it.
        eligible: Items that may be recommended as of the cut, bool ``[N]``.
        user_at: Cut in microseconds to the features of all users as of then, encoded likewise; None: always the same.
    """

    cut: int
    log: InteractionLog
    encoder: Encoder
    tables: FeatureTables
    eligible: Tensor
    user_at: Callable[[int], dict[str, Tensor]] | None = None

    def user_as_of(self, cut: int) -> dict[str, Tensor]:
        """Return the features of all users as of a cut, each ``[U]`` or ``[U, slots]``."""
        return self.tables.user if self.user_at is None else self.user_at(cut)


def microseconds(when: datetime) -> int:
    """Return a UTC time as microseconds since 1970, without going through a float."""
    return int(pl.Series([when]).dt.cast_time_unit("us").dt.epoch("us")[0])


def as_time(time: int) -> datetime:
    """Return microseconds since 1970 as a UTC time."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time)


def interaction_log(prepared: Prepared) -> InteractionLog:
    """Return all events as rows of the prepared user and item tables."""
    # a context column may be called user or item
    read = (USER_ID, ITEM_ID, TIMESTAMP, BASKET_ID, EVENT_TYPE, EVENT_WEIGHT)
    rows = (
        prepared.events.lazy()
        .select(name for name in read if name in prepared.events.columns)
        .join(prepared.users.lazy().select(USER_ID).with_row_index("user"), on=USER_ID, maintain_order="left")
        .join(prepared.items.lazy().select(ITEM_ID).with_row_index("item"), on=ITEM_ID, maintain_order="left")
        .with_columns(pl.col("user", "item").cast(pl.Int64), pl.col(TIMESTAMP).dt.epoch("us").alias("time"))
        .collect()
    )
    return log_of_rows(rows, len(prepared.users), len(prepared.items), prepared.relevant)


def fit_data(prepared: Prepared, log: InteractionLog, until: datetime) -> FittedData:
    """Fit vocabularies and scales on the events before ``until`` and encode with them.

    Args:
        prepared: The data set.
        log: All its events, from :func:`interaction_log`.
        until: The cut.
    """
    cut = microseconds(until)
    events = prepared.events.filter(pl.col(TIMESTAMP) < until)
    users = prepared.users_as_of(cut)
    encoder = Encoder.fit(prepared.spec, events, prepared.items, users)
    tables = FeatureTables(
        item=encoder.encode(prepared.items, "item"),
        user=encoder.encode(users, "user"),
        context=encoder.encode(events, "context"),
    )
    past = log.between(None, cut)
    eligible = torch.ones(log.n_items, dtype=torch.bool)
    if not prepared.has_item_table:
        eligible = torch.zeros(log.n_items, dtype=torch.bool)
        eligible[past.item] = True
    user_at = None if prepared.users_at is None else lambda cut: encoder.encode(prepared.users_as_of(cut), "user")
    return FittedData(cut, past, encoder, tables, eligible, user_at)


def with_log(data: FittedData, prepared: Prepared, log: InteractionLog) -> FittedData:
    """Return what is known as of the same cut from the events of another data set, by the same vocabularies.

    Args:
        data: Fitted as of the cut.
        prepared: With the same items and users.
        log: All its events, from :func:`interaction_log`.
    """
    events = prepared.events.filter(pl.col(TIMESTAMP) < as_time(data.cut))
    tables = replace(data.tables, context=data.encoder.encode(events, "context"))
    return replace(data, log=log.between(None, data.cut), tables=tables)


def data_before(data: FittedData, cut: int, has_item_table: bool) -> FittedData:
    """Return what was known at an earlier cut, with the same vocabularies: ids of later values meet no event.

    Args:
        data: Fitted at a later cut.
        cut: Microseconds since 1970 UTC.
        has_item_table: Whether items may be recommended before their first event.
    """
    earlier = data.log.time < cut
    log = data.log.between(None, cut)
    eligible = data.eligible.clone()
    if not has_item_table:
        eligible = torch.zeros_like(eligible)
        eligible[log.item] = True
    context = {name: values[earlier] for name, values in data.tables.context.items()}
    tables = replace(data.tables, context=context, user=data.user_as_of(cut))
    return FittedData(cut, log, data.encoder, tables, eligible, data.user_at)
