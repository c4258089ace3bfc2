"""What share of the truth is among the candidates: a ranker cannot find what no source has brought."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recsys.data.candidates import Candidates
from recsys.data.topk import NONE
from recsys.evaluation.slices import Targets

if TYPE_CHECKING:
    from rich.table import Table

SLICES = ("all", "repeat", "new")
UNION = "union"


@dataclass(frozen=True)
class Coverage:
    """What one source, or the union, holds of the truth of a window.

    Attributes:
        source: Its name, or ``union``.
        size: Candidates a user, on average.
        recall: Slice to the share of a user's truth that is among the candidates, mean over the users with such
            truth, as Recall is.
        pooled: Slice to the share of all pairs of truth.
        alone: Slice to the pooled share that the union would lose without the source; 0 for the union.
    """

    source: str
    size: float
    recall: dict[str, float]
    pooled: dict[str, float]
    alone: dict[str, float]


def coverage(
    chunks: Iterable[tuple[Tensor, Mapping[str, Tensor], Candidates]],
    targets: Targets,
) -> list[Coverage]:
    """Measure each source's list at its size, and the union at its limit, by those of :data:`SLICES` that there are.

    Args:
        chunks: A few users at a time, all those of ``targets`` once: rows ``[B]``, the sources' lists ``[B, k]``, and
            the union of these.
        targets: The window.

    Returns:
        One entry a source, in their order, and last that of the union.
    """
    slices = [name for name in SLICES if name in targets.truth_slices]
    size: dict[str, int] = {}
    held: dict[str, Tensor] = {}  # source -> which pairs of truth its list has, [P]
    alone: dict[str, Tensor] = {}
    for users, lists, candidates in chunks:
        true, place = _find(targets, users[candidates.query], candidates.item)
        sources = torch.stack([rank > 0 for rank in candidates.rank.values()]).sum(0)
        for name, items in lists.items():
            row, column = (items != NONE).nonzero(as_tuple=True)
            _mark(held, name, targets, *_find(targets, users[row], items[row, column]))
            _mark(alone, name, targets, true & (sources == 1) & (candidates.rank[name] > 0), place)
            size[name] = size.get(name, 0) + len(row)
        _mark(held, UNION, targets, true, place)
        size[UNION] = size.get(UNION, 0) + len(candidates)
    alone[UNION] = torch.zeros(len(targets.truth_keys), dtype=torch.bool)
    return [
        Coverage(
            name,
            size[name] / len(targets.users),
            {part: _mean_share(pairs, part, targets) for part in slices},
            {part: _share(pairs, part, targets) for part in slices},
            {part: _share(alone[name], part, targets) for part in slices},
        )
        for name, pairs in sorted(held.items(), key=lambda entry: entry[0] == UNION)
    ]


def coverage_rows(found: Sequence[Coverage]) -> list[dict[str, str | float]]:
    """Return the table as plain rows: column title to name or number; shares are in ``[0, 1]``."""
    rows: list[dict[str, str | float]] = []
    for entry in found:
        row: dict[str, str | float] = {"source": entry.source, "a user": entry.size}
        row |= entry.recall
        row |= {f"{part} pooled": share for part, share in entry.pooled.items()}
        row |= {f"{part} only here": share for part, share in entry.alone.items()}
        rows.append(row)
    return rows


def coverage_table(found: Sequence[Coverage], *, whole: bool = True) -> "Table":
    """Return the rows as a table of percentages, the union last and bold; the narrow one has the mean shares alone."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    rows = coverage_rows(found)
    if not whole:
        few = ["source", "a user", *found[0].recall]
        rows = [{key: row[key] for key in few} for row in rows]
    pooled = "; pooled: of all pairs; only here: pooled, lost without the source" if whole else ""
    table = Table(
        title="share of the truth among the candidates",
        caption=f"%, mean over users with such truth{pooled}.",
        caption_justify="left",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    for heading in rows[0]:
        table.add_column(
            "\n".join(heading.split(" ", 1)), justify="left" if heading == "source" else "right", no_wrap=True
        )
    for row in rows:
        name, size, *shares = row.values()
        cells = [f"{100 * float(share):.1f}" for share in shares]
        table.add_row(str(name), f"{float(size):.0f}", *cells, style="bold" if name == UNION else "")
    return table


def _find(targets: Targets, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Look pairs ``[P]`` up: are they truth, and where."""
    true, place = targets.find(users, items[:, None])
    return true[:, 0], place[:, 0]


def _mark(marks: dict[str, Tensor], name: str, targets: Targets, true: Tensor, place: Tensor) -> None:
    pairs = marks.setdefault(name, torch.zeros(len(targets.truth_keys), dtype=torch.bool))
    pairs[place[true]] = True


def _share(pairs: Tensor, part: str, targets: Targets) -> float:
    inside = targets.truth_slices[part]
    return int((pairs & inside).sum()) / int(inside.sum())


def _mean_share(pairs: Tensor, part: str, targets: Targets) -> float:
    hits = (pairs & targets.truth_slices[part]).double()
    rows = torch.searchsorted(targets.users, targets.truth_keys // targets.n_items)
    found = torch.zeros(len(targets.users), dtype=torch.float64).scatter_add_(0, rows, hits)
    asked = targets.n_relevant(part)
    return float((found[asked > 0] / asked[asked > 0]).mean())
