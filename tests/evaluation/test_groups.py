"""The comparison by group of users, from made-up results."""

import csv
import io
import re

import pytest
import torch
from rich.console import Console

from recsys.evaluation.evaluate import ModelResult
from recsys.evaluation.groups import group_rows, print_groups, save_groups
from recsys.evaluation.report import Comparison, compare


def result(name: str, parts: dict[str, list[float]]) -> ModelResult:
    metrics = {
        part: {f"{family}_at_20": sum(values) / len(values) for family in ("ndcg", "recall", "hit_rate", "mrr")}
        | {"users": float(len(values))}
        for part, values in parts.items()
    }
    return ModelResult(name, metrics, {p: {"ndcg_at_20": torch.tensor(v)} for p, v in parts.items()})


@pytest.fixture
def comparison() -> Comparison:
    return compare(
        [
            result("wide_deep", {"all": [0.5, 0.7, 0.6], "rfm_lost": [0.5], "rfm_new": [0.7, 0.6] * 5}),
            result("popular", {"all": [0.1, 0.2, 0.3], "rfm_lost": [0.1], "rfm_new": [0.2, 0.3] * 5}),
            result("als", {"all": [0.6, 0.1, 0.1], "rfm_lost": [0.6], "rfm_new": [0.1, 0.1] * 5}),
        ],
        baselines=["popular", "als"],
        resamples=200,
    )


def test_each_group_beside_its_best_baseline(comparison: Comparison) -> None:
    lost, new = group_rows(comparison, interval=False)
    assert list(lost.values()) == ["rfm_lost", "1", "0.5000", "0.5000", "als", "-0.1000 "]  # one user is no proof
    assert list(new.values()) == ["rfm_new", "10", "0.6500", "0.6500", "popular", "+0.4000*"]
    assert new["NDCG@20 less"] == "+0.4000*"


def test_printed_and_saved(comparison: Comparison, tmp_path) -> None:
    out = io.StringIO()
    print_groups(comparison, Console(file=out, width=80))
    assert "wide_deep by group of users" in out.getvalue()
    assert ["rfm_lost", "1", "0.5000", "0.5000", "als", "-0.1000"] in [s.split() for s in out.getvalue().splitlines()]
    (path,) = save_groups(comparison, tmp_path)
    lost, new = csv.DictReader(path.read_text().splitlines())
    assert lost["NDCG@20 less"] == "-0.1000 (under 10 users)"
    assert re.fullmatch(r"\+0\.4000 \(\+0\.3\d+ to \+0\.4\d+\)", new["NDCG@20 less"])


def test_without_groups_there_is_nothing(tmp_path) -> None:
    plain = compare([result("wide_deep", {"all": [0.5]}), result("als", {"all": [0.4]})], ["als"], resamples=10)
    out = io.StringIO()
    print_groups(plain, Console(file=out))
    assert (out.getvalue(), save_groups(plain, tmp_path), list(tmp_path.iterdir())) == ("", [], [])
