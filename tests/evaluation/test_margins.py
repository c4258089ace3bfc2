import io

import pytest
import torch
from rich.console import Console

from recsys.evaluation.evaluate import ModelResult
from recsys.evaluation.margins import margin_rows, margins, margins_table


def result(name: str, new: list[float], cold: list[float]) -> ModelResult:
    """Of users of the given values, each of them several times."""
    new, cold = new * 4, cold * 5
    kept = {
        "new": {"ndcg_at_20": torch.tensor(new), "recall_at_20": torch.tensor(new) + 9},
        "cold_items": {"ndcg_at_20": torch.tensor(cold) + 9, "recall_at_20": torch.tensor(cold)},
    }
    return ModelResult(name, {}, kept)


@pytest.fixture
def results() -> list[ModelResult]:
    return [
        result("two_tower", [0.3, 0.4, 0.5], [0.2, 0.0]),
        result("als", [0.2, 0.3, 0.4], [0.0, 0.2]),
        result("popular", [0.5, 0.5, 0.6], [0.0, 0.0]),
    ]


def test_first_model_against_each_other_one(results: list[ModelResult]) -> None:
    found = margins(results, 20, 200, 0)
    assert list(found) == ["als", "popular"]
    assert set(found["als"]) == {"new", "cold_items"}  # slices that the window has
    assert found["als"]["new"].mean == pytest.approx(0.1)
    assert found["als"]["new"].above_zero
    assert found["popular"]["new"].below_zero
    assert found["als"]["cold_items"].mean == pytest.approx(0.0)  # recall, not NDCG
    assert not found["als"]["cold_items"].above_zero
    assert found["popular"]["cold_items"].mean == pytest.approx(0.1)


def test_rows(results: list[ModelResult]) -> None:
    rows = margin_rows("two_tower", margins(results, 20, 200, 0), 20)
    assert list(rows[0]) == ["two_tower less", "all NDCG@20", "new NDCG@20", "repeat NDCG@20", "cold items Recall@20"]
    assert rows[0]["two_tower less"] == "als"
    assert rows[0]["all NDCG@20"] == "-"
    assert rows[0]["new NDCG@20"] == "+0.1000 (+0.1000 to +0.1000)"


@pytest.mark.parametrize(("width", "cell"), [(200, "+0.1000 (+0.1000 to +0.1000)"), (70, "+0.1000*")])
def test_table_fits_the_console(results: list[ModelResult], width: int, cell: str) -> None:
    console = Console(width=width, record=True, file=io.StringIO(), force_terminal=True)
    console.print(margins_table("two_tower", margins(results, 20, 200, 0), 20, console))
    text = console.export_text(styles=True)
    assert f"\x1b[32m{cell}" in text  # surely above 0: green
    assert "\x1b[31m-0." in text  # surely below: red
    assert all(len(line) <= width for line in console.export_text(clear=False).splitlines())
