"""Metrics are added to a sealed bundle, and a full disk costs one message, not the process or half a bundle."""

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys.bundle import format as part
from recsys.bundle.format import CARD, MANIFEST, Manifest, read_manifest
from recsys.bundle.index import ItemIndex
from recsys.bundle.reader import Bundle
from recsys.errors import BundleError
from recsys.export.bundle import export_bundle
from recsys.export.changes import write_metrics
from recsys.export.parity import export_program, save_script, script
from recsys.files import sha256

FULL = Path("/dev/full")
full_disk = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full to stand for a full disk")


@pytest.fixture
def copy(exported: tuple[Path, Manifest], tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(exported[0], tmp_path / "copy"))


def bytes_of(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): sha256(p) for p in folder.rglob("*") if p.is_file()}


def test_metrics_are_added_and_nothing_else_changes(copy: Path) -> None:
    before, old = bytes_of(copy), read_manifest(copy)
    manifest = write_metrics(copy, {"test/ndcg_at_20": 0.5, "test/new/recall_at_20": 0.125}, "shop")
    after = bytes_of(copy)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {MANIFEST, CARD}
    assert read_manifest(copy) == manifest
    manifest.verify(copy)
    assert manifest.metrics == {"test/ndcg_at_20": 0.5, "test/new/recall_at_20": 0.125}
    assert manifest.fingerprint != old.fingerprint
    same = set(vars(old)) - {"metrics", "parts", "fingerprint"}
    assert {key: getattr(manifest, key) for key in same} == {key: getattr(old, key) for key in same}
    card = (copy / CARD).read_text()
    assert card.startswith("# shop\n")
    assert "| test/new/recall_at_20 | 0.1250 |" in card
    assert "0.2500" not in card  # what it said before
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]
    Bundle.load(copy)


def test_a_spoilt_bundle_gets_no_metrics(copy: Path) -> None:
    with (copy / "item_embeddings.parquet").open("r+b") as file:
        file.write(b"x")
    before = bytes_of(copy)
    with pytest.raises(BundleError, match=r"item_embeddings\.parquet' was changed"):
        write_metrics(copy, {"test/ndcg_at_20": 0.5}, "shop")
    assert bytes_of(copy) == before
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


@full_disk
@pytest.mark.parametrize("name", ["CARD", "MANIFEST"])
def test_a_bundle_stays_whole_when_its_metrics_find_no_space(
    name: str, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bytes_of(copy)
    write_text = Path.write_text

    def full(path: Path, text: str, **keywords: Any) -> int:
        return write_text(FULL if path.name == getattr(part, name) else path, text, **keywords)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(BundleError, match="No space left on device"):
        write_metrics(copy, {"test/ndcg_at_20": 0.5}, "shop")
    assert bytes_of(copy) == before
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]
    Bundle.load(copy)


@full_disk
@pytest.mark.parametrize("name", ["USER_TOWER", "INDEX", "PARITY"])
def test_a_full_disk_leaves_no_bundle(name: str, shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, name, str(FULL))  # this part alone finds no space
    with pytest.raises(BundleError, match=r"cannot be written: No space left on device\. Nothing was left there"):
        export_bundle(tmp_path / "bundle", **shop.arguments(index="flat"))
    assert list(tmp_path.iterdir()) == []


@full_disk
def test_writers_in_c_raise_as_python_does(shop, exported: tuple[Path, Manifest]) -> None:
    """Left to open the file themselves, torch would end the process and faiss raise a RuntimeError."""
    tower = shop.item_tower.eval()
    table = Bundle.load(exported[0])._towers.inputs.table
    inputs = {key: column[1:8] for key, column in table.items()} | {"popularity": torch.ones(7), "age": torch.ones(7)}
    writers = (
        lambda: save_script(script(tower), FULL),
        lambda: export_program(tower, inputs, FULL),
        lambda: ItemIndex.load(exported[0] / part.INDEX, 1).save(FULL),
    )
    for write in writers:
        with pytest.raises(OSError, match="No space left on device") as caught:
            write()
        assert caught.value.errno == errno.ENOSPC


def test_the_written_program_is_the_one_that_was_compared(exported: tuple[Path, Manifest], shop) -> None:
    folder, _ = exported
    bundle, asof = Bundle.load(folder), shop.arguments()["item_asof"]
    features = {key: column[1:-1] for key, column in bundle._towers.inputs.table.items()} | asof
    with torch.inference_mode():
        vectors = torch.export.load(folder / "item_tower.pt2").module()(features)
    torch.testing.assert_close(vectors, bundle.item_vectors, rtol=0, atol=1e-6)
