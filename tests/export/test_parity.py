"""The exported towers give the eager towers' values, and an export that does not is refused."""

import json
from pathlib import Path
from typing import Dict

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from recsys.bundle.format import Manifest
from recsys.bundle.reader import Bundle
from recsys.errors import BundleError
from recsys.export.bundle import export_bundle
from recsys.export.parity import compare, serving_copy


def test_certificate_covers_every_case_of_both_towers_in_both_forms(exported: tuple[Path, Manifest]) -> None:
    parity = json.loads((exported[0] / "parity.json").read_text())
    cases = {(c["tower"], c["form"], c["case"]): c for c in parity["cases"]}
    for form in ("torchscript", "torch.export"):
        for case in ("one", "odd", "large", "longest history", "missing user", "unseen user and item", "empty history"):
            assert ("user", form, case) in cases
        for case in ("one", "odd", "large", "missing", "unseen item"):
            assert ("item", form, case) in cases
    assert all(c["passed"] and c["scale"] > 0 for c in cases.values())
    assert cases["user", "torchscript", "large"]["rows"] == 1024


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
