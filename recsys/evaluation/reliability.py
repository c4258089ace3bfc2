"""The reliability plot: the probability that was said against the rate that was observed, and how often it was said."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recsys.evaluation.ranking import Reliability
from recsys.files import write_all

COLOUR, REFERENCE = "#c2410c", "#475569"
Z = 1.96
"""Standard errors either side of a 95 % interval."""


def draw(curves: Mapping[str, Reliability], kind: str = "png") -> bytes:
    """Draw one panel for each curve, and under it the rows of each bin.

    A dot is a bin, its line the 95 % interval of the rate (Wilson 1927), the diagonal a model that is right. The
    square-root scale keeps the many low probabilities apart and still has a place for a rate of 0. A curve without
    rows is left out.

    Args:
        curves: Title to curve, such as :meth:`~recsys.evaluation.ranking.Calibration.curves` returns.
        kind: File format, ``png`` or ``svg``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    curves = {title: curve for title, curve in curves.items() if len(curve.count)} or dict([*curves.items()][:1])
    columns = min(len(curves), 4)
    lines = -(-len(curves) // columns)
    figure = Figure(figsize=(3.2 * columns + 0.6, 3.9 * lines + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    heights = [3, 1] * lines
    grid = figure.subplots(2 * lines, columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    for place, (title, curve) in enumerate(curves.items()):
        line, column = divmod(place, columns)
        axis, below = grid[2 * line, column], grid[2 * line + 1, column]
        said, rate, count = (np.asarray(part, dtype=float) for part in (curve.probability, curve.rate, curve.count))
        low, high = wilson(rate, count)
        limit = 1.1 * max([*said, *high], default=1.0)
        axis.plot([0, limit], [0, limit], color=REFERENCE, linewidth=1, linestyle=":")
        axis.vlines(said, low, high, color=COLOUR, linewidth=3, alpha=0.35)
        axis.plot(said, rate, "o-", color=COLOUR, markersize=4, linewidth=1, clip_on=False, zorder=3)
        axis.set_ylim(0, limit)
        below.vlines(said, 0, count, color=REFERENCE, linewidth=3)
        below.set_ylim(bottom=0)
        for scaled in (axis.set_xscale, axis.set_yscale, below.set_xscale):
            scaled("function", functions=(lambda v: np.sqrt(np.maximum(v, 0)), np.square))
        for each in (axis, below):
            each.set_xlim(0, limit)
            each.xaxis.set_major_locator(MaxNLocator(4))
            each.yaxis.set_major_locator(MaxNLocator(4 if each is axis else 2))
            each.tick_params(axis="both", labelsize=7, length=0)
            each.grid(color="#e5e7eb")
            each.set_axisbelow(True)
            each.spines[["top", "right"]].set_visible(False)
        axis.set_title(title.replace("_", " "), fontsize=10, loc="left", fontweight="bold")
        axis.set_title(f"ECE {curve.error.item():.4f}, {int(count.sum()):,} rows", fontsize=8, loc="right")
        axis.set_ylabel("observed rate", fontsize=8)
        below.set_ylabel("rows", fontsize=8)
        below.set_xlabel("probability", fontsize=8)
    for place in range(len(curves), lines * columns):
        line, column = divmod(place, columns)
        grid[2 * line, column].set_visible(False)
        grid[2 * line + 1, column].set_visible(False)
    figure.suptitle("Reliability in bins of equal mass, 95 % intervals", fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=150)
    return buffer.getvalue()


def save(curves: Mapping[str, Reliability], folder: Path) -> list[Path]:
    """Write ``reliability.json``, ``.png`` and ``.svg`` into the folder; return their paths."""
    contents = {"json": plain(curves).encode(), "png": draw(curves, "png"), "svg": draw(curves, "svg")}
    return write_all(folder, {f"reliability.{kind}": content for kind, content in contents.items()})


def plain(curves: Mapping[str, Reliability]) -> str:
    """Return the curves as JSON: title to ``ece`` (null without rows) and lists ``probability, rate, count``."""
    return json.dumps(
        {
            title: {
                "ece": curve.error.item() if len(curve.count) else None,
                "probability": curve.probability.tolist(),
                "rate": curve.rate.tolist(),
                "count": curve.count.tolist(),
            }
            for title, curve in curves.items()
        },
        indent=1,
    )


def wilson(rate: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the 95 % interval of each rate over ``count`` rows, ``[b]`` each (Wilson 1927)."""
    middle = (rate + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * np.sqrt(rate * (1 - rate) / count + Z**2 / (4 * count**2))
    return np.maximum(middle - half, 0), np.minimum(middle + half, 1)
