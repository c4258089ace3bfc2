"""The events of some users, or of all, on their way from the source to the prepared data set.

::

    rows ─► look ─► check ─► guard ─► clean ─► Part ─┬─► settle ─► Settled
                                                     └─ the windows, found on the times of all parts
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys.columns import ITEM_ID, TIMESTAMP, USER_ID
from recsys.config.data import DataConfig
from recsys.data.cleaning.event_types import leave_out
from recsys.data.cleaning.finding import Finding, together
from recsys.data.cleaning.items import typed_items
from recsys.data.cleaning.rules import Cleaned, clean_events, finish, settle, with_values
from recsys.data.cleaning.shifted import Straightened, straighten
from recsys.data.cleaning.time_zones import zones_found
from recsys.data.guard import Guard
from recsys.data.sources import REJECT_REASON, ROW_NUMBER, Tables
from recsys.data.split import Times, Windows, before_end
from recsys.data.validate import Checked

_TWO = 2  # of what there must be two, more need not be told apart


@dataclass(frozen=True)
class Facts:
    """What happened to the rows of a part, and what its cleaned events hold; it adds up.

    Attributes:
        rows: read, checked, duplicates, after_end, kept, impressions; kept is 0 until a part is settled.
        unusable: Rows that the check refused, by reason.
        rejects: Rows among the rejects, by reason.
        guarded: Rows that ``data.privacy`` leaves out, by reason.
        findings: In the order of the rules.
        users: How many have events.
        items: How many items there are in the part with most of them.
        first_items: The first two items, as text: enough to see that there are two.
    """

    rows: Mapping[str, int]
    unusable: Mapping[str, int]
    rejects: Mapping[str, int]
    guarded: Mapping[str, int]
    findings: tuple[Finding, ...]
    users: int
    items: int
    first_items: tuple[str, ...]

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Facts":
        """Read what ``asdict`` has made of facts and JSON of that."""
        findings = tuple(map(Finding.from_dict, plain["findings"]))
        return cls(**{**plain, "findings": findings, "first_items": tuple(plain["first_items"])})

    @property
    def n_items(self) -> int:
        """How many items there are, where it is no more than two; else two or more."""
        return max(self.items, len(self.first_items))


def add_up(facts: Iterable[Facts]) -> Facts:
    """Return the facts of all parts; reasons are ordered by count, the most frequent first."""
    parts = list(facts)
    names = {name for part in parts for name in part.first_items}
    return Facts(
        _sum(part.rows for part in parts),
        _most_first(part.unusable for part in parts),
        _most_first(part.rejects for part in parts),
        _most_first(part.guarded for part in parts),
        together(finding for part in parts for finding in part.findings),
        sum(part.users for part in parts),
        max(part.items for part in parts),
        tuple(sorted(names)[:_TWO]),
    )


@dataclass(frozen=True)
class Looked:
    """Rows of the source on the way to the check.

    Attributes:
        straight: With the values in their own columns.
        source: Those of them that are not left out.
        left_out: ``row_number, reject_reason`` of the others.
        findings: Of these rules.
    """

    straight: Straightened
    source: pl.DataFrame
    left_out: pl.DataFrame
    findings: tuple[Finding, ...]


def look(rows: pl.DataFrame, cfg: DataConfig) -> Looked:
    """Apply the rules that come before the types of the columns are checked.

    Raises:
        ConfigError: A pattern that cannot be read.
        DataError: A rule names a column that is not read.
    """
    straight = straighten(rows, cfg.cleaning.shifted)
    source, left_out, findings = leave_out(straight.events, cfg)
    return Looked(straight, source, left_out, (*straight.findings, *findings, *zones_found(source)))


@dataclass(frozen=True)
class Part:
    """Cleaned events of some users, before the windows are known.

    Attributes:
        cleaned: Events, impressions and returns; its rejects and findings are in the other two.
        rejects: With the values of the source, by row number.
        active: ``user_id``, as it came, of those who have events that may be used, where consent is asked for.
        facts: What happened.
    """

    cleaned: Cleaned
    rejects: pl.DataFrame
    active: pl.DataFrame
    facts: Facts


def clean_part(tables: Tables, looked: Looked, checked: Checked, guard: Guard, cfg: DataConfig) -> Part:
    """Apply all that needs no windows.

    Args:
        tables: Whose events are all those of some users.
        looked: These events, from :func:`look`.
        checked: Likewise, from the check.
        guard: Of the whole table.
        cfg: The rules.

    Raises:
        DataError: A rule needs a column that is not there.
    """
    kept, active, guarded = guard.events(checked.events, cfg)
    used = before_end(kept, cfg.split)
    catalogue = typed_items(tables.items, used, f"data.items={cfg.items}")
    cleaned = clean_events(used, catalogue, cfg, looked.straight.repaired)
    others = (looked.straight.rejected, looked.left_out, cleaned.rejects)
    rejects = pl.concat([checked.rejects, *(with_values(rows, tables.events) for rows in others)]).sort(ROW_NUMBER)
    items = cleaned.events[ITEM_ID].unique().sort()
    rows = {
        "read": len(tables.events),
        "checked": checked.read,
        "duplicates": cleaned.duplicates,
        "after_end": len(kept) - len(used),
        "kept": 0,
        "impressions": len(cleaned.impressions),
    }
    facts = Facts(
        rows,
        checked.reasons,
        _reasons(rejects),
        guarded,
        (*looked.findings, *cleaned.findings),
        cleaned.events[USER_ID].n_unique(),
        len(items),
        tuple(items[:_TWO].cast(pl.String).to_list()),
    )
    bare = replace(cleaned, rejects=cleaned.rejects.clear(), findings=())
    return Part(bare, rejects, active, facts)


@dataclass(frozen=True)
class Settled:
    """Events of some users as they are prepared; tables are lazy, so that those on a disk stay there.

    Attributes:
        events: Sorted by user, time and item, without what only cleaning reads.
        lines: ``item_id``, ``timestamp`` and the attributes that ride on the events.
        impressions: Apart from the events.
        rejects: With the values of the source, by row number.
        active: As :class:`Part`.
        times: Ascending, microseconds since 1970 UTC, int64.
        facts: What happened.
        folder: Where the tables lie as files, if they do.
    """

    events: pl.LazyFrame
    lines: pl.LazyFrame
    impressions: pl.LazyFrame
    rejects: pl.LazyFrame
    active: pl.LazyFrame
    times: np.ndarray
    facts: Facts
    folder: Path | None = None

    def put(self, name: str, file: Path) -> None:
        """Write one of the tables to a file; what lies on the same disk already is linked there."""
        if self.folder is None:
            getattr(self, name).collect().write_parquet(file)
            return
        own = self.folder / f"{name}.parquet"
        try:
            file.hardlink_to(own)
        except OSError:  # a file system without links
            shutil.copyfile(own, file)


def settle_part(
    part: Part,
    tables: Tables,
    cfg: DataConfig,
    windows: Windows | None = None,
    lines_of_all: Sequence[int] | None = None,
) -> Settled:
    """Apply what depends on the windows, and bring the events into their last form.

    Args:
        part: From :func:`clean_part`.
        tables: Whose events are those of the part.
        cfg: The rules.
        windows: The split; None where :func:`recsys.data.cleaning.rules.waits_for_windows` says that no rule waits.
        lines_of_all: From :func:`recsys.data.cleaning.accounts.lines_until`, of the events of all parts.
    """
    cleaned = part.cleaned if windows is None else settle(part.cleaned, windows, cfg, lines_of_all)
    clean = finish(cleaned.events, cfg)
    events = clean.drop(tables.attributes).select(USER_ID, ITEM_ID, TIMESTAMP, pl.exclude(USER_ID, ITEM_ID, TIMESTAMP))
    later = with_values(cleaned.rejects, tables.events)
    facts = replace(
        part.facts,
        rows={**part.facts.rows, "kept": len(events)},
        rejects=_sum([part.facts.rejects, _reasons(later)]),
        findings=(*part.facts.findings, *cleaned.findings),
    )
    return Settled(
        events.lazy(),
        clean.lazy().select(ITEM_ID, TIMESTAMP, *tables.attributes),
        cleaned.impressions.drop(tables.attributes).lazy(),
        pl.concat([part.rejects, later]).sort(ROW_NUMBER).lazy(),
        part.active.lazy(),
        Times.of(events).parts[0],
        facts,
    )


def _reasons(rejects: pl.DataFrame) -> dict[str, int]:
    return dict(rejects[REJECT_REASON].value_counts(sort=False).sort(REJECT_REASON).iter_rows())


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in counts:
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return total


def _most_first(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    return dict(sorted(_sum(counts).items(), key=lambda pair: (-pair[1], pair[0])))
