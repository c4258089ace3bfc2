"""The data report as one self-contained HTML page with plots."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys.data.report import DataReport, percent
from recsys.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GRID = "#334155", "#e2e8f0"
WINDOW_COLOURS = {"train": "#1e3a5f", "val": "#0f766e", "test": "#c2410c"}


@dataclass(frozen=True)
class Section:
    """A table that somebody adds to the page: title, a sentence, headings, and rows of text as wide."""

    title: str
    text: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def write_html(report: DataReport, path: str | Path, sections: Sequence[Section] = ()) -> Path:
    """Write the page, whole or not at all, and return its path.

    Args:
        report: The numbers.
        path: Of the page.
        sections: Shown after everything else.

    Raises:
        DataError: The folder cannot be written.
    """
    return write_whole(Path(path), render(report, sections).encode(), "data report")


def render(report: DataReport, sections: Sequence[Section] = ()) -> str:
    """Return the page as HTML text; what comes from the data is escaped."""
    return fill(
        "recsys.data",
        report=report,
        sections=sections,
        colours=WINDOW_COLOURS,
        days_plot=plot((10.4, 2.9), lambda axes: _draw_days(axes, report)),
        popularity_plot=plot((5.1, 3.3), lambda axes: _draw_popularity(axes, report)),
        activity_plot=plot((5.1, 3.3), lambda axes: _draw_activity(axes, report)),
    )


def fill(package: str, **values: Any) -> str:
    """Return the template ``report.html.j2`` of a package filled with values, which are escaped, and the style."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = percent
    template = environment.from_string(files(package).joinpath("report.html.j2").read_text(encoding="utf-8"))
    style = files("recsys.data").joinpath("report.css").read_text(encoding="utf-8")
    return template.render(style=Markup(style), **values)


def plot(size: tuple[float, float], draw: Callable[["Axes"], None]) -> str:
    """Draw into one set of axes, of a size in inches, and return it as inline SVG."""
    import matplotlib as mpl
    from markupsafe import Markup
    from matplotlib.figure import Figure

    # Text stays text (small, searchable); a fixed salt makes the same report the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "recsys", "font.family": "sans-serif"}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GRID)
        axes.tick_params(colors=INK, labelsize=8, length=0, which="both")
        axes.grid(color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Markup(buffer.getvalue()[buffer.getvalue().index("<svg") :])


def _draw_days(axes: "Axes", report: DataReport) -> None:
    """Events a day, coloured by window; the day of a cut is drawn in the later one."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num

    days = np.asarray(date2num(report.days))
    counts = np.array(report.events_a_day)
    for window in report.windows:
        first, after = (date2num(time.date()) for time in (window.start, window.end))
        inside = (days >= first) & ((days < after) | (window.name == "test"))
        edges = np.append(days[inside], days[inside][-1:] + 1)
        share = window.events / max(1, report.rows["kept"])
        label = f"{window.name} {share:.0%}"
        if inside.any():
            axes.stairs(counts[inside], edges, fill=True, color=WINDOW_COLOURS[window.name], label=label)
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=8, handlelength=1)


def _draw_popularity(axes: "Axes", report: DataReport) -> None:
    axes.loglog(report.ranks, report.popularity, color=WINDOW_COLOURS["train"], linewidth=2)
    axes.set_xlabel("item, by rank", fontsize=8, color=INK)
    axes.set_ylabel("events", fontsize=8, color=INK)


def _draw_activity(axes: "Axes", report: DataReport) -> None:
    most = int(report.activity[0])
    edges = np.unique(np.geomspace(1, most + 1, 31).round())
    axes.hist(report.activity, bins=edges, color=WINDOW_COLOURS["val"], edgecolor="white", linewidth=0.6)  # type: ignore[arg-type]
    axes.set_xscale("log")
    axes.set_xlabel("events of a user", fontsize=8, color=INK)
    axes.set_ylabel("users", fontsize=8, color=INK)
