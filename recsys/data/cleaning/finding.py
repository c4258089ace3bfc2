"""What a rule found and what was done about it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One line of the cleaning section of the data report.

    Attributes:
        rule: Name of the rule, as in :data:`recsys.data.cleaning.rules.ORDER`.
        found: How many rows (of events) or values or items it names.
        what: What they are, for example "shifted rows".
        done: What was done about them.
        parts: Labels with the parts of the count.
    """

    rule: str
    found: int
    what: str
    done: str
    parts: tuple[tuple[str, int], ...] = ()

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Finding":
        """Read what ``asdict`` has made of a finding and JSON of that."""
        return cls(**{**plain, "parts": tuple(map(tuple, plain["parts"]))})

    @property
    def details(self) -> tuple[str, ...]:
        """The parts as lines."""
        return tuple(f"{label}: {count:,}" for label, count in self.parts)

    @property
    def unnamed(self) -> tuple[str, ...]:
        """The parts as lines that name no user, for pages that stay with runs."""
        if self.rule != "accounts" or not self.parts:
            return self.details
        most = max(count for _, count in self.parts)
        return (f"the largest has {most:,} lines; the accounts are named in meta.json of the prepared data",)


_MOST_FIRST = ("left_out", "time_zones", "event_types", "accounts")
_SHOWN = 1000


def together(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Add up what rules found in parts of the events.

    The order is that in which rules and labels first come; what a rule counts by a value of the data is ordered by
    count, then by label, and of those the first 1,000 are named.
    """
    sums: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        key = (finding.rule, finding.what)
        before = sums.get(key, replace(finding, found=0, parts=()))
        parts = dict(before.parts)
        for label, count in finding.parts:
            parts[label] = parts.get(label, 0) + count
        sums[key] = replace(before, found=before.found + finding.found, parts=tuple(parts.items()))
    return tuple(map(_ordered, sums.values()))


def _ordered(finding: Finding) -> Finding:
    if finding.rule not in _MOST_FIRST:
        return finding
    return replace(finding, parts=tuple(sorted(finding.parts, key=lambda part: (-part[1], part[0]))[:_SHOWN]))
