"""What an audit found, as rows that say where, how sure and what to do."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

SEVERITIES = ("error", "warning", "info")
"""``error``: numbers measured on this data would be wrong; ``warning``: look at it; ``info``: as it should be."""


@dataclass(frozen=True)
class Finding:
    """One leak, or one fact beside the leaks.

    Attributes:
        leak: Its name, for example ``basket on both sides``.
        severity: One of :data:`SEVERITIES`.
        place: Table and column, or the function and its column.
        rows: Rows, users, items or values that are concerned.
        evidence: What was seen, with numbers and an example.
        remedy: What to do.
    """

    leak: str
    severity: str
    place: str
    rows: int
    evidence: str
    remedy: str


def by_severity(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings, errors first."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def errors(findings: Sequence[Finding]) -> list[Finding]:
    """Return those of severity ``error``."""
    return [finding for finding in findings if finding.severity == "error"]


def over_parts(found: Sequence[Sequence[Finding]]) -> list[Finding]:
    """Return what was found in parts of the same data, each leak and place once: its rows, and the first evidence.

    Args:
        found: Of each part; of a single one everything stays as it is.
    """
    alike: dict[tuple[str, str], list[Finding]] = {}
    for finding in chain.from_iterable(found):
        alike.setdefault((finding.leak, finding.place), []).append(finding)
    if len(found) == 1:
        return [first for (first, *_) in alike.values()]
    return [
        replace(
            same[0],
            rows=sum(finding.rows for finding in same),
            evidence=f"in {len(same)} of {len(found)} parts of the users; in the first of these: {same[0].evidence}",
        )
        for same in alike.values()
    ]


def findings_table(findings: Sequence[Finding]) -> "Table":
    """Return the findings as a table for the console; what comes from the data is escaped."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    colours = {"error": "bold red", "warning": "yellow", "info": "dim"}
    table = Table(box=box.SIMPLE, title="Leak audit", title_justify="left", padding=(0, 1, 0, 0))
    table.add_column("severity")
    table.add_column("finding, evidence, what to do")
    table.add_column("rows", justify="right")
    for found in by_severity(findings):
        where, evidence, remedy = (escape(text) for text in (found.place, found.evidence, found.remedy))
        text = f"[bold]{escape(found.leak)}[/]: {where}\n{evidence}\n[italic]{remedy}[/]"
        table.add_row(f"[{colours[found.severity]}]{found.severity}[/]", text, f"{found.rows:,}", end_section=True)
    return table
