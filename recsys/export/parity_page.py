"""The parity certificate as a page: what was compared, how far apart it was, and what may be."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recsys.data.report_page import fill


def write_page(parity: Mapping[str, Any], title: str, path: Path) -> None:
    """Write the page of what :func:`recsys.export.parity.certificate` returned; ``title`` is the model's name."""
    path.write_text(render(parity, title), encoding="utf-8")


def render(parity: Mapping[str, Any], title: str) -> str:
    """Return the page as HTML text."""
    towers = list(dict.fromkeys(case["tower"] for case in parity["cases"]))
    cards = {
        "cases": f"{len(parity['cases']):,}",
        "off": str(sum(not case["passed"] for case in parity["cases"])),
        "largest difference": f"{parity['max_difference']:.1e}",
        f"least overlap of the best {parity['top_k']}": _share(min(_overlaps(parity["cases"]), default=None)),
    }
    tables = {tower: [case for case in parity["cases"] if case["tower"] == tower] for tower in towers}
    return fill("recsys.export", title=title, parity=parity, cards=cards, tables=tables, used=_used, share=_share)


def _overlaps(cases: list[dict[str, Any]]) -> list[float]:
    return [case["overlap"] for case in cases if case["overlap"] is not None]


def _used(case: Mapping[str, Any]) -> float:
    """Return how much of what is allowed a difference takes, in [0, 1]."""
    return min(case["max_difference"] / (case["tolerance"] * max(case["scale"], 1e-6)), 1.0)


def _share(overlap: float | None) -> str:
    return "-" if overlap is None else f"{overlap:.2%}"
