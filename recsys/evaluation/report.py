"""The comparison: one row for each model, beside the best baseline: printed, saved, drawn, flattened for tracking."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.errors import ConfigError
from recsys.evaluation.evaluate import ModelResult
from recsys.evaluation.margins import Margins, margin_rows, margins, margins_table, signed
from recsys.evaluation.significance import Interval, mean_interval, paired_difference
from recsys.files import json_bytes, write_all

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

BEST = "to best baseline"
"""Title of the last column."""


@dataclass(frozen=True)
class Comparison:
    """Models and baselines of one window, and how sure the differences are.

    Attributes:
        window: ``val`` or ``test``, the first part of every metric key.
        k: Cut-off of the table and of the intervals.
        results: In the order in which they are shown.
        baselines: Names of the results that are baselines.
        best_baseline: Slice to the baseline with the highest NDCG@k there.
        intervals: Model to slice to its NDCG@k with interval.
        differences: Model to slice to its NDCG@k minus that of the best baseline of the slice, with interval; for a
            baseline the best of the other ones.
        margins: Of the first result above each other one.
    """

    window: str
    k: int
    results: tuple[ModelResult, ...]
    baselines: tuple[str, ...]
    best_baseline: dict[str, str]
    intervals: dict[str, dict[str, Interval]]
    differences: dict[str, dict[str, Interval]]
    margins: Margins

    @property
    def slices(self) -> list[str]:
        """Slices that the window has."""
        return list(self.results[0].metrics)


def compare(
    results: Sequence[ModelResult],
    baselines: Sequence[str],
    window: str = "test",
    k: int = 20,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Set results of the same targets side by side.

    Args:
        results: Of models and baselines.
        baselines: Names of the results that are baselines.
        window: ``val`` or ``test``.
        k: Cut-off of the table; one of the evaluated ones.
        resamples: Bootstrap samples of every interval.
        seed: Of the bootstrap.

    Raises:
        ConfigError: The results were not evaluated at ``k``.
    """
    key = f"ndcg_at_{k}"
    if key not in results[0].metrics["all"]:
        raise ConfigError(f"evaluation.ks: the table needs the cut-off {k} of the objective; add {k} to the list.")
    by_name = {result.name: result for result in results}
    best: dict[str, str] = {}
    intervals: dict[str, dict[str, Interval]] = {name: {} for name in by_name}
    differences: dict[str, dict[str, Interval]] = {name: {} for name in by_name}
    for part in results[0].metrics:
        order = sorted(baselines, key=lambda name: -by_name[name].metrics[part][key])
        if order:
            best[part] = order[0]
        for name, result in by_name.items():
            values = result.per_user[part][key]
            intervals[name][part] = mean_interval(values, resamples, seed=seed)
            rivals = [rival for rival in order if rival != name]
            if rivals:
                other = by_name[rivals[0]].per_user[part][key]
                differences[name][part] = paired_difference(values, other, resamples, seed=seed)
    return Comparison(
        window, k, tuple(results), tuple(baselines), best, intervals, differences, margins(results, k, resamples, seed)
    )


def metric_dict(comparison: Comparison) -> dict[str, float]:
    """Return flat keys for tracking.

    The models that are no baselines come first come first served: the first has the plain keys
    ``test/ndcg_at_20``, ``test/new/ndcg_at_20``; every further one ``test/variant/<name>/...``; baselines
    ``test/baseline/<name>/...``. ``.../difference_ndcg_at_20``, ``..._low`` and ``..._high`` compare with the best
    baseline of the slice. Values that do not exist (NaN, bounds of few users) are left out.
    """
    out: dict[str, float] = {}
    main = next((r.name for r in comparison.results if r.name not in comparison.baselines), None)
    for result in comparison.results:
        if result.name == main:
            root = comparison.window
        else:
            kind = "baseline" if result.name in comparison.baselines else "variant"
            root = f"{comparison.window}/{kind}/{result.name}"
        out[f"{root}/fit_seconds"] = result.fit_seconds
        out[f"{root}/score_seconds"] = result.score_seconds
        for part, values in result.metrics.items():
            place = root if part == "all" else f"{root}/{part}"
            out |= {f"{place}/{key}": float(value) for key, value in values.items()}
            if result.name == main and part in comparison.differences[result.name]:
                interval = comparison.differences[result.name][part]
                stem = f"{place}/difference_ndcg_at_{comparison.k}"
                out |= {stem: interval.mean, f"{stem}_low": interval.low, f"{stem}_high": interval.high}
    return {key: value for key, value in out.items() if math.isfinite(value)}


def table_rows(comparison: Comparison, interval: bool = True) -> list[dict[str, str | float]]:
    """Return the table as plain rows: column title to name, number or text; NaN where a slice is empty.

    Args:
        comparison: What is shown.
        interval: Whether the difference comes with its interval, or with a star where that leaves out 0.
    """
    k = comparison.k
    nan = float("nan")
    rows: list[dict[str, str | float]] = []
    for result in comparison.results:
        ndcg = {
            part: result.metrics.get(part, {}).get(f"ndcg_at_{k}", nan)
            for part in ("all", "warm", "cold", "repeat", "new")
        }
        overall = result.metrics["all"]
        row: dict[str, str | float] = {"model": result.name, f"NDCG@{k}": ndcg["all"]}
        row |= {part: ndcg[part] for part in ("warm", "cold", "repeat", "new")}
        row[f"Recall@{k}"] = overall[f"recall_at_{k}"]
        row["cold items"] = result.metrics.get("cold_items", {}).get(f"recall_at_{k}", nan)
        row[f"Hit@{k}"] = overall[f"hit_rate_at_{k}"]
        row[f"MRR@{k}"] = overall[f"mrr_at_{k}"]
        row["coverage"] = overall[f"coverage_at_{k}"]
        row["novelty"] = overall[f"novelty_at_{k}"]
        row["Gini"] = overall[f"gini_at_{k}"]
        row["seconds"] = round(result.fit_seconds + result.score_seconds, 1)
        difference = comparison.differences[result.name].get("all")
        row[BEST] = "" if difference is None else signed(difference, interval)
        rows.append(row)
    return rows


def print_comparison(comparison: Comparison, console: "Console") -> None:
    """Print the table, and below it how far the first model stands above each other one."""
    console.print(rich_table(comparison, console))
    if comparison.margins:
        console.print()
        console.print(margins_table(comparison.results[0].name, comparison.margins, comparison.k, console))


def rich_table(comparison: Comparison, console: "Console") -> "Table":
    """Return the widest table that the console has room for: without the interval, at last without most columns.

    Models stand out from baselines, the best value of each NDCG column is underlined, and a difference whose interval
    leaves out 0 is green or red.
    """
    every = tuple(table_rows(comparison)[0])
    few = ("model", f"NDCG@{comparison.k}", "new", "repeat", "cold items", "seconds", BEST)
    unbounded = console.options.update(width=10_000)
    for titles, interval in ((every, True), (every, False), (few, False)):
        table = _styled(comparison, titles, interval)
        if console.measure(table, options=unbounded).maximum <= console.width:
            break
    return table


def _styled(comparison: Comparison, titles: Sequence[str], interval: bool) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    rows = [{title: row[title] for title in titles} for row in table_rows(comparison, interval)]
    table = Table(
        title=f"{comparison.window} window, whole catalogue",
        caption=_caption(comparison, interval),
        caption_justify="left",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    for title in titles:
        heading = "\n".join(title.replace("@", " @").rsplit(" ", 1))  # no wider than the numbers below
        table.add_column(heading, justify="left" if title == "model" else "right", no_wrap=True)
    compared = {f"NDCG@{comparison.k}", "warm", "cold", "repeat", "new"}.intersection(titles)
    best = {title: max(float(row[title]) for row in rows) for title in compared}
    for row in rows:
        cells = [_cell(title, value, title in best and value == best[title]) for title, value in row.items()]
        gain = comparison.differences[str(row["model"])].get("all")
        colour = "green" if gain and gain.above_zero else "red" if gain and gain.below_zero else ""
        cells[-1] = f"[{colour}]{cells[-1]}[/{colour}]" if colour else cells[-1]
        table.add_row(*cells, style="" if row["model"] in comparison.baselines else "bold cyan")
    return table


def save(comparison: Comparison, folder: Path) -> list[Path]:
    """Write ``comparison.json``, ``.csv``, ``.md``, ``.png`` and ``.svg`` into the folder; return their paths."""
    from recsys.evaluation.plot import draw

    rows = table_rows(comparison)
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files = {
        "comparison.json": json_bytes(_plain(comparison)),
        "comparison.csv": buffer.getvalue().encode(),
        "comparison.md": markdown(comparison).encode(),
    }
    paths = write_all(folder, files)
    return paths + write_all(folder, {f"comparison.{kind}": draw(comparison, kind) for kind in ("png", "svg")})


def markdown(comparison: Comparison) -> str:
    """Return both tables in Markdown."""
    rows = table_rows(comparison)
    lines = ["| " + " | ".join(rows[0]) + " |", "|---|" + "--:|" * (len(rows[0]) - 1)]
    lines += ["| " + " | ".join(_cell(title, value) for title, value in row.items()) + " |" for row in rows]
    lines += ["", _caption(comparison)]
    rivals = margin_rows(comparison.results[0].name, comparison.margins, comparison.k)
    if rivals:
        lines += ["", "| " + " | ".join(rivals[0]) + " |", "|---|" + "--:|" * (len(rivals[0]) - 1)]
        lines += ["| " + " | ".join(row.values()) + " |" for row in rivals]
        lines += ["", "Paired over the same users, with 95 % bootstrap intervals."]
    return "\n".join(lines) + "\n"


def _caption(comparison: Comparison, interval: bool = True) -> str:
    users = int(comparison.results[0].metrics["all"]["users"])
    bootstrap = "95 % paired bootstrap interval"
    sure = bootstrap if interval else f"* where the {bootstrap} leaves out 0; all columns are in comparison.md and .csv"
    return (
        f"{users:,} users. NDCG@{comparison.k} over all, warm and cold users, items repeated and new to the user; "
        f"cold items: Recall@{comparison.k} among items without an earlier event. Last column: NDCG@{comparison.k} "
        f"less that of the best (other) baseline, {sure}."
    )


def _cell(title: str, value: str | float, best: bool = False) -> str:
    if isinstance(value, str):
        return value
    if value != value:
        return "-"
    text = f"{value:.1f}" if title == "seconds" else f"{value:.2f}" if title == "novelty" else f"{value:.4f}"
    return f"[underline]{text}[/underline]" if best else text


def _plain(comparison: Comparison) -> dict[str, Any]:
    """Everything but the per-user values; what does not exist becomes null so that the file is strict JSON."""

    def number(value: float) -> float | None:
        return float(value) if value == value else None

    def plain(parts: dict[str, Interval]) -> dict[str, Any]:
        return {part: interval.to_plain() for part, interval in parts.items()}

    return {
        "window": comparison.window,
        "k": comparison.k,
        "best_baseline": comparison.best_baseline,
        "models": [
            {
                "name": result.name,
                "baseline": result.name in comparison.baselines,
                "fit_seconds": result.fit_seconds,
                "score_seconds": result.score_seconds,
                "metrics": {p: {key: number(v) for key, v in m.items()} for p, m in result.metrics.items()},
                "ndcg": plain(comparison.intervals[result.name]),
                "difference": plain(comparison.differences[result.name]),
                "margin_of_first": plain(comparison.margins.get(result.name, {})),
            }
            for result in comparison.results
        ],
    }
