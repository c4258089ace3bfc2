"""The comparison as a picture: one dot with its interval for each model and slice."""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recsys.evaluation.report import Comparison

MODEL, BASELINE = "#c2410c", "#475569"


def draw(comparison: "Comparison", kind: str = "png") -> bytes:
    """Draw NDCG@k by slice with 95 % intervals.

    Slices have scales of their own; models stand out by colour and all are ordered by ``all``.

    Args:
        comparison: What to draw.
        kind: File format, ``png`` or ``svg``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    parts = comparison.slices
    key = f"ndcg_at_{comparison.k}"
    ordered = sorted(comparison.results, key=lambda result: result.metrics["all"][key])
    names = [result.name for result in ordered]
    columns = min(len(parts), 5)
    lines = -(-len(parts) // columns)
    figure = Figure(figsize=(2.5 * columns + 1.2, (0.32 * len(names) + 1.1) * lines + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).flatten()
    for axis, part in zip(axes, parts, strict=False):
        for row, name in enumerate(names):
            interval = comparison.intervals[name][part]
            colour = BASELINE if name in comparison.baselines else MODEL
            reach = [interval.low, interval.high]
            if interval.is_bounded:
                axis.plot(reach, [row, row], color=colour, linewidth=5, alpha=0.35, clip_on=False)
            axis.plot(interval.mean, row, "o", color=colour, markersize=5, clip_on=False)
        axis.set_title(part.replace("_", " "), fontsize=10, loc="left", fontweight="bold")
        axis.set_xlim(left=0)
        axis.xaxis.set_major_locator(MaxNLocator(3))
        axis.set_ylim(-0.6, len(names) - 0.4)
        axis.set_yticks(range(len(names)), [name.replace("_", " ") for name in names], fontsize=8)
        axis.tick_params(axis="x", labelsize=7)
        axis.tick_params(axis="both", length=0)
        axis.grid(axis="x", color="#e5e7eb")
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
    for axis in axes[len(parts) :]:
        axis.set_visible(False)
    users = int(comparison.results[0].metrics["all"]["users"])
    figure.suptitle(
        f"NDCG@{comparison.k} in the {comparison.window} window, {users:,} users, 95 % intervals", fontsize=11
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=150)
    return buffer.getvalue()
