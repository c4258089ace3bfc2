"""From the prepared tables to what models train on: the log, and features encoded by one window's vocabularies."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import polars as pl
import torch
from torch import Tensor

from recsys.columns import BASKET_ID, EVENT_TYPE, EVENT_WEIGHT, ITEM_ID, TIMESTAMP, USER_ID
from recsys.data.candidate_tables import recent_days
from recsys.data.encode import Encoder
from recsys.data.log import InteractionLog, as_time
from recsys.data.log_rows import log_of_rows
from recsys.data.mapped_log import mapped_log, places_of
from recsys.data.prepared import Prepared
from recsys.data.tables import FeatureTables
from recsys.errors import DataError


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


def interaction_log(prepared: Prepared) -> InteractionLog:
    """Return all events as rows of the prepared user and item tables; in files where ``prepared.spill`` says so."""
    parts = [partial(_log_of, prepared, part) for part in prepared.streamed]
    return mapped_log(parts, prepared.spill) if prepared.spill else parts[0]()


def _log_of(prepared: Prepared, events: pl.LazyFrame) -> InteractionLog:
    # a context column may be called user or item
    read = (USER_ID, ITEM_ID, TIMESTAMP, BASKET_ID, EVENT_TYPE, EVENT_WEIGHT)
    there = events.collect_schema().names()
    rows = (
        events.select(name for name in read if name in there)
        .join(prepared.users.lazy().select(USER_ID).with_row_index("user"), on=USER_ID, maintain_order="left")
        .join(prepared.items.lazy().select(ITEM_ID).with_row_index("item"), on=ITEM_ID, maintain_order="left")
        .with_columns(pl.col("user", "item").cast(pl.Int64), pl.col(TIMESTAMP).dt.epoch("us").alias("time"))
        .collect()
    )
    return log_of_rows(rows, len(prepared.users), len(prepared.items), prepared.relevant)


def require_judged(prepared: Prepared, *names: str) -> None:
    """Check that something relevant happens in each window, or in those that are named.

    Raises:
        DataError: In one of them nothing does.
    """
    windows = {f"window {name}": ends for name, ends in prepared.windows.bounds().items() if name in names or not names}
    remedy = "Set data.split.val_start and data.split.test_start, or other types in data.relevant."
    require_relevant(prepared, windows, remedy)


def require_relevant(prepared: Prepared, stretches: Mapping[str, tuple[datetime, datetime]], remedy: str) -> None:
    """Check that something relevant happens in each stretch of time, before anything is fitted for it.

    Args:
        prepared: The data set.
        stretches: Name to first moment inside and first moment after.
        remedy: What to do where nothing does.

    Raises:
        DataError: In one of them nothing does.
    """
    time, is_relevant = pl.col(TIMESTAMP), pl.lit(True)
    if prepared.relevant:
        is_relevant = pl.col(EVENT_TYPE).is_in(list(prepared.relevant))
    counts: dict[str, pl.Expr] = {}
    for name, (start, end) in stretches.items():
        inside = (time >= start) & (time < end)
        counts |= {f"{name}/all": inside.sum(), f"{name}/relevant": (inside & is_relevant).sum()}
    found = pl.concat(part.select(**counts, last=time.filter(is_relevant).max()) for part in prepared.event_parts)
    sums = found.select(pl.exclude("last").sum(), pl.col("last").max()).collect().row(0, named=True)
    kinds = f" of data.relevant=[{','.join(prepared.relevant)}]" if prepared.relevant else ""
    for name, (start, end) in stretches.items():
        if sums[f"{name}/relevant"] == 0:
            last = f"the last are at {sums['last'].isoformat()}" if sums["last"] else "there are none at all"
            raise DataError(
                f"{name} [{start.isoformat()}, {end.isoformat()}) has {sums[f'{name}/all']:,} events, none{kinds};"
                f" {last}. {remedy}"
            )


def fit_data(prepared: Prepared, log: InteractionLog, until: datetime) -> FittedData:
    """Fit vocabularies and scales on the events before ``until`` and encode with them.

    Args:
        prepared: The data set.
        log: All its events, from :func:`interaction_log`.
        until: The cut.
    """
    cut = microseconds(until)
    users = prepared.users_as_of(cut)
    events = pl.concat(prepared.streamed).filter(pl.col(TIMESTAMP) < until)
    encoder = Encoder.fit(prepared.spec, events, prepared.items, users)
    past = log.between(None, cut)
    tables = FeatureTables(
        item=encoder.encode(prepared.items, "item"),
        user=encoder.encode(users, "user"),
        context=_context(prepared, encoder, past, until),
        popularity_days=popularity_days(prepared, past, cut),
        repeat_share=repeat_share(past, min(cut, microseconds(prepared.windows.val_start))),
    )
    eligible = torch.ones(log.n_items, dtype=torch.bool)
    if not prepared.has_item_table:
        eligible = torch.zeros(log.n_items, dtype=torch.bool)
        eligible[past.item] = True
    user_at = None if prepared.users_at is None else lambda cut: encoder.encode(prepared.users_as_of(cut), "user")
    return FittedData(cut, past, encoder, tables, eligible, user_at)


def popularity_days(prepared: Prepared, log: InteractionLog, cut: int) -> float:
    """Return over how many days a run counts popularity, by the events before a cut and before the validation window.

    So all later fits have the same: the ranker learns from lists and ranks of the days that it will be served with.
    """
    return recent_days(log, min(cut, microseconds(prepared.windows.val_start)))


def repeat_share(log: InteractionLog, cut: int) -> float:
    """Return how much of what users with a history took before a cut stood in it; 0 where nobody has a history.

    As the retriever is asked: a history ends before its own basket, and what was only viewed stands in it, too.
    """
    taken = again = 0
    for piece in log.pieces():
        user, time = log.user[piece], log.time[piece]
        begun = _earliest(time, log.basket[piece])
        met = _earliest(time, user * log.n_items + log.item[piece])
        asked = log.relevant[piece] & (time < cut) & (log.time[log.offsets[user]] < begun)
        taken += int(asked.sum())
        again += int((asked & (met < begun)).sum())
    return again / max(taken, 1)


def _earliest(time: Tensor, group: Tensor) -> Tensor:
    """Return for each event the earliest time in its group, both int64 ``[E]``."""
    groups, place = group.unique(return_inverse=True)
    return time.new_zeros(len(groups)).scatter_reduce(0, place, time, "amin", include_self=False)[place]


def with_log(data: FittedData, prepared: Prepared, log: InteractionLog) -> FittedData:
    """Return what is known as of the same cut from the events of another data set, by the same vocabularies.

    Args:
        data: Fitted as of the cut.
        prepared: With the same items and users.
        log: All its events, from :func:`interaction_log`.
    """
    past = log.between(None, data.cut)
    tables = replace(data.tables, context=_context(prepared, data.encoder, past, as_time(data.cut)))
    return replace(data, log=past, tables=tables)


def _context(prepared: Prepared, encoder: Encoder, past: InteractionLog, until: datetime) -> dict[str, Tensor]:
    """Encode the context of the events before ``until``, in the order of the log of these."""
    known = pl.col(TIMESTAMP) < until
    if prepared.spill is None:
        return encoder.encode(prepared.events.filter(known), "context")
    out: dict[str, Tensor] = {}
    numbered = prepared.users.lazy().select(USER_ID).with_row_index("asof/user")
    columns = [USER_ID, *(f.column for f in encoder.spec.side("context"))]
    for part in prepared.event_parts if len(columns) > 1 else ():
        events = (
            part.filter(known).select(list(dict.fromkeys(columns))).join(numbered, on=USER_ID, maintain_order="left")
        )
        frame = events.collect()
        place = places_of(past.offsets, torch.from_numpy(frame["asof/user"].cast(pl.Int64).to_numpy().copy()))
        for name, values in encoder.encode(frame, "context").items():
            if name not in out:
                flat = prepared.spill.empty(len(past) * math.prod(values.shape[1:]), values.dtype)
                out[name] = flat.view(len(past), *values.shape[1:])
            out[name][place] = values
    return out


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
