"""The data report: what was kept and why not, how the windows look, what the features are. Numbers and console."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recsys.columns import ITEM_ID, USER_ID
from recsys.data.cleaning.finding import Finding
from recsys.data.imputation import METHODS
from recsys.data.infer import disguised
from recsys.data.prepared import Prepared
from recsys.data.tally import Tally, Values, no_values, tally, values_of

_CURVE_POINTS = 300
_SHOWN_DETAILS = 8  # lines of a rule on the console


@dataclass(frozen=True)
class WindowFacts:
    """One window; shares are in 0..1. Cold means: no event before the window starts (None for training)."""

    name: str
    start: datetime
    end: datetime
    events: int
    users: int
    items: int
    cold_users: float | None
    cold_items: float | None
    repeats: float  # share of events whose user had the item at an earlier time

    @property
    def days(self) -> float:
        """Length of the window in days."""
        return (self.end - self.start).total_seconds() / 86_400


@dataclass(frozen=True)
class ColumnFacts:
    """One attribute; ``feature`` is its kind as a feature or why it is none, ``examples`` its most frequent values."""

    side: str
    name: str
    feature: str
    dtype: str
    distinct: int
    null_share: float
    examples: tuple[str, ...]


@dataclass(frozen=True)
class DataReport:
    """Everything that the report shows.

    Attributes:
        rows: read, kept, duplicates, after_end, impressions, rejected.
        cleaning: What each rule found and what was done, in the order of the rules.
        tables: For items and users: rows read, without id, duplicates, contradictions, only_in_events.
        cardinalities: Name -> number of distinct values.
        days, events_a_day: One entry a calendar day (UTC) of the whole span, days without events too.
        ranks, popularity: Points of the popularity curve: the item at rank r (from 1) has so many events.
        head_share: Share of the events that the most popular 1 % and 10 % of the sold items have.
        user_quantiles: Name -> events of a user.
        activity: Events of every user that has some, descending, int64 ``[U]``.
        imputation: Of each attribute that was filled, see :func:`recsys.data.imputation.imputation_facts`.
    """

    name: str
    fingerprint: str
    source: str
    rows: dict[str, int]
    rejects: dict[str, int]
    cleaning: tuple[Finding, ...]
    tables: dict[str, dict[str, int]]
    cardinalities: dict[str, int]
    windows: tuple[WindowFacts, ...]
    columns: tuple[ColumnFacts, ...]
    days: tuple[date, ...]
    events_a_day: tuple[int, ...]
    ranks: tuple[int, ...]
    popularity: tuple[int, ...]
    head_share: dict[str, float]
    user_quantiles: dict[str, int]
    activity: np.ndarray
    has_item_table: bool
    features: str
    imputation: tuple[dict[str, Any], ...] = ()

    @property
    def imputation_methods(self) -> tuple[str, ...]:
        """Methods of imputation that were measured."""
        return tuple(m for m in METHODS if any(m in facts["accuracy"] for facts in self.imputation))


def data_report(prepared: Prepared) -> DataReport:
    """Compute the numbers of the report from a prepared data set; reads nothing else."""
    counted = tally(prepared.event_parts, prepared.windows, _shown_context(prepared))
    per_item, per_user = counted.per_item, counted.per_user
    ranks = np.unique(np.geomspace(1, len(per_item), _CURVE_POINTS).round().astype(np.int64))
    cumulative = np.cumsum(per_item) / per_item.sum()
    a_day = counted.days.upsample("day", every="1d").with_columns(pl.col("rows").fill_null(0))
    cardinalities = {"users": len(per_user), "items": len(per_item)}
    if prepared.has_item_table:
        cardinalities["catalogue"] = len(prepared.items)
    optional = {"baskets": counted.baskets, "event types": counted.types}
    cardinalities |= {label: count for label, count in optional.items() if count is not None}
    facts = prepared.report
    findings = [Finding.from_dict(row) for row in facts["cleaning"]] + far_times(counted.days)
    return DataReport(
        name=facts["name"],
        fingerprint=prepared.fingerprint,
        source=str(prepared.path),
        rows=facts["rows"],
        rejects=facts["rejects"],
        cleaning=tuple(findings),
        tables={name: facts[name] for name in ("items", "users") if facts[name]},
        cardinalities=cardinalities,
        windows=_windows(prepared, counted),
        columns=_columns(prepared, counted),
        days=tuple(a_day["day"].to_list()),
        events_a_day=tuple(a_day["rows"].to_list()),
        ranks=tuple(ranks.tolist()),
        popularity=tuple(per_item[ranks - 1].tolist()),
        head_share={
            f"top {share:.0%}": float(cumulative[max(1, round(len(per_item) * share)) - 1]) for share in (0.01, 0.1)
        },
        user_quantiles={
            name: int(np.quantile(per_user, q, method="nearest"))
            for name, q in (("10 %", 0.1), ("median", 0.5), ("90 %", 0.9), ("99 %", 0.99), ("most", 1.0))
        },
        activity=per_user,
        has_item_table=prepared.has_item_table,
        features=facts["features"],
        imputation=tuple(facts["imputation"]),
    )


def _windows(prepared: Prepared, counted: Tally) -> tuple[WindowFacts, ...]:
    facts = []
    bounds = prepared.windows.bounds().items()
    for index, ((name, (start, end)), row) in enumerate(
        zip(bounds, counted.windows.iter_rows(named=True), strict=True)
    ):
        cold_users = row["cold_users"] / row["users"] if index else None
        cold_items = row["cold_items"] / row["items"] if index else None
        sizes = row["events"], row["users"], row["items"]
        facts.append(WindowFacts(name, start, end, *sizes, cold_users, cold_items, row["repeats"] / row["events"]))
    return tuple(facts)


def _shown_context(prepared: Prepared) -> list[str]:
    """Return the columns of the events that the report shows."""
    names = prepared.event_parts[0].collect_schema().names()
    kinds = {f.column for f in prepared.spec.side("context")}
    return [name for name in names if name in kinds or name in prepared.report["skipped_columns"]]


def far_times(days: pl.DataFrame) -> list[Finding]:
    """Find the few events that lie further from all others than these are apart, such as those of a wrong clock.

    Few is one at either end, or one in a thousand.

    Args:
        days: ``day, rows`` of the days that have events, ascending.
    """
    until, total = days["rows"].cum_sum(), int(days["rows"].sum())
    few = max(1, total // 1000)
    if total <= 2 * few:
        return []
    first, last = (days["day"][until.search_sorted(place, "right")] for place in (few, total - 1 - few))
    span = max(last - first, timedelta(days=1))
    far = days.filter((pl.col("day") < first - span) | (pl.col("day") > last + span))
    count, found = int(far["rows"].sum()), ", ".join(str(day) for day in far["day"].head(3))
    done = (
        f"kept, on {found}{' ...' if len(far) > 3 else ''}, where the others are from {first} to {last}: a wrong clock?"
        " data.split.end leaves out what is later, data.privacy.retain_from what is earlier"
    )
    return [Finding("times", count, "events far from all others", done)] if count else []


def _columns(prepared: Prepared, counted: Tally) -> tuple[ColumnFacts, ...]:
    """Return the facts of ids, attributes and context, and of the columns that were left out."""
    kinds: dict[tuple[str, str], str] = {(f.side, f.column): f.kind for f in prepared.spec}
    skipped = prepared.report["skipped_columns"]
    columns = [
        (side, name, _values(frame, name, key))
        for side, frame, key in (("user", prepared.users, USER_ID), ("item", prepared.items, ITEM_ID))
        for name in frame.columns
    ]
    columns += [("context", name, counted.columns[name]) for name in _shown_context(prepared)]
    facts, shown = [], set()
    for side, name, values in columns:
        unused = skipped.get(name) or skipped.get(f"{side}_{name}") or "not declared"
        shown |= {name, f"{side}_{name}"}
        # what one person alone has is a fact about a person
        common = values.common.filter(pl.col("rows") > (side == "user"))
        kind = kinds.get((side, name)) or f"none: {unused}"
        told = disguised(common["value"], common["rows"]) if kind != "multi_id" else None
        facts.append(
            ColumnFacts(
                side=side,
                name=name,
                feature=f"{kind}; {told}" if told else kind,
                dtype=str(values.common.schema["value"]),
                distinct=values.distinct,
                null_share=values.missing / max(1, values.total),
                examples=tuple(str(v) for v in common["value"].head(3)),
            )
        )
    unread = {name: reason for name, reason in skipped.items() if name not in shown}
    facts += [ColumnFacts("", name, f"none: {reason}", "", 0, 0.0, ()) for name, reason in unread.items()]
    return tuple(facts)


def _values(frame: pl.DataFrame, name: str, key: str) -> Values:
    """Count the key, of which each row has its own, or an attribute."""
    if name == key:
        return Values(len(frame), 0, len(frame), no_values(frame.schema[name]))
    counts = frame.group_by(pl.col(name).alias("value")).agg(rows=pl.len().cast(pl.Int64))
    return values_of(counts)


def print_summary(report: DataReport, console: Console) -> None:
    """Print the windows, the rows left out and the attributes as tables that fit a terminal."""
    rows = report.rows
    sizes = ", ".join(f"{count:,} {name}" for name, count in report.cardinalities.items())
    console.print(
        f"[bold]{escape(report.name)}[/bold]: {rows['kept']:,} of {rows['read']:,} rows kept"
        f" ({rows['duplicates']:,} exact duplicates, {rows['rejected']:,} rejected,"
        f" {rows['after_end']:,} after the end, {rows['impressions']:,} impressions); {sizes}"
    )
    for reason, count in report.rejects.items():
        console.print(f"  [yellow]rejected[/yellow] {reason.replace('_', ' ')}: {count:,} ({count / rows['read']:.2%})")
    _print_cleaning(report, console)
    windows = Table(box=box.SIMPLE, title="Windows (UTC)", title_justify="left", padding=(0, 1, 0, 0))
    windows.add_column("window")
    for heading in ("from", "days", "events", "users", "cold", "items", "cold", "repeats"):
        windows.add_column(heading, justify="right")
    for w in report.windows:
        cells = (f"{w.start:%Y-%m-%d %H:%M}", f"{w.days:,.0f}", f"{w.events:,}", f"{w.users:,}", percent(w.cold_users))
        windows.add_row(w.name, *cells, f"{w.items:,}", percent(w.cold_items), percent(w.repeats))
    console.print(windows)
    features = Table(box=box.SIMPLE, title=f"Features ({report.features})", title_justify="left")
    for heading in ("side", "column", "feature"):
        features.add_column(heading)
    for heading in ("distinct", "missing"):
        features.add_column(heading, justify="right")
    for c in report.columns:
        features.add_row(c.side, escape(c.name), escape(c.feature), f"{c.distinct:,}", percent(c.null_share))
    console.print(features)
    if report.imputation:
        console.print(_imputation(report))


def _imputation(report: DataReport) -> Table:
    title = "Filled attributes, and each method's accuracy on values that were hidden"
    table = Table(box=box.SIMPLE, title=title, title_justify="left", padding=(0, 1, 0, 0))
    for heading in ("table", "column", "filled by"):
        table.add_column(heading)
    for heading in ("missing", "hidden", *(m.replace("_", " ") for m in report.imputation_methods)):
        table.add_column(heading, justify="right")
    for facts in report.imputation:
        shares = (percent(facts["accuracy"].get(method)) for method in report.imputation_methods)
        within = f" in {', '.join(facts['groups'])}" if facts["groups"] else ""
        method = escape(facts["method"].replace("_", " ") + within)
        table.add_row(
            facts["table"], escape(facts["column"]), method, f"{facts['gaps']:,}", f"{facts['hidden']:,}", *shares
        )
    return table


def _print_cleaning(report: DataReport, console: Console) -> None:
    """Print a line a rule that found something, and the first of its details; the page has all that name no user."""
    for finding in report.cleaning:
        if not finding.found:
            continue
        what = f"{finding.found:,} {finding.what}: {finding.done}"
        console.print(f"  [cyan]{finding.rule.replace('_', ' ')}[/cyan] {escape(what)}", highlight=False)
        for detail in finding.details[:_SHOWN_DETAILS]:
            console.print(f"    {escape(detail)}", highlight=False)
        more = len(finding.details) - _SHOWN_DETAILS
        if more > 0:
            where = "meta.json of the prepared data" if finding.rule == "accounts" else "the report"
            console.print(f"    and {more:,} more in {where}")


def percent(share: float | None) -> str:
    """Format a share of 0..1; None is a dash."""
    return "-" if share is None else f"{share:.1%}"
