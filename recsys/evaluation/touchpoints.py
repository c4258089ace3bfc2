"""Touchpoints measured: the same questions to a bundle and to baselines, with paired intervals over the users."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recsys.evaluation.margins import signed
from recsys.evaluation.metrics import FAMILIES, ranking_values
from recsys.evaluation.questions import Questions
from recsys.evaluation.significance import Interval, mean_interval, paired_difference
from recsys.files import json_bytes, write_all

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Console
    from rich.table import Table

SHOWN = ("recall", "ndcg", "mrr")
"""Families of the table, in its order."""
NARROW = ("MRR", "seconds")
"""How the columns begin that a narrow console does without."""


@dataclass(frozen=True)
class Measured:
    """One touchpoint.

    Attributes:
        name: Of the touchpoint.
        what: The question, in words.
        k: Cut-off.
        values: Model to family to the value of each question, ``[R]``, the same questions for every model.
        means: Model to family to its mean with interval.
        differences: Model to family to the first model's value less that model's, with interval.
        filters: Filters that are on, in words.
        seconds: Model to seconds that its answers took.
    """

    name: str
    what: str
    k: int
    values: dict[str, dict[str, Tensor]]
    means: dict[str, dict[str, Interval]]
    differences: dict[str, dict[str, Interval]]
    filters: str
    seconds: dict[str, float]

    @property
    def questions(self) -> int:
        """R."""
        return len(next(iter(next(iter(self.values.values())).values())))


def measure(
    name: str,
    what: str,
    questions: Questions,
    answers: Mapping[str, Tensor],
    *,
    resamples: int = 1000,
    seed: int = 0,
    filters: str = "",
    seconds: Mapping[str, float] | None = None,
) -> Measured:
    """Compare answers to the same questions.

    Args:
        name: Of the touchpoint.
        what: The question, in words.
        questions: R of them, one or more.
        answers: Model to item rows ``[R, K]``, best first, -1 for none; the first is compared with the others.
        resamples: Bootstrap samples of every interval.
        seed: Of the bootstrap.
        filters: Filters that are on, in words.
        seconds: Model to seconds that its answers took.
    """
    k = next(iter(answers.values())).shape[1]
    relevant = torch.tensor([len(items) for items in questions.truth])
    values = {}
    for model, rows in answers.items():
        hits = torch.stack([torch.isin(row, items) for row, items in zip(rows, questions.truth, strict=True)])
        values[model] = dict(zip(FAMILIES, ranking_values(hits, relevant, [k])[:, 0], strict=True))
    first = next(iter(values.values()))
    means = {
        model: {family: mean_interval(own[family], resamples, seed=seed) for family in SHOWN}
        for model, own in values.items()
    }
    differences = {
        model: {family: paired_difference(first[family], own[family], resamples, seed=seed) for family in SHOWN}
        for model, own in list(values.items())[1:]
    }
    return Measured(name, what, k, values, means, differences, filters, dict(seconds or {}))


def metric_dict(measured: Sequence[Measured], window: str = "test") -> dict[str, float]:
    """Return flat keys: ``test/cart/recall_at_20``, ``test/cart/baseline/item_knn/recall_at_20`` ..."""
    out: dict[str, float] = {}
    for one in measured:
        for place, (model, families) in enumerate(one.means.items()):
            root = f"{window}/{one.name}" if place == 0 else f"{window}/{one.name}/baseline/{model}"
            out |= {f"{root}/{family}_at_{one.k}": interval.mean for family, interval in families.items()}
        out[f"{window}/{one.name}/questions"] = float(one.questions)
    return out


def table_rows(measured: Sequence[Measured], *, interval: bool = True) -> list[dict[str, str]]:
    """Return the table as rows of text: touchpoint, model, its metrics, and how far the bundle is above it."""
    rows = []
    for one in measured:
        for model, families in one.means.items():
            row = {"touchpoint": one.name, "model": model}
            row |= {_title(family, one.k): f"{families[family].mean:.4f}" for family in SHOWN}
            for family in SHOWN[:2]:
                difference = one.differences.get(model, {}).get(family)
                row[f"{_title(family, one.k)} less"] = signed(difference, interval) if difference else ""
            row["seconds"] = f"{one.seconds[model]:.1f}" if model in one.seconds else ""
            rows.append(row)
    return rows


def touchpoints_table(measured: Sequence[Measured], console: "Console") -> "Table":
    """Return the widest table that the console has room for: without the intervals, at last without most columns."""
    unbounded = console.options.update(width=10_000)
    for interval, whole in ((True, True), (False, True), (False, False)):
        table = _styled(measured, interval=interval, whole=whole)
        if console.measure(table, options=unbounded).maximum <= console.width:
            break
    return table


def _styled(measured: Sequence[Measured], *, interval: bool, whole: bool) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    bootstrap = "95 % paired bootstrap interval"
    sure = f"with its {bootstrap}" if interval else f"* where the {bootstrap} leaves out 0"
    words = "\n".join(f"{one.name}: {one.what}; {one.filters}; {one.questions:,} users" for one in measured)
    table = Table(
        title="touchpoints, test window",
        caption=f"less: the bundle's value less that of the model, {sure}.\n{words}",
        caption_justify="left",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    rows = table_rows(measured, interval=interval)
    if not whole:
        rows = [{title: cell for title, cell in row.items() if not title.startswith(NARROW)} for row in rows]
    for title in rows[0] if rows else ():
        left = title in ("touchpoint", "model")
        heading = title.replace("@", " @").replace(" ", "\n")  # no wider than the numbers below
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    last = ""
    for row in rows:
        new = row["touchpoint"] != last
        last = row["touchpoint"]
        cells = row if new else row | {"touchpoint": ""}
        table.add_row(*cells.values(), style="bold cyan" if new else "")
    return table


def save(measured: Sequence[Measured], folder: Path) -> list[Path]:
    """Write ``touchpoints.csv``, ``.json``, ``.png`` and ``.svg`` into the folder; return their paths."""
    rows = table_rows(measured)
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else ["touchpoint"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    content = json_bytes([_plain(one) for one in measured])
    files = {"touchpoints.csv": buffer.getvalue().encode(), "touchpoints.json": content}
    return write_all(folder, files | {f"touchpoints.{kind}": _drawn(measured, kind) for kind in ("png", "svg")})


def _plain(one: Measured) -> dict[str, Any]:
    def plain(models: dict[str, dict[str, Interval]]) -> dict[str, Any]:
        return {
            model: {f"{family}_at_{one.k}": interval.to_plain() for family, interval in families.items()}
            for model, families in models.items()
        }

    return {
        "touchpoint": one.name,
        "question": one.what,
        "filters": one.filters,
        "questions": one.questions,
        "models": plain(one.means),
        "bundle_less": plain(one.differences),
        "seconds": one.seconds,
    }


def _drawn(measured: Sequence[Measured], kind: str) -> bytes:
    """Draw the recall of every model at every touchpoint, with intervals."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "recsys", "svg.fonttype": "none"}):
        figure = Figure(figsize=(9, 0.8 + 1.1 * max(len(measured), 1)), layout="constrained")
        _draw(figure.subplots(), measured)
        buffer = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def _draw(axes: "Axes", measured: Sequence[Measured]) -> None:
    models = list(dict.fromkeys(model for one in measured for model in one.means))
    height = 0.8 / max(len(models), 1)
    for number, model in enumerate(models):
        own = [(place, one.means[model]["recall"]) for place, one in enumerate(measured) if model in one.means]
        places = [place + number * height for place, _ in own]
        reach = [[i.mean - i.low for _, i in own], [i.high - i.mean for _, i in own]]
        whiskers = torch.tensor(reach, dtype=torch.float64).nan_to_num(posinf=0.0).numpy()  # none without bounds
        axes.barh(places, [i.mean for _, i in own], height, xerr=whiskers, label=model, error_kw={"linewidth": 1})
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(measured))], [one.name for one in measured])
    axes.invert_yaxis()
    axes.set_xlabel(f"Recall@{measured[0].k}" if measured else "Recall")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)


def _title(family: str, k: int) -> str:
    return {"ndcg": "NDCG", "recall": "Recall", "mrr": "MRR"}[family] + f"@{k}"
