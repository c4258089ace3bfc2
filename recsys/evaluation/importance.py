"""What a ranker's features are worth: what is lost when one of them tells of another pair (Breiman 2001).

A feature that others can stand in for is worth little here, whatever the model makes of it; families of features are
therefore shuffled together as well.
"""

import csv
import io
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recsys.data.topk import top_k
from recsys.errors import RecsysError
from recsys.evaluation.metrics import ranking_values
from recsys.files import json_bytes, write_all

if TYPE_CHECKING:
    from rich.table import Table

PREFIXES = ("pair", "item", "user", "tower", "rank")
"""What names of numeric features begin with, besides the groups of items that a data set has."""
IDS = "ids"
"""The family of all categorical features."""
FAMILY, FEATURE = "#c2410c", "#475569"
MOST_BARS = 40


@dataclass(frozen=True)
class Importance:
    """What one feature, or a family of them, is worth.

    Attributes:
        name: Of the feature or of the family.
        features: That were shuffled together; one unless it is a family.
        loss: NDCG with all features in place less NDCG without, mean over the shuffles; below 0 by chance only.
        spread: Standard deviation over the shuffles; NaN of a single one.
    """

    name: str
    features: tuple[str, ...]
    loss: float
    spread: float


def list_ndcg(scores: Tensor, labels: Tensor, query: Tensor, n_groups: int, k: int, ideal: Tensor) -> Tensor:
    """Return NDCG@k of each group's candidates, float64 ``[G]``, 0 where nothing is relevant.

    The gains are binary; equal scores are ordered by row. Memory is a few times G times the longest group.

    Args:
        scores: ``[P]``, higher is better.
        labels: 0 or 1, ``[P]``.
        query: Which group, int64 ``[P]`` in [0, G), ascending; a group may have no pair.
        n_groups: G.
        k: Cut-off.
        ideal: Relevant items of each group, int64 ``[G]``; those that are not among its candidates count as missed.

    Raises:
        RecsysError: A score among the best of a group is NaN.
    """
    count = torch.bincount(query, minlength=n_groups)
    place = torch.arange(len(query)) - (count.cumsum(0) - count)[query]
    width = max(int(count.max()) if n_groups else 0, 1)
    lists = torch.full((n_groups, width), -torch.inf)
    lists[query, place] = scores.float()
    relevant = torch.zeros(n_groups, width, dtype=torch.bool)
    relevant[query, place] = labels > 0
    values, order = top_k(lists, k)
    hits = relevant.gather(1, order) & (values > -torch.inf)
    return ranking_values(hits, ideal, (k,))[0, 0]


def families(features: Mapping[str, Tensor], prefixes: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """Group features: numeric ones by prefix, the longest that fits, and categorical ones as :data:`IDS`.

    Args:
        features: Name to values ``[P]`` or ``[P, slots]``.
        prefixes: Of the groups of items, :attr:`recsys.data.pair_plan.PairPlan.prefixes`, besides :data:`PREFIXES`.

    Returns:
        Family to names; those of a single feature are left out.
    """
    known = sorted({*PREFIXES, *prefixes}, key=len, reverse=True)
    found: dict[str, list[str]] = {}
    for name, values in features.items():
        fitting = (prefix for prefix in known if name.startswith(f"{prefix}_"))
        family = next(fitting, None) if values.is_floating_point() else IDS
        if family is not None:
            found.setdefault(family, []).append(name)
    return {family: tuple(names) for family, names in found.items() if len(names) > 1}


@torch.no_grad()
def permutation_importance(
    score: Callable[[dict[str, Tensor]], Tensor],
    features: Mapping[str, Tensor],
    labels: Tensor,
    query: Tensor,
    *,
    k: int,
    groups: Mapping[str, Sequence[str]] | None = None,
    repeats: int = 3,
    seed: int = 0,
    most_groups: int | None = None,
) -> list[Importance]:
    """Shuffle each feature and each family among the pairs, score anew, and see what the lists lose.

    The pairs are scored ``1 + repeats x (features + families)`` times. Each repeat has one order of the pairs, which
    all features share: they are compared under the same luck, and what belongs together in a family stays together.

    Args:
        score: Ranker: features of Q pairs to scores ``[Q]``. What is not of a pair, such as histories, it must have.
        features: Name to values ``[P]`` or ``[P, slots]``.
        labels: 0 or 1, ``[P]``.
        query: Which group, int64 ``[P]`` in [0, G), ascending; those without a relevant pair are left out.
        k: Cut-off of NDCG.
        groups: Family to names, such as :func:`families` finds; None finds them by :data:`PREFIXES`.
        repeats: Shuffles of each feature, at least 1.
        seed: Of the shuffles, and of the draw of groups.
        most_groups: Groups that are drawn where there are more; None takes all.

    Returns:
        The most important first; equal ones by name.

    Raises:
        RecsysError: Nothing is relevant, or a score is NaN.
    """
    ideal = torch.bincount(query, weights=labels.double()).long()
    chance = torch.Generator().manual_seed(seed)
    chosen = (ideal > 0).nonzero().squeeze(1)
    if not len(chosen):
        raise RecsysError("importance: no pair is relevant, so no list can get worse; take more users.")
    if most_groups is not None and len(chosen) > most_groups:
        chosen = chosen[torch.randperm(len(chosen), generator=chance)[:most_groups]].sort().values
    rows = torch.isin(query, chosen).nonzero().squeeze(1)
    ideal, query, labels = ideal[chosen], torch.searchsorted(chosen, query[rows]), labels[rows]
    kept = {name: values[rows] for name, values in features.items()}

    def ndcg(changed: dict[str, Tensor]) -> float:
        return float(list_ndcg(score(kept | changed), labels, query, len(chosen), k, ideal).mean())

    asked: dict[str, tuple[str, ...]] = {name: (name,) for name in kept}
    for family, names in (families(kept) if groups is None else groups).items():
        asked[f"{family} ({len(names)})"] = tuple(names)
    orders = [torch.randperm(len(rows), generator=chance) for _ in range(repeats)]
    whole = ndcg({})
    found = []
    for name, names in asked.items():
        losses = [whole - ndcg({one: kept[one][order] for one in names}) for order in orders]
        spread = statistics.stdev(losses) if repeats > 1 else math.nan
        found.append(Importance(name, names, statistics.fmean(losses), spread))
    return sorted(found, key=lambda entry: (-entry.loss, entry.name))


def importance_table(rows: Sequence[Importance], k: int) -> "Table":
    """Return the rows as a table, families bold."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title=f"NDCG@{k} lost without a feature",
        caption="Shuffled among the pairs; bold: a family together, with the number of its features.",
        caption_justify="left",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    table.add_column("feature")
    for heading in ("lost", "spread"):
        table.add_column(heading, justify="right")
    for row in rows:
        spread = "-" if math.isnan(row.spread) else f"{row.spread:.4f}"
        table.add_row(row.name, f"{row.loss:+.4f}", spread, style="bold" if len(row.features) > 1 else "")
    return table


def save(rows: Sequence[Importance], folder: Path, k: int) -> list[Path]:
    """Write ``importance.json``, ``.csv`` and ``.png`` into the folder; return their paths."""
    plain = [
        {
            "name": row.name,
            "features": list(row.features),
            "loss": row.loss,
            "spread": None if math.isnan(row.spread) else row.spread,
        }
        for row in rows
    ]
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("name", "features", "loss", "spread"))
    writer.writerows(
        (row.name, len(row.features), row.loss, "" if math.isnan(row.spread) else row.spread) for row in rows
    )
    contents = {
        "json": json_bytes(plain),
        "csv": buffer.getvalue().encode(),
        "png": draw(rows, k),
    }
    return write_all(folder, {f"importance.{kind}": content for kind, content in contents.items()})


def draw(rows: Sequence[Importance], k: int, kind: str = "png") -> bytes:
    """Draw a bar for each of the first :data:`MOST_BARS` rows, families in a colour of their own.

    A line is a standard deviation to both sides.

    Args:
        rows: The most important first.
        k: Cut-off of NDCG.
        kind: File format, ``png`` or ``svg``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = rows[:MOST_BARS]
    figure = Figure(figsize=(7, 0.2 * len(rows) + 1.1), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    colours = [FAMILY if len(row.features) > 1 else FEATURE for row in rows]
    axis.barh(range(len(rows)), [row.loss for row in rows], color=colours, height=0.7)
    for place, row in enumerate(rows):
        if not math.isnan(row.spread):
            axis.plot([row.loss - row.spread, row.loss + row.spread], [place, place], color="#0f172a", linewidth=1)
    axis.set_yticks(range(len(rows)), [row.name.replace("_", " ") for row in rows], fontsize=7)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.axvline(0, color=FEATURE, linewidth=0.8)
    axis.tick_params(axis="x", labelsize=7)
    axis.tick_params(axis="both", length=0)
    axis.grid(axis="x", color="#e5e7eb")
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    figure.suptitle(f"NDCG@{k} lost without a feature; families in colour", fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=150)
    return buffer.getvalue()
