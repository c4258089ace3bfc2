"""The report on segments as one self-contained HTML page with plots."""

from pathlib import Path
from typing import TYPE_CHECKING

from recsys.data.report_page import INK, WINDOW_COLOURS, fill, plot
from recsys.files import write_whole
from recsys.segments.clusters import Clustering
from recsys.segments.report import KindReport, SegmentReport, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAVES = 30
"""Branches of a dendrogram that are drawn; what is below them stands together."""
DARK = 0.55
"""Shares of a migration from which on the text is white."""


def write_segments_html(report: SegmentReport, path: Path) -> Path:
    """Write the page, whole or not at all, and return its path.

    Raises:
        DataError: The folder cannot be written.
    """
    return write_whole(path, render_segments(report).encode(), "report on segments")


def render_segments(report: SegmentReport) -> str:
    """Return the page as HTML text; what comes from the data is escaped."""
    return fill(
        "recsys.segments",
        report=report,
        number=number,
        dark=DARK,
        choice_plots={kind.kind: _choice(kind) for kind in report.kinds if kind.trials},
        trees={
            name: plot((5.1, 3.3), lambda axes, tree=clustering: _draw_tree(axes, tree))  # type: ignore[misc]
            for name, clustering in report.model.clusterings.items()
            if clustering.linkage is not None
        },
    )


def _choice(kind: KindReport) -> str:
    return plot((5.1, 3.3), lambda axes: _draw_choice(axes, kind))


def _draw_choice(axes: "Axes", kind: KindReport) -> None:
    """Silhouette, and where chance is involved stability, over the number of clusters; the choice is ringed."""
    from matplotlib.ticker import MaxNLocator

    ks = [trial.k for trial in kind.trials]
    axes.plot(ks, [t.silhouette for t in kind.trials], "o-", color=WINDOW_COLOURS["train"], label="silhouette")
    stable = [(t.k, t.stability) for t in kind.trials if t.stability is not None]
    if stable:
        axes.plot(*zip(*stable, strict=True), "o--", color=WINDOW_COLOURS["val"], label="agreement of seeds")
    if kind.chosen:
        place = kind.chosen.k, kind.chosen.silhouette
        axes.plot(*place, "o", markersize=13, markerfacecolor="none", color=WINDOW_COLOURS["test"], label="chosen")
    axes.set_ylim(min(0.0, *(t.silhouette for t in kind.trials), 0.0), 1.04)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("clusters", fontsize=8, color=INK)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=8, handlelength=1.5)


def _draw_tree(axes: "Axes", clustering: Clustering) -> None:
    """The last merges as a dendrogram, and where it is cut."""
    from scipy.cluster.hierarchy import dendrogram

    dendrogram(
        clustering.linkage,
        truncate_mode="lastp",
        p=LEAVES,
        color_threshold=clustering.height,
        above_threshold_color=INK,
        ax=axes,
        leaf_rotation=90,
        leaf_font_size=7,
    )
    axes.axhline(clustering.height, color=WINDOW_COLOURS["test"], linestyle="--", linewidth=1)
    axes.set_ylabel("distance", fontsize=8, color=INK)
    axes.set_xlabel("users, or (users of a branch)", fontsize=8, color=INK)
