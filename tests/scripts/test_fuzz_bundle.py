"""Random requests find no difference between the forms of a bundle, and find one that was put there."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recsys.bundle.format import Manifest
from recsys.bundle.reader import Bundle
from recsys.export.parity import serving_copy
from tests.bundle.shop import exported, shop

__all__ = ["exported", "shop"]


@pytest.fixture
def script(repo: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as Python finds it when it is run."""
    monkeypatch.syspath_prepend(repo / "scripts")
    return import_module("fuzz_bundle")


@pytest.fixture(scope="module")
def ranked(trained_onnx: Path) -> Bundle:
    return Bundle.load(trained_onnx)


@pytest.fixture(scope="module")
def forms_of_ranked(repo: Path, ranked: Bundle) -> Any:
    """Loading them takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(repo / "scripts")
        return import_module("fuzz_bundle").forms(ranked.folder)


def test_all_forms_of_a_bundle_agree(script: Any, trained_onnx: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main([f"bundle={trained_onnx}", "inputs=300", "batch=64", "seed=3"]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = [words for words in shown if words and words[0] in ("user", "item", "ranker")]
    every = [[model, form] for model in ("user", "item", "ranker") for form in ("torch.export", "onnx")]
    assert [words[:2] for words in rows] == every
    for model, _, inputs, _, *off in rows:
        assert inputs == ("1,200" if model == "ranker" else "300")
        assert off[:3] == ["0", "0", "0"]


def test_the_eager_towers_agree_too(script: Any, exported: tuple[Path, Manifest], shop: Any) -> None:
    """A bundle has no eager model; where it is made there is one."""
    bundle = Bundle.load(exported[0])
    eager = {"user": serving_copy(shop.user_tower), "item": serving_copy(shop.item_tower)}
    models = {side: {"eager": eager[side], **forms} for side, forms in script.forms(exported[0]).items()}
    counts = script.fuzz(bundle, models, script.Settings(inputs=400, batch=100))
    assert {form for _, form in counts} >= {"torchscript", "torch.export"}
    for count in counts.values():
        assert (count.inputs, count.off) == (400, 0)
        assert count.difference < 1e-5


def nudged(tensor: Tensor) -> Tensor:
    return tensor * (1 + 1e-3)


def one_row(tensor: Tensor) -> Tensor:
    out = tensor.clone()
    out[-1] = out[-1].flip(0)
    return out


def no_numbers(tensor: Tensor) -> Tensor:
    out = tensor.clone()
    out[0, 0] = float("nan")
    return out


@pytest.mark.parametrize("model", ["user", "item", "ranker"])
@pytest.mark.parametrize("change", [nudged, one_row, no_numbers])
def test_a_form_that_was_changed_is_caught(
    script: Any, ranked: Bundle, forms_of_ranked: Any, model: str, change: Callable[[Tensor], Tensor]
) -> None:
    forms = {side: {name: by[name] for name in ("torchscript", "torch.export")} for side, by in forms_of_ranked.items()}
    right = forms[model]["torch.export"]
    forms[model]["torch.export"] = lambda inputs: change(right(inputs))
    counts = script.fuzz(ranked, forms, script.Settings(inputs=70, batch=50))
    assert counts[model, "torch.export"].numbers >= 3  # at least one in each batch
    assert sum(count.off for (side, _), count in counts.items() if side != model) == 0
    if change is one_row and model != "item":
        assert counts[model, "torch.export"].ids + counts[model, "torch.export"].order > 0


def test_what_is_counted_by_hand(script: Any) -> None:
    """Scores 4, 3, 2, 1 of four items; the form changes places, or values within and beyond what is allowed."""
    items = torch.eye(4)
    expected = torch.tensor([[4.0, 3.0, 2.0, 1.0]] * 3)
    found = torch.tensor([[4.0, 3.0, 2.0, 1.0], [3.0, 4.0, 2.0, 1.0], [4.0, 3.0 + 2e-5, 2.0, 1.0]])
    count = script.Count()
    script.add(count, "user", expected, found, items, 1e-5)
    assert (count.inputs, count.rankings, count.numbers, count.ids, count.order) == (3, 3, 1, 0, 1)
    assert count.swaps == 1
    assert count.difference == pytest.approx(0.25)
    script.TOP_K = 2
    script.add(count, "user", expected[:1], torch.tensor([[4.0, 1.0, 2.0, 3.0]]), items, 1e-5)
    script.TOP_K = 20
    assert count.ids == 1


def test_batches_are_as_many_as_asked_for(script: Any) -> None:
    assert script.batches(script.Settings(inputs=1000, batch=96)) == [(12, True), *[(96, False)] * 7, (12, True),
                                                                      *[(96, False)] * 3, (16, False)]  # fmt: skip
    assert script.batches(script.Settings(inputs=3, batch=5)) == [(1, True), (2, False)]


def test_requests_are_of_every_kind(script: Any, ranked: Bundle) -> None:
    source = import_module("fuzz_requests").Source(ranked, 0)
    asked = [source.requests(200, long=number % 2 == 0) for number in range(10)]
    users = [user for one in asked for user in one.users]
    known = set(ranked.user_ids)
    assert None in users
    assert any(user in known for user in users)
    assert any(user is not None and user not in known for user in users)
    histories = [history for one in asked for history in one.histories]
    assert None in histories
    assert any(history == [] for history in histories)
    assert max(len(history or ()) for history in histories) == 2000
    assert not any(user in known for user in asked[1].users)
    timed = [history for history in histories if history and isinstance(history[0], tuple)]
    assert all(history == sorted(history, key=lambda event: event[1]) for history in timed)
    items = [event for history in histories if history and not isinstance(history[0], tuple) for event in history]
    assert any(item not in set(ranked.item_ids) for item in items)
    assert any(len(set(history)) < len(history) for history in timed)


@pytest.mark.parametrize(
    ("argument", "message"),
    [("inputs=0", "whole number"), ("input=5", "Did you mean 'inputs'"), ("bundle=nowhere", "no such folder"),
     ("seed=1", "bundle=FOLDER is missing")],
)  # fmt: skip
def test_arguments(script: Any, argument: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main([argument]) == 2
    assert message in capsys.readouterr().err
