"""What the segments look like: sizes, profiles, how many clusters and why, migration between windows."""

from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import polars as pl
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recsys.columns import USER_ID
from recsys.data.dataset import microseconds
from recsys.data.prepared import Prepared
from recsys.segments.clusters import Space, Trial
from recsys.segments.intent import GROUPS
from recsys.segments.model import CLUSTERINGS, NO_EVENTS, NO_PURCHASES, SegmentModel
from recsys.segments.rfm import NAMES

TITLES = {
    "rfm": "RFM",
    "kmeans": "K-Means",
    "ward": "Hierarchy by Ward's linkage",
    "complete": "Hierarchy by complete linkage",
    "demographic": "Demographic groups",
    "intent": "Purchase intent",
}
PROFILE = ("recency", "frequency", "monetary", "spend", "basket_size", "variety", "repeat", "gap", "tenure", "others")
"""Behaviour whose medians describe a segment."""
CUTS = ("train", "val", "test")
"""Segments are looked at as of the end of each window."""


@dataclass(frozen=True)
class Profile:
    """One segment as of the end of the training window, where segments are fitted.

    Attributes:
        segment: Its name.
        users: Number of users; ``later`` as of the end of the later windows, in their order.
        share: Of all users with an event.
        medians: Behaviour to its median; None where the segment has no value.
        traits: Of clusters: what sets the centroid apart, in words.
    """

    segment: str
    users: int
    later: tuple[int, ...]
    share: float
    medians: dict[str, float | None]
    traits: str


@dataclass(frozen=True)
class Migration:
    """Users by segment at one cut (rows) and at the next (columns), int ``[segments][segments]``."""

    start: str
    end: str
    segments: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @property
    def stayed(self) -> float:
        """Share of the users with an event before the first cut whose segment is the same at the second."""
        known = [n for n, segment in enumerate(self.segments) if segment != NO_EVENTS]
        return sum(self.counts[n][n] for n in known) / max(1, sum(sum(self.counts[n]) for n in known))


@dataclass(frozen=True)
class KindReport:
    """One kind of segments; ``chosen`` is the trial that was taken, ``trials`` and ``agreement`` those of clusters."""

    kind: str
    title: str
    profiles: tuple[Profile, ...]
    migrations: tuple[Migration, ...]
    trials: tuple[Trial, ...]
    chosen: Trial | None
    agreement: float | None


@dataclass(frozen=True)
class SegmentReport:
    """Everything that the page shows; ``columns`` are the medians that the data have, ``cuts`` the ends of windows."""

    name: str
    fingerprint: str
    users: int
    cuts: dict[str, datetime]
    columns: tuple[str, ...]
    kinds: tuple[KindReport, ...]
    model: SegmentModel


def assign_all(prepared: Prepared, model: SegmentModel) -> dict[str, pl.DataFrame]:
    """Return the segments of all users as of the end of each window of :data:`CUTS`."""
    ends = {name: end for name, (_, end) in prepared.windows.bounds().items()}
    return {name: model.assign(prepared.events, prepared.users, microseconds(ends[name])) for name in CUTS}


def segment_report(prepared: Prepared, model: SegmentModel, assigned: dict[str, pl.DataFrame]) -> SegmentReport:
    """Compute the numbers of the report.

    Args:
        prepared: The data set that the model was fitted on, at the end of the training window.
        model: The segments.
        assigned: From :func:`assign_all`.
    """
    table = model.behaviour(prepared.events, model.cut)
    columns = tuple(c for c in PROFILE if table[c].null_count() < len(table) and not (table[c] == 0).all())
    kinds = []
    for kind in model.kinds:
        names = _order(kind, {name for frame in assigned.values() for name in frame[kind]})
        clustering = model.clusterings.get(kind)
        trials = clustering.trials if clustering else ()
        kinds.append(
            KindReport(
                kind=kind,
                title=TITLES[kind],
                profiles=tuple(_profiles(model, kind, names, columns, table, assigned)),
                migrations=tuple(
                    _migration(kind, names, start, end, assigned)
                    for start, end in pairwise(CUTS)
                    if kind != "demographic"  # nobody changes who they are
                ),
                trials=trials,
                chosen=next((t for t in trials if clustering and t.k == len(clustering.centroids)), None),
                agreement=clustering.agreement if clustering else None,
            )
        )
    return SegmentReport(
        name=prepared.report["name"],
        fingerprint=prepared.fingerprint,
        users=len(table),
        cuts={name: end for name, (_, end) in prepared.windows.bounds().items()},
        columns=columns,
        kinds=tuple(kinds),
        model=model,
    )


def _order(kind: str, found: set[str]) -> tuple[str, ...]:
    """Return the segments in an order that means something; demographic ones by name."""
    if kind == "rfm":
        known = list(dict.fromkeys(name for line in reversed(NAMES) for name in reversed(line)))
    elif kind == "intent":
        known = list(GROUPS)
    else:
        known = sorted(found - {NO_EVENTS, NO_PURCHASES}, key=lambda name: (len(name) * (kind in CLUSTERINGS), name))
    return tuple(name for name in (*known, NO_PURCHASES, NO_EVENTS) if name in found)


def _profiles(
    model: SegmentModel,
    kind: str,
    names: tuple[str, ...],
    columns: tuple[str, ...],
    table: pl.DataFrame,
    assigned: dict[str, pl.DataFrame],
) -> list[Profile]:
    sizes = [dict(frame[kind].value_counts().iter_rows()) for frame in assigned.values()]
    known = table.join(assigned["train"].select(USER_ID, kind), on=USER_ID)
    medians = known.group_by(kind).agg(pl.len().alias("users"), pl.col(columns).median())
    rows = {row[kind]: row for row in medians.iter_rows(named=True)}
    clustering = model.clusterings.get(kind)
    profiles = []
    for name in names:
        row = rows.get(name, {})
        is_cluster = clustering is not None and model.space is not None and name.isdigit()
        profiles.append(
            Profile(
                segment=name,
                users=sizes[0].get(name, 0),
                later=tuple(size.get(name, 0) for size in sizes[1:]),
                share=row.get("users", 0) / max(1, len(known)),
                medians={column: row.get(column) for column in columns},
                traits=_traits(model.space, clustering.centroids[int(name) - 1].tolist()) if is_cluster else "",  # type: ignore[union-attr, arg-type]
            )
        )
    return profiles


def _traits(space: Space, centroid: list[float]) -> str:
    """Return the axes on which a centroid is half a standard deviation or more from the mean, farthest first."""
    far = sorted(((abs(value), axis, value) for axis, value in zip(space.axes, centroid, strict=True)), reverse=True)
    words = [f"{'high' if value > 0 else 'low'} {axis.replace('_', ' ')}" for size, axis, value in far if size >= 0.5]
    return ", ".join(words[:3]) or "average"


def _migration(kind: str, names: tuple[str, ...], start: str, end: str, assigned: dict[str, pl.DataFrame]) -> Migration:
    pairs = assigned[start].select(USER_ID, start=kind).join(assigned[end].select(USER_ID, end=kind), on=USER_ID)
    counts = {(a, b): n for a, b, n in pairs.group_by("start", "end").len().iter_rows()}
    return Migration(start, end, names, tuple(tuple(counts.get((a, b), 0) for b in names) for a in names))


def print_segments(report: SegmentReport, console: Console) -> None:
    """Print sizes and medians of every kind as tables that fit a terminal."""
    shown = [
        column for column in ("recency", "frequency", "monetary", "basket_size", "repeat") if column in report.columns
    ]
    console.print(
        f"[bold]{escape(report.name)}[/bold]: segments of {report.users:,} users, fitted before"
        f" {report.cuts['train']:%Y-%m-%d %H:%M} UTC; medians as of then"
    )
    for kind in report.kinds:
        table = Table(
            box=box.SIMPLE, title=escape(f"{kind.title}{_why(kind)}"), title_justify="left", padding=(0, 1, 0, 0)
        )
        table.add_column("segment", no_wrap=True)
        for heading in ("users", "share", *(c.replace("_", " ") for c in shown)):
            table.add_column(heading, justify="right")
        for profile in kind.profiles:
            cells = (number(profile.medians[column]) for column in shown)
            share = f"{profile.share:.1%}" if profile.segment != NO_EVENTS else "-"
            name = profile.segment.replace("_", " ")
            table.add_row(escape(name), f"{profile.users:,}", share, *cells)
        console.print(table)
        moved = ", ".join(f"{m.start} to {m.end} {m.stayed:.0%}" for m in kind.migrations)
        if moved:
            console.print(f"  same segment at the end of the next window: {moved}")


def _why(kind: KindReport) -> str:
    if kind.chosen is None:
        return ""
    stable = "" if kind.chosen.stability is None else f", seeds agree {kind.chosen.stability:.2f}"
    return f": {kind.chosen.k} clusters, silhouette {kind.chosen.silhouette:.2f}{stable}"


def number(value: float | None) -> str:
    """Format a median: three digits that count; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
