"""The audit of a prepared data set: its tables, its features as of a cut, and what splits would have claimed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from recsys.audit.columns import audit_age, audit_aggregates, audit_context, audit_outcomes
from recsys.audit.findings import Finding, by_severity, errors, over_parts
from recsys.audit.future import AsOf, audit_future
from recsys.audit.sides import audit_sides
from recsys.audit.single import OWN, audit_snapshots
from recsys.columns import EVENT_TYPE, ITEM_ID, TIMESTAMP, USER_ID
from recsys.config.data import DataConfig
from recsys.data.dataset import fit_data, interaction_log, microseconds, popularity_days
from recsys.data.log import DAY, as_time
from recsys.data.pair_features import as_of, pair_features
from recsys.data.pair_plan import plan_pairs
from recsys.data.prepared import Prepared
from recsys.data.timestamps import UTC, to_utc
from recsys.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from recsys.audit.claims import Claim

PAIRS = 20_000
"""Pairs of a snapshot, at most."""


@dataclass(frozen=True)
class Audit:
    """What an audit found, errors first, and what other splits would have claimed."""

    findings: tuple[Finding, ...]
    claims: "tuple[Claim, ...]" = ()

    @property
    def errors(self) -> list[Finding]:
        """Findings that spoil every number measured on the data."""
        return errors(self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"findings": [asdict(f) for f in self.findings], "claims": [asdict(c) for c in self.claims]}


def audit_tables(
    prepared: Prepared,
    item_times: Mapping[str, str] | None = None,
    user_times: Mapping[str, str] | None = None,
    timezone: str = "UTC",
) -> list[Finding]:
    """Audit windows, context and attributes; nothing is fitted or computed as of a cut.

    The parts of data that were prepared in partitions are read one after the other.

    Args:
        prepared: The data set.
        item_times: Attribute -> column of the items with the time since which its value is known.
        user_times: The same for users.
        timezone: Of such times that carry none.

    Raises:
        ConfigError: One of the two names a column that is not there.
    """
    tables = (
        ("items", prepared.items, ITEM_ID, item_times or {}),
        ("users", prepared.users, USER_ID, user_times or {}),
    )
    known = [
        _known_since(table, key, column, time_column, name, timezone)
        for name, table, key, times in tables
        for column, time_column in times.items()
    ]
    findings = audit_outcomes(prepared.spec)
    findings += over_parts([_audit_events(part.collect(), prepared, known) for part in prepared.event_parts])
    cut = microseconds(prepared.windows.test_start)
    for name, table, key, _ in tables:
        findings += audit_aggregates(prepared.event_parts, table, key, cut, name, prepared.relevant)
    contradictions = prepared.report["items"].get("contradictions", 0)
    if contradictions:
        findings.append(
            Finding(
                "attributes change over time",
                "warning",
                "items",
                contradictions,
                f"{contradictions:,} rows are contradicted by a later row of the same item; the last value is used for "
                "all times, also before it was true",
                "keep attributes that do not change, or declare the time since which a value is known (item_times)",
            )
        )
    return by_severity(findings)


def _audit_events(events: pl.DataFrame, prepared: Prepared, known: Sequence[pl.DataFrame]) -> list[Finding]:
    """Audit the events of some users: what stands on both sides of a cut, context, and ages of attributes.

    Args:
        events: All of these users.
        prepared: Of which they are.
        known: Of each attribute with times: ids, values, and ``known since`` when each is known.
    """
    windows, findings = prepared.windows, list[Finding]()
    for name, time in (("val_start", windows.val_start), ("test_start", windows.test_start)):
        is_past = pl.col(TIMESTAMP) < time
        findings += audit_sides(events.filter(is_past), events.filter(~is_past), name, prepared.relevant)
    context = {f.column for f in prepared.spec.side("context") if f.column != TIMESTAMP}
    findings += audit_context(events, sorted(context))
    for attribute in known:
        findings += audit_age(events, attribute)
    return findings


def audit_prepared(
    prepared: Prepared,
    item_times: Mapping[str, str] | None = None,
    user_times: Mapping[str, str] | None = None,
    max_auc: float = 0.99,
    max_users: int = 1000,
    seed: int = 0,
    timezone: str = "UTC",
) -> Audit:
    """Audit tables, the features as of the start of the validation window, and the splits.

    The features are recomputed on the events of ``max_users`` users, drawn at random.

    Raises:
        ConfigError: As :func:`audit_tables`.
    """
    from recsys.audit.claims import split_claims

    windows = prepared.windows
    cut, until = microseconds(windows.val_start), microseconds(windows.test_start)
    findings = audit_tables(prepared, item_times, user_times, timezone)
    some = _some_users(prepared, max_users, seed)
    findings += audit_future(as_of_features(some, seed), some.events, cut, seed)
    findings += audit_snapshots(snapshots(prepared, some, cut, until, seed), max_auc)
    claims = split_claims(interaction_log(prepared), cut, until, max_users=max_users, seed=seed)
    return Audit(tuple(by_severity(findings)), tuple(claims))


def as_of_features(prepared: Prepared, seed: int = 0) -> dict[str, AsOf]:
    """Return our own features as functions of events and cut: pairs, popularity and age of items, vocabularies."""
    import torch

    from recsys.data.asof import ItemClock

    plan = plan_pairs(prepared.events, prepared.items, prepared.spec, None, prepared.relevant)
    asked = _pairs(prepared.events, seed)

    def pairs(events: pl.DataFrame, cut: int) -> pl.DataFrame:
        return pair_features(as_of(plan, events, prepared.items, cut), asked)

    def with_events(events: pl.DataFrame) -> Prepared:
        return prepared.with_events(events.sort(USER_ID, TIMESTAMP, ITEM_ID, maintain_order=True))

    def clock(events: pl.DataFrame, cut: int) -> pl.DataFrame:
        log = interaction_log(with_events(events))
        state = ItemClock(log, popularity_days(prepared, log, cut)).state(torch.arange(log.n_items), cut)
        return _frame(state)

    def encoded(side: str) -> AsOf:
        def ids(events: pl.DataFrame, cut: int) -> pl.DataFrame:
            given = with_events(events)
            tables = fit_data(given, interaction_log(given), as_time(cut)).tables
            return _frame(tables.item if side == "item" else tables.user)

        return ids

    return {
        "pair features": pairs,
        "item clock": clock,
        "item vocabularies": encoded("item"),
        "user vocabularies": encoded("user"),
    }


def _frame(tensors: "Mapping[str, Tensor]") -> pl.DataFrame:
    """Return tensors as columns, one for each slot of a list."""
    slots = {
        name if values.dim() == 1 else f"{name} {slot}": column
        for name, values in tensors.items()
        for slot, column in enumerate(values.reshape(len(values), -1).unbind(1))
    }
    return pl.DataFrame({name: column.numpy() for name, column in slots.items()})


def snapshots(
    prepared: Prepared, some: Prepared, cut: int, until: int, seed: int = 0
) -> dict[str, tuple[pl.DataFrame, pl.Series, str]]:
    """Return what is known at a cut beside what followed it: attributes of items and users, context, pair features.

    Items and users take part that have an event before the cut. The pairs that were not taken are other users' past
    items, so that popularity alone tells little.

    Args:
        prepared: The data set.
        some: The same with the events of some users, for the pairs.
        cut: Microseconds since 1970 UTC.
        until: Labels are collected before it.
        seed: Of the drawn pairs.
    """
    time, relevant = pl.col(TIMESTAMP).dt.epoch("us"), list(prepared.relevant)
    counts = pl.lit(True)
    if relevant and EVENT_TYPE in prepared.events.columns:
        counts = pl.col(EVENT_TYPE).is_in(relevant).fill_null(False)
    past = prepared.events.filter(time < cut)
    after = prepared.events.filter((time >= cut) & (time < until) & counts)
    found = {}
    for name, table, key, told in (
        ("items", prepared.items, ITEM_ID, "whether the item is taken after the cut"),
        ("users", prepared.users, USER_ID, "whether the user comes back after the cut"),
    ):
        known = table.join(past.select(key).unique(), on=key, how="semi", maintain_order="left")
        found[name] = (known.drop(key), known[key].is_in(after[key].unique().implode()), told)
    context = sorted({f.column for f in prepared.spec.side("context") if f.column in prepared.events.columns})
    context = [name for name in context if name not in (TIMESTAMP, EVENT_TYPE)]
    if relevant and context:
        label = past.select(counts.alias("label")).to_series()
        found["events"] = (past.select(context), label, "whether the event is relevant")
    plan = plan_pairs(prepared.events, prepared.items, prepared.spec, None, prepared.relevant)
    taken = some.events.filter((time >= cut) & (time < until) & counts).select(USER_ID, ITEM_ID).unique()
    taken = taken.sort(USER_ID, ITEM_ID).sample(min(len(taken), PAIRS // 2), seed=seed)
    if len(taken) and len(past):
        drawn = past.select(pl.col(ITEM_ID).sample(len(taken), with_replacement=True, seed=seed))
        others = pl.concat([taken.select(USER_ID), drawn], how="horizontal").join(taken, [USER_ID, ITEM_ID], "anti")
        pairs = pl.concat([taken, others])
        label = (
            pl.Series([True]).new_from_index(0, len(taken)).append(pl.Series([False]).new_from_index(0, len(others)))
        )
        features = pair_features(as_of(plan, some.events, prepared.items, cut), pairs)
        found[OWN] = (features, label, "whether the user takes the item after the cut")
    return found


def _some_users(prepared: Prepared, n: int, seed: int) -> Prepared:
    users = prepared.events.select(pl.col(USER_ID).unique().sort()).to_series()
    chosen = users.sample(min(n, len(users)), seed=seed)
    return prepared.with_events(prepared.events.filter(pl.col(USER_ID).is_in(chosen.implode())))


def _pairs(events: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Return pairs with and without a common past."""
    drawn = events.select(USER_ID, ITEM_ID).sample(min(len(events), PAIRS // 2), seed=seed)
    mixed = drawn.with_columns(pl.col(ITEM_ID).shuffle(seed=seed))
    return pl.concat([drawn, mixed])


def _known_since(
    table: pl.DataFrame, key: str, column: str, time_column: str, name: str, timezone: str
) -> pl.DataFrame:
    """Return ids, the values of a column and ``known since``, their times.

    Times that are no text are days since 1970 in prepared tables; where all are whole ones they are dates, which begin
    at the midnight of ``timezone``.

    Raises:
        ConfigError: A column that is not there, or holds no times.
    """
    setting = f"{name.removesuffix('s')}_times.{column}"
    for wanted in (column, time_column):
        if wanted not in table.columns:
            raise ConfigError(
                f"{setting}={time_column}: the {name} have no column '{wanted}'; there are: "
                f"{', '.join(table.columns)}." + did_you_mean(wanted, table.columns)
            )
    times = table[time_column]
    if times.dtype.is_float():
        are_dates = bool((times.drop_nulls() % 1 == 0).all())
        times = (times * DAY).cast(pl.Int64, strict=False).cast(pl.Datetime("us") if are_dates else UTC)
    known = to_utc(times, DataConfig(name=name, timezone=timezone), setting)
    missing = table[time_column].null_count()
    if known.null_count() > missing:
        raise ConfigError(
            f"{setting}={time_column}: {known.null_count() - missing:,} of {len(times):,} values are "
            "no times; legal: ISO 8601, whole epoch numbers, dates."
        )
    return table.select(key, column).with_columns(known.alias("known since"))
