"""How far the first model stands above each other one, slice by slice, and how sure that is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from recsys.evaluation.evaluate import ModelResult
from recsys.evaluation.significance import FEWEST, Interval, paired_difference

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MEASURE = {"all": "ndcg", "new": "ndcg", "repeat": "ndcg", "cold_items": "recall"}
"""What is compared in each slice; among items without events an order says little, so it is what was found."""

Margins = dict[str, dict[str, Interval]]
"""Other model to slice to the first model's measure less that model's."""


def margins(results: Sequence[ModelResult], k: int, resamples: int, seed: int) -> Margins:
    """Compare the first result with every other one, user by user.

    Args:
        results: Of the same targets.
        k: Cut-off.
        resamples: Bootstrap samples of every interval.
        seed: Of the bootstrap.
    """
    first, *others = results
    out: Margins = {}
    for other in others:
        out[other.name] = {}
        for part, family in MEASURE.items():
            key = f"{family}_at_{k}"
            if key in first.per_user.get(part, {}):
                one, two = first.per_user[part][key], other.per_user[part][key]
                out[other.name][part] = paired_difference(one, two, resamples, seed=seed)
    return out


def margin_rows(name: str, found: Margins, k: int, interval: bool = True) -> list[dict[str, str]]:
    """Return the margins as plain rows: column title to text.

    Args:
        name: Of the first model.
        found: Its margins.
        k: Cut-off.
        interval: Whether a margin comes with its interval, or with a star where that leaves out 0.
    """
    shown = {"ndcg": "NDCG", "recall": "Recall"}
    titles = {part: f"{part.replace('_', ' ')} {shown[family]}@{k}" for part, family in MEASURE.items()}
    return [
        {f"{name} less": other} | {title: signed(parts.get(part), interval) for part, title in titles.items()}
        for other, parts in found.items()
    ]


def margins_table(name: str, found: Margins, k: int, console: "Console") -> "Table":
    """Return the widest table that the console has room for; a margin that is surely above or below 0 is coloured."""
    unbounded = console.options.update(width=10_000)
    table = _styled(name, found, k, True)
    if console.measure(table, options=unbounded).maximum > console.width:
        table = _styled(name, found, k, False)
    return table


def _styled(name: str, found: Margins, k: int, interval: bool) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    rows = margin_rows(name, found, k, interval)
    table = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
    for title in rows[0]:
        table.add_column("\n".join(title.rsplit(" ", 1)), justify="left" if title.endswith(" less") else "right")
    for row, parts in zip(rows, found.values(), strict=True):
        first, *cells = row.values()
        table.add_row(first, *(_coloured(cell, parts.get(part)) for cell, part in zip(cells, MEASURE, strict=True)))
    return table


def signed(margin: Interval | None, interval: bool) -> str:
    """Return a difference with its interval, or with a star where that leaves out 0; a dash where there is none."""
    if margin is None:
        return "-"
    if interval and not margin.is_bounded:
        return f"{margin.mean:+.4f} (under {FEWEST} users)"
    if interval:
        return f"{margin.mean:+.4f} ({margin.low:+.4f} to {margin.high:+.4f})"
    return f"{margin.mean:+.4f}{'*' if margin.above_zero or margin.below_zero else ' '}"


def _coloured(text: str, margin: Interval | None) -> str:
    colour = "green" if margin and margin.above_zero else "red" if margin and margin.below_zero else ""
    return f"[{colour}]{text}[/{colour}]" if colour else text
