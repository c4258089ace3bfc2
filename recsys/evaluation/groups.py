"""The comparison by group of users: where the first model is strong, and where a baseline is as good."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.evaluation.margins import signed
from recsys.evaluation.report import Comparison
from recsys.evaluation.slices import LIST_OF
from recsys.files import write_all

if TYPE_CHECKING:
    from rich.console import Console


def group_rows(comparison: Comparison, interval: bool = True) -> list[dict[str, str]]:
    """Return one row a group: column title to text; none without groups.

    Args:
        comparison: Of targets with groups, from :func:`~recsys.evaluation.slices.with_groups`.
        interval: Whether the difference comes with its interval, or with a star where that leaves out 0.
    """
    first, k = comparison.results[0], comparison.k
    rows = []
    for part in comparison.slices:
        if part not in LIST_OF:
            values = first.metrics[part]
            rows.append(
                {
                    "group": part,
                    "users": f"{int(values['users']):,}",
                    f"NDCG@{k}": f"{values[f'ndcg_at_{k}']:.4f}",
                    f"Recall@{k}": f"{values[f'recall_at_{k}']:.4f}",
                    "best baseline": comparison.best_baseline.get(part, "-"),
                    f"NDCG@{k} less": signed(comparison.differences[first.name].get(part), interval),
                }
            )
    return rows


def print_groups(comparison: Comparison, console: "Console") -> None:
    """Print the first model group by group, if there are groups."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    rows = group_rows(comparison, interval=False)
    if rows:
        title = f"{comparison.results[0].name} by group of users"
        table = Table(title=title, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
        for heading in rows[0]:
            table.add_column(heading, justify="left" if heading in ("group", "best baseline") else "right")
        for row in rows:
            table.add_row(*row.values())
        console.print()
        console.print(table)


def save_groups(comparison: Comparison, folder: Path) -> list[Path]:
    """Write ``groups.csv`` into the folder, if there are groups; return its path."""
    rows = group_rows(comparison)
    if not rows:
        return []
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_all(folder, {"groups.csv": buffer.getvalue().encode()})
