"""The comparison of three made-up models: who is compared with whom, and what is written where."""

import csv
import io
import json
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console

from recsys.errors import ConfigError
from recsys.evaluation.evaluate import ModelResult
from recsys.evaluation.report import Comparison, compare, markdown, metric_dict, rich_table, save, table_rows


def result(name: str, all_: list[float], new: list[float], times: int = 10) -> ModelResult:
    """Of users of the given values, each of them so many times."""
    catalogue = {"coverage_at_20": 0.5, "novelty_at_20": 3.25, "gini_at_20": 0.75}
    metrics, per_user = {}, {}
    for part, values in (("all", all_ * times), ("new", new * times)):
        mean = sum(values) / len(values)
        names = ("ndcg", "recall", "hit_rate", "mrr")
        metrics[part] = {f"{family}_at_20": mean for family in names} | {"users": float(len(values))}
        per_user[part] = {"ndcg_at_20": torch.tensor(values)}
    metrics["all"] |= catalogue
    return ModelResult(name, metrics, per_user, fit_seconds=2.0, score_seconds=0.5)


@pytest.fixture
def comparison() -> Comparison:
    return compare(
        [
            result("two_tower", [0.5, 0.7, 0.6], [0.1, 0.2]),
            result("popular", [0.1, 0.2, 0.3], [0.3, 0.4]),
            result("als", [0.4, 0.6, 0.5], [0.0, 0.1]),
        ],
        baselines=["popular", "als"],
        resamples=200,
    )


def test_each_slice_has_a_best_baseline_of_its_own(comparison: Comparison) -> None:
    assert comparison.best_baseline == {"all": "als", "new": "popular"}
    differences = comparison.differences
    assert differences["two_tower"]["all"].mean == pytest.approx(0.1)
    assert differences["two_tower"]["all"].above_zero
    assert differences["two_tower"]["new"].mean == pytest.approx(-0.2)
    assert differences["als"]["all"].mean == pytest.approx(0.5 - 0.2)  # a baseline against the best other one
    assert differences["popular"]["all"].mean == pytest.approx(0.2 - 0.5)


def test_flat_keys_for_tracking(comparison: Comparison) -> None:
    flat = metric_dict(comparison)
    assert flat["test/ndcg_at_20"] == pytest.approx(0.6)
    assert flat["test/new/ndcg_at_20"] == pytest.approx(0.15)
    assert flat["test/coverage_at_20"] == 0.5
    assert flat["test/baseline/als/ndcg_at_20"] == pytest.approx(0.5)
    assert flat["test/baseline/popular/new/recall_at_20"] == pytest.approx(0.35)
    assert flat["test/difference_ndcg_at_20"] == pytest.approx(0.1)
    assert flat["test/new/difference_ndcg_at_20_high"] < 0
    assert all(set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789_/") for key in flat)
    assert all(math.isfinite(value) for value in flat.values())


def test_rows_and_markdown_show_what_is_missing_as_a_dash(comparison: Comparison) -> None:
    first = table_rows(comparison)[0]
    assert (first["model"], first["seconds"], first["novelty"]) == ("two_tower", 2.5, 3.25)
    assert math.isnan(float(first["cold"]))
    line = markdown(comparison).splitlines()[2]
    assert line.startswith("| two_tower | 0.6000 | - | - | - | 0.1500 | 0.6000 |")
    assert line.endswith("| 2.5 | +0.1000 (+0.1000 to +0.1000) |")


def test_console_table_marks_the_model_and_the_best(comparison: Comparison) -> None:
    console = Console(width=200, record=True, file=io.StringIO(), force_terminal=True)
    console.print(rich_table(comparison, console))
    text = console.export_text(styles=True)
    assert "\x1b[1;36mtwo_tower" in text  # bold, in the colour of a model
    assert "\x1b[1;4;36m0.6000" in text  # and the best of its column
    assert "\x1b[4m0.3500" in text
    assert "\x1b[31m-0.3000" in text  # surely worse than the best other baseline


@pytest.mark.parametrize(
    ("width", "columns", "difference"),
    [(80, 7, "+0.1000*"), (140, 15, "+0.1000*"), (160, 15, "+0.1000 (+0.1000 to +0.1000)")],
)
def test_console_table_has_whole_cells_at_every_width(width: int, columns: int, difference: str) -> None:
    names = ["popular", "recent_popular", "personal_frequency", "item_knn", "als"]
    rivals = [result(name, [0.4, 0.6, 0.5], [0.0, 0.1]) for name in names]
    models = [result(name, [0.5, 0.7, 0.6], [0.1, 0.2]) for name in ("two_tower", "two_tower_content_only")]
    console = Console(width=width, file=io.StringIO(), color_system=None)
    table = rich_table(compare([*models, *rivals], names, resamples=20), console)
    assert len(table.columns) == columns
    console.print(table)
    text = console.file.getvalue()
    assert "…" not in text
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    shown = {line.split()[0]: line.rstrip() for line in text.splitlines() if line.strip()}
    assert shown.keys() >= {"two_tower", "two_tower_content_only", *names}
    assert shown["two_tower_content_only"].endswith(difference)
    assert shown["als"].endswith("+0.0000" if width < 160 else "+0.0000 (+0.0000 to +0.0000)")
    assert all(value in shown["two_tower"] for value in ("0.6000", "0.1500", "2.5"))


def test_saved_files_are_complete_and_leave_nothing_behind(comparison: Comparison, tmp_path: Path) -> None:
    paths = save(comparison, tmp_path / "report")
    assert sorted(path.name for path in paths) == sorted(path.name for path in (tmp_path / "report").iterdir())
    names = {path.suffix: path for path in paths}
    plain = json.loads(names[".json"].read_text())
    assert [model["name"] for model in plain["models"]] == ["two_tower", "popular", "als"]
    assert plain["models"][0]["difference"]["all"]["mean"] == pytest.approx(0.1)
    with names[".csv"].open() as file:
        assert [float(row["NDCG@20"]) for row in csv.DictReader(file)] == pytest.approx([0.6, 0.2, 0.5])
    assert names[".png"].read_bytes().startswith(b"\x89PNG")
    assert b"two tower" in names[".svg"].read_bytes() or b"<svg" in names[".svg"].read_bytes()


def test_differences_of_few_users_have_no_bounds(tmp_path: Path) -> None:
    models = [result("two_tower", [0.5, 0.7, 0.6], [0.1, 0.2], 1), result("als", [0.4, 0.6, 0.5], [0.0, 0.1], 1)]
    comparison = compare(models, ["als"])
    assert table_rows(comparison)[0]["to best baseline"] == "+0.1000 (under 10 users)"
    assert table_rows(comparison, interval=False)[0]["to best baseline"] == "+0.1000 "
    flat = metric_dict(comparison)
    assert flat["test/difference_ndcg_at_20"] == pytest.approx(0.1)
    assert not [key for key in flat if key.endswith(("_low", "_high"))]
    paths = {path.suffix: path for path in save(comparison, tmp_path)}
    plain = json.loads(paths[".json"].read_text(), parse_constant=pytest.fail)  # strict JSON knows no Infinity
    for kind in ("ndcg", "difference"):
        assert plain["models"][0][kind]["new"] | {"mean": 0} == {"mean": 0, "low": None, "high": None}
    with paths[".csv"].open() as file:
        assert next(csv.DictReader(file))["to best baseline"] == "+0.1000 (under 10 users)"


def test_a_cutoff_that_was_not_evaluated_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.ks: the table needs the cut-off 10"):
        compare([result("als", [0.1], [0.2])], ["als"], k=10)


def test_a_table_without_baselines_has_no_difference() -> None:
    alone = compare([result("two_tower", [0.1, 0.3], [0.2])], [], resamples=20)
    assert table_rows(alone)[0]["to best baseline"] == ""
    assert "test/difference_ndcg_at_20" not in metric_dict(alone)
