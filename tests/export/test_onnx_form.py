"""A model as ONNX gives the numbers of the eager one, whatever it is asked, and says nothing of who made it."""

import json
import logging
from pathlib import Path
from typing import Any, Dict

import pytest
import torch
from torch import Tensor, nn

from recsys.export import onnx_form
from recsys.export.bundle import export_bundle
from recsys.export.onnx_form import export_onnx, load_onnx, missing_libraries
from recsys.export.parity import OTHER_KERNELS, compare, export_program, serving_copy
from recsys.models.calibration import CalibratedRanker, IsotonicScale, PlattScale
from tests.models import test_two_tower as towers
from tests.models import test_wide_deep as rankers

pytestmark = pytest.mark.skipif(bool(missing_libraries()), reason=f"not installed: {missing_libraries()}")


def exported(model: nn.Module, example: dict[str, Tensor], folder: Path) -> Any:
    program = export_program(model, example, folder / "model.pt2")
    assert program is not None
    return export_onnx(program, folder / "model.onnx")


def ages_at_the_edges() -> dict[str, Tensor]:
    """Events 2 ** n - 1 days ago: where buckets begin, and a logarithm may fall short of a whole number."""
    edges = towers.requests(9, 17)
    return edges | {"history/age": (2.0 ** torch.arange(17) - 1).expand(9, 17).contiguous()}


@pytest.mark.slow
def test_user_tower(tmp_path: Path) -> None:
    tower = serving_copy(towers.make().user_tower)
    odd = towers.requests(7, 5)
    compiled = exported(tower, odd, tmp_path)
    twice = odd | {"history/item_id": torch.tensor([[0, 7, 3, 7, 7]]).expand(7, 5).contiguous()}
    cases = {
        "one": towers.requests(1, 1),
        "large": towers.requests(700, 40),
        "the same item again": twice,
        "no history": odd | {"history/item_id": torch.zeros(7, 5, dtype=torch.int64)},
        "missing": towers.blank(odd, "user_id", "city", "income", "store", "clock", "history/price", "history/brand"),
        "ages at the edges": ages_at_the_edges(),
    }
    rows = compare("user", "onnx", tower, compiled, cases)
    assert [row.case for row in rows if not row.passed] == []
    assert {row.tolerance for row in rows} == {OTHER_KERNELS.limit}


def test_a_single_precision_logarithm_would_fall_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the translation given here the exporter's own one puts some of the ages at the edges elsewhere."""

    class Buckets(nn.Module):
        def forward(self, features: Dict[str, Tensor]) -> Tensor:
            return (features["age"] + 1.0).log2().floor()

    every = {"age": 2.0 ** torch.arange(2, 60).float() - 1}
    exact = exported(Buckets(), every, tmp_path)(every)
    assert torch.equal(exact, Buckets()(every))
    monkeypatch.setattr(onnx_form, "_translations", dict)
    assert not torch.equal(exported(Buckets(), every, tmp_path)(every), exact)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["all", "plain", "numbers"])
def test_ranker(variant: str, tmp_path: Path) -> None:
    inputs, changes, tasks = rankers.VARIANTS[variant]
    scale = IsotonicScale([-1.0, 0.0, 2.0], [0.1, 0.4, 0.7]) if variant == "all" else PlattScale(1.3, 0.2)
    ranker = serving_copy(CalibratedRanker(rankers.make(inputs, changes, tasks), scale))
    compiled = exported(ranker, rankers.pairs(7), tmp_path)
    rows = compare("ranker", "onnx", ranker, compiled, rankers.cases())
    assert [row.case for row in rows if not row.passed] == []


def test_names_and_bytes(tmp_path: Path, repo: Path) -> None:
    """Inputs are called as the features are, and nothing tells where the source code lay."""
    import onnx

    tower = serving_copy(towers.make().item_tower)
    inputs = towers.candidates(7)
    exported(tower, inputs, tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {entry.name for entry in model.graph.input} == set(inputs)
    assert [entry.name for entry in model.graph.output] == ["output"]
    content = (tmp_path / "model.onnx").read_bytes()
    assert str(repo).encode() not in content
    assert b"item_tower.py" not in content
    again = load_onnx(tmp_path / "model.onnx")(inputs)
    torch.testing.assert_close(again, tower(inputs), rtol=0, atol=1e-6)


def test_what_it_cannot_express_is_said_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Inverse(nn.Module):
        def forward(self, features: Dict[str, Tensor]) -> Tensor:
            return torch.linalg.eigvalsh(features["x"].unsqueeze(2) * features["x"].unsqueeze(1))

    with caplog.at_level(logging.WARNING):
        assert exported(Inverse(), {"x": torch.rand(3, 4)}, tmp_path) is None
    assert "no model.onnx in the bundle: ONNX cannot express it" in caplog.text
    assert not (tmp_path / "model.onnx").exists()


def test_a_model_that_is_off_is_left_out_of_the_bundle(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The other forms are there; the certificate says what was wrong."""

    def wrong(program: Any, path: Path) -> Any:
        path.write_bytes(b"x")
        right = program.module()
        return lambda inputs: right(inputs) * 1.001

    monkeypatch.setattr("recsys.export.prove.export_onnx", wrong)
    export_bundle(tmp_path / "bundle", **shop.arguments(index="flat", forms="onnx"))
    parity = json.loads((tmp_path / "bundle" / "parity.json").read_text())
    assert "the user tower as onnx differs" in parity["absent"]["user_tower.onnx"]
    assert "no user_tower.onnx in the bundle" in caplog.text
    assert not list((tmp_path / "bundle").glob("*.onnx"))
    assert all(case["passed"] and case["form"] != "onnx" for case in parity["cases"])
