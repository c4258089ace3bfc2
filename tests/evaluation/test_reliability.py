"""The reliability plot and its files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.evaluation.ranking import Calibration, Reliability
from recsys.evaluation.reliability import draw, save, wilson


@pytest.fixture
def curves() -> dict[str, Reliability]:
    """Five curves, more than a line holds, one of them without rows."""
    metric = Calibration(("new", "repeat", "young_families", "nobody"), bins=8)
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(600, generator=generator) ** 4
    labels = torch.rand(600, generator=generator) < p
    metric.update(p, labels, torch.arange(600) % 3)
    return metric.curves()


def test_saved_files_are_complete_and_leave_nothing_behind(curves: dict[str, Reliability], tmp_path: Path) -> None:
    paths = save(curves, tmp_path / "report")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == sorted(path.name for path in paths)
    plain = json.loads((tmp_path / "report" / "reliability.json").read_text())
    assert list(plain) == ["all", "new", "repeat", "young_families", "nobody"]
    assert plain["all"]["ece"] == pytest.approx(curves["all"].error.item())
    assert sum(plain["all"]["count"]) == 600
    assert plain["nobody"] == {"ece": None, "probability": [], "rate": [], "count": []}
    assert (tmp_path / "report" / "reliability.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "report" / "reliability.svg").read_bytes()


def test_every_bin_is_a_dot(curves: dict[str, Reliability], monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    drawn: list[tuple[list[float], list[float]]] = []
    plot = Axes.plot

    def noted(self: Axes, x: object, y: object, *rest: object, **kwargs: object) -> object:
        drawn.append((np.asarray(x).tolist(), np.asarray(y).tolist()))
        return plot(self, x, y, *rest, **kwargs)

    monkeypatch.setattr(Axes, "plot", noted)
    draw({"all": curves["all"]})
    assert drawn[1] == (curves["all"].probability.tolist(), curves["all"].rate.tolist())
    (start, end), diagonal = drawn[0]
    assert [start, end] == diagonal
    assert end > max(*drawn[1][0], *drawn[1][1])


def test_curves_without_rows_have_no_panel(curves: dict[str, Reliability]) -> None:
    svg = draw(curves, "svg")
    assert svg.count(b'<g id="axes_') == 2 * 4
    assert draw({"nobody": curves["nobody"]}, "svg").count(b'<g id="axes_') == 2


def test_wilson_intervals_by_hand() -> None:
    low, high = wilson(np.array([0.0, 0.5, 1.0]), np.array([100.0, 100.0, 100.0]))
    z2 = 1.96**2
    assert low.tolist() == pytest.approx(
        [0, 0.5 - 1.96 * (0.25 / 100 + z2 / 4e4) ** 0.5 / (1 + z2 / 100), 1 / (1 + z2 / 100)]
    )
    assert high.tolist() == pytest.approx([z2 / 100 / (1 + z2 / 100), 1 - low[1], 1])
