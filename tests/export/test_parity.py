"""The exported towers give the eager towers' values, and an export that does not is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Dict

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from recsys.bundle.format import Manifest
from recsys.bundle.reader import Bundle
from recsys.config.schema import MODEL_FORMS
from recsys.errors import BundleError
from recsys.export.bundle import export_bundle
from recsys.export.onnx_form import missing_libraries
from recsys.export.parity import OTHER_KERNELS, certificate, compare, overlap, serving_copy
from recsys.export.parity_cases import user_cases
from recsys.export.parity_page import render
from recsys.export.prove import FORMS, across, left_out, scores_of

USER_CASES = {
    "one", "two", "odd", "large", "longest history", "missing user", "unseen user and item", "empty history",
    "missing", "unseen ids",
}  # fmt: skip
ITEM_CASES = {"one", "two", "odd", "large", "missing", "unseen item"}


def test_certificate_covers_every_case_of_both_towers_in_every_form(exported: tuple[Path, Manifest]) -> None:
    parity = json.loads((exported[0] / "parity.json").read_text())
    cases = {(c["tower"], c["form"], c["case"]): c for c in parity["cases"]}
    forms = {"torchscript", "torch.export"} | (set() if missing_libraries() else {"onnx"})
    on_cpu = {key for key in cases if "cuda" not in key[1]}
    assert on_cpu == {("user", form, case) for form in forms for case in USER_CASES} | {
        ("item", form, case) for form in forms for case in ITEM_CASES
    }
    assert all(c["passed"] and c["scale"] > 0 and c["overlap"] == 1.0 for c in cases.values())
    assert all(c["tolerance"] == parity["forms"][c["form"]]["limit"] for c in cases.values())
    assert all(len(form["reason"]) > 50 for form in parity["forms"].values())
    assert cases["user", "torchscript", "large"]["rows"] == 512
    assert cases["user", "torchscript", "two"]["rows"] == 2
    assert set(parity["absent"]) == (set() if torch.cuda.is_available() else {"cuda"}) | (
        {"user_tower.onnx", "item_tower.onnx"} if missing_libraries() else set()
    )


def test_the_configuration_names_the_forms() -> None:
    assert tuple(FORMS.values()) == MODEL_FORMS


def test_a_bundle_of_scripts_alone_says_so(shop, tmp_path: Path) -> None:
    export_bundle(tmp_path / "bundle", **shop.arguments(index="flat", forms="torchscript"))
    parity = json.loads((tmp_path / "bundle" / "parity.json").read_text())
    assert {case["form"] for case in parity["cases"]} == {"torchscript"}
    absent = {f"{side}_tower.{suffix}" for side in ("user", "item") for suffix in ("pt2", "onnx")}
    assert {parity["absent"][name] for name in absent} == {"bundle.forms is torchscript"}
    assert not [path for path in (tmp_path / "bundle").iterdir() if path.suffix in (".pt2", ".onnx")]
    assert Bundle.load(tmp_path / "bundle").check_sample() == 27


def test_without_the_libraries_it_says_so(shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.export.prove.missing_libraries", lambda: "onnxscript, onnxruntime")
    for forms, why in (("onnx", "not installed: onnxscript, onnxruntime"), ("torch.export", "bundle.forms is torch.e")):
        export_bundle(tmp_path / "bundle", **shop.arguments(index="flat", forms=forms))
        parity = json.loads((tmp_path / "bundle" / "parity.json").read_text())
        assert parity["absent"]["user_tower.onnx"].startswith(why)
        assert not list((tmp_path / "bundle").glob("*.onnx"))
        assert {case["form"] for case in parity["cases"]} == {"torchscript", "torch.export"}
        assert why in (tmp_path / "bundle" / "parity.html").read_text()
        reason = parity["absent"]["user_tower.onnx"]
        asked_for = {reason: ["user_tower.onnx", "item_tower.onnx"]} if forms == "onnx" else {}
        assert left_out(tmp_path / "bundle") == asked_for
    assert Bundle.load(tmp_path / "bundle").check_sample() == 27


def test_the_page_shows_every_case(exported: tuple[Path, Manifest]) -> None:
    folder, manifest = exported
    page, parity = (folder / "parity.html").read_text(), json.loads((folder / "parity.json").read_text())
    assert "parity.html" in manifest.parts
    assert page.count(">holds</span>") == len(parity["cases"])
    assert "tag none" not in page
    assert "src=" not in page  # self-contained
    for case in USER_CASES | ITEM_CASES:
        assert f"<td>{case}</td>" in page
    spoilt = parity | {"cases": [parity["cases"][0] | {"passed": False, "overlap": 0.5}]}
    assert "tag none" in render(spoilt, "<shop>")
    assert "50.00%" in render(spoilt, "<shop>")
    assert "&lt;shop&gt;" in render(spoilt, "<shop>")


def test_overlap_by_hand() -> None:
    expected = torch.tensor([[5.0, 4.0, 3.0, 2.0], [1.0, 2.0, 3.0, 4.0]])
    assert overlap(expected, expected, 1e-5, k=2) == 1.0
    worse = torch.tensor([[5.0, 0.0, 3.0, 2.0], [1.0, 2.0, 3.0, 4.0]])  # item 2 in the place of item 1
    assert overlap(expected, worse, 1e-5, k=2) == 0.75
    assert overlap(expected, worse, 1e-5, k=4) == 1.0
    assert overlap(expected, worse, 0.2, k=2) == 1.0  # 3 is as good as 4 where each may be off by 0.2 * 5
    assert overlap(expected, expected * torch.nan, 1e-5, k=9) == 1.0  # all of four; what is no number fails elsewhere
    assert overlap(torch.zeros(0, 3), torch.zeros(0, 3), 1e-5) == 1.0


def test_a_ranking_that_is_off_does_not_pass() -> None:
    """Numbers within the tolerance, but one of the best items changed: the scores hang on what cancels out."""

    class Eager(nn.Module):
        def forward(self, features: Dict[str, Tensor]) -> Tensor:
            return features["x"]

    inputs = {"one": {"x": torch.tensor([[1.0, 1.0]])}}
    items = torch.tensor([[1e3, -1e3], [-1e3, 1e3]]).repeat(11, 1)
    rows = compare("user", "torchscript", Eager(), lambda f: f["x"] + torch.tensor([[8e-6, 0.0]]), inputs,
                   lambda vectors: vectors @ items.T)  # fmt: skip
    assert rows[0].max_difference < 1e-5
    assert rows[0].overlap == 1.0  # of scores that are all 0, none is better than another
    with pytest.raises(BundleError, match=r"shares 50\.00% of what it ranks first"):
        certificate([replace(rows[0], overlap=0.5, passed=False)])


def test_archives_cross_over_between_devices(shop, bundle: Bundle, device: torch.device) -> None:
    """Compiled on a device, saved there and loaded on the CPU, and the reverse."""
    inputs = bundle._towers.inputs
    cases = user_cases(inputs, bundle._ids._cut)
    vectors = {"user": bundle.user_vectors, "item": bundle.item_vectors}
    rows = across("user", serving_copy(shop.user_tower), cases, device, scores_of("user", vectors))
    assert {row.form for row in rows} == {
        f"torchscript on {device}", f"torchscript from {device}", f"torchscript to {device}",
    }  # fmt: skip
    assert len(rows) == 3 * len(USER_CASES)
    assert all(row.passed and row.scale > 0 for row in rows)
    assert {row.tolerance for row in rows} == {OTHER_KERNELS.limit}


@pytest.mark.gpu
def test_the_certificate_speaks_of_cuda(shop, tmp_path: Path) -> None:
    export_bundle(tmp_path / "bundle", **shop.arguments(index="flat"))
    parity = json.loads((tmp_path / "bundle" / "parity.json").read_text())
    for side in ("user", "item"):
        for form in ("torchscript on cuda", "torchscript from cuda", "torchscript to cuda"):
            assert any((case["tower"], case["form"]) == (side, form) for case in parity["cases"])
    assert not any("cuda" in name for name in parity["absent"])


def test_stored_vectors_are_the_eager_towers_own(exported, bundle: Bundle, shop) -> None:
    """Through the files: what was written, what the scripted tower says now, and the eager tower agree by value."""
    table = bundle._towers.inputs.table
    features = {name: column[1:-1] for name, column in table.items()}
    asof = shop.arguments()["item_asof"]
    with torch.inference_mode():
        eager = shop.item_tower.eval()(features | asof)
    torch.testing.assert_close(bundle.item_vectors, eager, rtol=0, atol=1e-6)
    torch.testing.assert_close(bundle.embed_items(bundle.item_ids), eager, rtol=0, atol=1e-6)
    torch.testing.assert_close(bundle.embed_users(bundle.user_ids), bundle.user_vectors, rtol=0, atol=1e-6)
    written = pl.read_parquet(exported[0] / "item_embeddings.parquet")
    assert written.schema == {"id": pl.Int64, "vector": pl.Array(pl.Float32, 16)}
    np.testing.assert_array_equal(written["vector"].to_numpy(), bundle.item_vectors.numpy())


def test_one_at_a_time_is_the_same_as_all_at_once(bundle: Bundle) -> None:
    """Batch size and the padding that it brings change no value."""
    together = bundle.embed_users(bundle.user_ids)
    alone = torch.cat([bundle.embed_users([user]) for user in bundle.user_ids.to_list()])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


class Wrong(nn.Module):
    """Behaves differently once compiled."""

    def forward(self, features: Dict[str, Tensor]) -> Tensor:
        value = features["popularity"].unsqueeze(1).expand(-1, 16) + 1.0
        if torch.jit.is_scripting():
            value = value + 1e-3
        return value


def test_a_tower_that_changes_when_compiled_is_refused(shop, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"the item tower as torchscript differs .* was not written"):
        export_bundle(tmp_path / "bundle", **shop.arguments(item_tower=Wrong(), index="flat"))
    assert list(tmp_path.iterdir()) == []


def test_not_a_number_does_not_pass() -> None:
    class Nan(nn.Module):
        def forward(self, features: Dict[str, Tensor]) -> Tensor:
            return features["x"] / 0 * 0

    rows = compare("item", "torchscript", Nan(), Nan(), {"one": {"x": torch.ones(1, 2)}})
    assert not rows[0].passed


def test_serving_copy_leaves_the_trained_tower_alone(shop) -> None:
    tower = shop.user_tower.train()
    copied = serving_copy(tower)
    assert tower.training
    assert not copied.training
    assert all(p.requires_grad for p in tower.parameters())
    assert not any(p.requires_grad for p in copied.parameters())


@pytest.mark.gpu
def test_towers_on_cuda_are_read_on_the_cpu(shop_maker, exported: tuple[Path, Manifest], tmp_path: Path) -> None:
    shop = shop_maker(0)
    shop.user_tower.cuda()
    shop.item_tower.cuda()
    arguments = shop.arguments()
    arguments["item_asof"] = {name: column.cuda() for name, column in arguments["item_asof"].items()}
    export_bundle(tmp_path / "bundle", **arguments | {"eligible": arguments["eligible"].cuda()})
    on_gpu, on_cpu = Bundle.load(tmp_path / "bundle"), Bundle.load(exported[0])
    assert on_gpu.item_vectors.device.type == "cpu"
    torch.testing.assert_close(on_gpu.item_vectors, on_cpu.item_vectors, rtol=0, atol=1e-6)
    torch.testing.assert_close(on_gpu.embed_users(on_gpu.user_ids), on_cpu.user_vectors, rtol=0, atol=1e-6)
