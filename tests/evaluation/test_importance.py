"""Importance by shuffling, where it is known what matters."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import Tensor

from recsys.errors import RecsysError
from recsys.evaluation.importance import (
    Importance,
    draw,
    families,
    importance_table,
    list_ndcg,
    permutation_importance,
    save,
)


def test_ndcg_by_hand() -> None:
    """Three groups: hits at ranks 1 and 3 of 3 relevant, none relevant, and no candidates for one relevant item."""
    query = torch.tensor([0, 0, 0, 0, 1])
    found = list_ndcg(
        torch.tensor([0.5, 2.0, 2.0, -1.0, 9.0]),  # rows 1 and 2 tie: the first comes first
        torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0]),
        query,
        n_groups=3,
        k=3,
        ideal=torch.tensor([3, 0, 1]),
    )
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    assert found.tolist() == pytest.approx([(1 + 1 / 2) / ideal, 0, 0])
    one = list_ndcg(torch.tensor([3.0, 1.0]), torch.tensor([0, 1]), torch.tensor([0, 0]), 1, 1, torch.tensor([1]))
    assert one.tolist() == [0]
    assert len(list_ndcg(torch.zeros(0), torch.zeros(0), query[:0], 0, 5, query[:0])) == 0


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_ndcg_is_that_of_a_loop(data: st.DataObject) -> None:
    n_groups, k = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6))
    rows = data.draw(st.lists(st.tuples(st.integers(0, n_groups - 1), st.integers(-3, 3), st.booleans()), max_size=25))
    rows.sort(key=lambda row: row[0])
    missed = data.draw(st.lists(st.integers(0, 3), min_size=n_groups, max_size=n_groups))
    expected, ideal = [], []
    for group in range(n_groups):
        ranked = sorted((-value, place, hit) for place, (own, value, hit) in enumerate(rows) if own == group)
        ideal.append(sum(hit for *_, hit in ranked) + missed[group])
        gain = sum(hit / math.log2(rank + 2) for rank, (*_, hit) in enumerate(ranked[:k]))
        expected.append(gain / sum(1 / math.log2(rank + 2) for rank in range(min(k, ideal[-1]))) if gain else 0.0)
    query, values, hits = (torch.tensor([row[i] for row in rows], dtype=torch.int64) for i in range(3))
    found = list_ndcg(values.float(), hits, query, n_groups, k, torch.tensor(ideal))
    assert found.tolist() == pytest.approx(expected)


def test_families_follow_the_longest_prefix() -> None:
    number, ids = torch.zeros(2), torch.zeros(2, dtype=torch.int64)
    names = ("pair_count", "pair_gap", "item_age", "item_type_count", "item_type_due", "item_trend", "other", "rank_a")
    features = dict.fromkeys(names, number) | {"item_id": ids, "item_words": ids[:, None]}
    assert families(features, ("item_type",)) == {
        "pair": ("pair_count", "pair_gap"),
        "item": ("item_age", "item_trend"),
        "item_type": ("item_type_count", "item_type_due"),
        "ids": ("item_id", "item_words"),
    }
    assert families(features)["item"] == ("item_age", "item_type_count", "item_type_due", "item_trend")


@pytest.fixture
def problem() -> dict[str, Tensor]:
    """60 groups of 30 pairs; the label follows the sum of two equal copies of a number, and a category's weight."""
    chance = torch.Generator().manual_seed(0)
    n = 60 * 30
    count, brand = torch.randn(n, generator=chance), torch.randint(0, 5, (n,), generator=chance)
    features = {
        "pair_count": count,
        "pair_copy": count.clone(),
        "item_noise": torch.randn(n, generator=chance),
        "brand": brand,
        "words": torch.randint(0, 9, (n, 3), generator=chance),
    }
    query = torch.arange(60).repeat_interleave(30)
    labels = (score(features) > 3).float()
    return features | {"query": query, "labels": labels}


def score(features: dict[str, Tensor]) -> Tensor:
    return features["pair_count"] + features["pair_copy"] + 0.3 * features["brand"] + 0 * features["item_noise"]


def parts(problem: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    features = dict(problem)
    query, labels = features.pop("query"), features.pop("labels")
    return features, labels, query


def test_what_matters_is_found_and_what_does_not_loses_nothing(problem: dict[str, Tensor]) -> None:
    features, labels, query = parts(problem)
    before = {name: values.clone() for name, values in features.items()}
    rows = {row.name: row for row in permutation_importance(score, features, labels, query, k=5)}
    assert next(iter(rows)) == "pair (2)"
    assert rows["pair (2)"].features == ("pair_count", "pair_copy")
    one, other = rows["pair_count"], rows["pair_copy"]
    assert one.loss == other.loss  # the same shuffles for all
    assert rows["pair (2)"].loss > 1.5 * one.loss > 3 * rows["brand"].loss > 0
    assert (rows["item_noise"].loss, rows["words"].loss, rows["words"].spread) == (0, 0, 0)
    assert rows["ids (2)"].loss == rows["brand"].loss
    assert one.spread > 0
    assert all(torch.equal(values, before[name]) for name, values in features.items())


def test_loss_is_that_of_shuffling_by_hand(problem: dict[str, Tensor]) -> None:
    """Whatever the order: the one that the ranker was given is used to compute the loss once more with NumPy."""
    features, labels, query = parts(problem)
    seen: list[Tensor] = []

    def noted(given: dict[str, Tensor]) -> Tensor:
        seen.append(score(given))
        return seen[-1]

    (row,) = permutation_importance(
        noted, {"pair_count": features["pair_count"]} | features, labels, query, groups={}, k=5, repeats=2
    )[:1]
    ideal = np.bincount(query, weights=labels)

    def ndcg(scores: Tensor) -> float:
        values = []
        for group in np.flatnonzero(ideal):
            own = (query == int(group)).numpy()
            top = labels.numpy()[own][np.argsort(-scores.numpy()[own], kind="stable")[:5]]
            discount = 1 / np.log2(np.arange(5) + 2)
            values.append((top * discount).sum() / discount[: min(int(ideal[group]), 5)].sum())
        return float(np.mean(values))

    kept = torch.isin(query, torch.from_numpy(np.flatnonzero(ideal)))
    query, labels = query[kept], labels[kept]
    assert len(seen) == 1 + 2 * len(features)
    place = 1 + 2 * list(features).index(row.name)
    losses = [ndcg(seen[0]) - ndcg(seen[place + repeat]) for repeat in range(2)]
    assert (row.loss, row.spread) == pytest.approx((np.mean(losses), np.std(losses, ddof=1)))


def test_drawn_groups_are_whole_relevant_and_the_same_for_a_seed(problem: dict[str, Tensor]) -> None:
    features, labels, query = parts(problem)
    asked: list[dict[str, Tensor]] = []

    def noted(given: dict[str, Tensor]) -> Tensor:
        asked.append(given)
        return score(given)

    def found(seed: int) -> list[Importance]:
        return permutation_importance(
            noted, features | {"at": torch.arange(len(query))}, labels, query, k=20, repeats=2, most_groups=7, seed=seed
        )

    first = found(1)
    at = asked[0]["at"]
    assert len(at) == 7 * 30
    drawn = query[at].unique()
    assert len(drawn) == 7
    assert all(labels[query == group].any() for group in drawn)
    assert all(sorted(given["at"].tolist()) == at.tolist() for given in asked)
    assert found(1) == first != found(2)


def test_nothing_relevant_and_nan_are_refused(problem: dict[str, Tensor]) -> None:
    features, labels, query = parts(problem)
    with pytest.raises(RecsysError, match="no pair is relevant"):
        permutation_importance(score, features, labels * 0, query, k=20)
    with pytest.raises(RecsysError, match="NaN scores"):
        permutation_importance(lambda given: score(given) * torch.nan, features, labels, query, k=20)


ROWS = [
    Importance("pair (2)", ("pair_count", "pair_gap"), 0.25, 0.01),
    Importance("brand", ("brand",), 0.125, math.nan),
    Importance("item_age", ("item_age",), -0.001, 0.002),
]


def test_saved_files_are_complete_and_leave_nothing_behind(tmp_path: Path) -> None:
    paths = save(ROWS, tmp_path / "report", 20)
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == sorted(path.name for path in paths)
    plain = json.loads((tmp_path / "report" / "importance.json").read_text())
    assert plain[0] == {"name": "pair (2)", "features": ["pair_count", "pair_gap"], "loss": 0.25, "spread": 0.01}
    assert [row["spread"] for row in plain] == [0.01, None, 0.002]
    with (tmp_path / "report" / "importance.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [(row["name"], row["features"], row["loss"]) for row in table] == [
        ("pair (2)", "2", "0.25"),
        ("brand", "1", "0.125"),
        ("item_age", "1", "-0.001"),
    ]
    assert table[1]["spread"] == ""
    assert (tmp_path / "report" / "importance.png").read_bytes().startswith(b"\x89PNG")


def test_table_and_bars_show_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    drawn: list[tuple[list[int], list[float]]] = []
    barh = Axes.barh

    def noted(self: Axes, y: object, width: object, **kwargs: object) -> object:
        drawn.append((list(y), list(width)))
        return barh(self, y, width, **kwargs)

    monkeypatch.setattr(Axes, "barh", noted)
    assert b"<svg" in draw(ROWS, 20, "svg")
    assert drawn == [([0, 1, 2], [0.25, 0.125, -0.001])]
    console = Console(width=60)
    with console.capture() as capture:
        console.print(importance_table(ROWS, k=10))
    text = capture.get()
    assert "NDCG@10" in text
    for cells in (("pair (2)", "+0.2500", "0.0100"), ("brand", "+0.1250", "-"), ("item_age", "-0.0010", "0.0020")):
        assert any(all(cell in line for cell in cells) for line in text.splitlines())
