"""A reader refuses whatever is not, byte for byte, the bundle that was written, and names the part."""

import ast
import json
import pickle
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from recsys.bundle.format import MANIFEST, REQUIRED, Manifest, read_manifest, written_beside
from recsys.bundle.reader import Bundle
from recsys.errors import BundleError
from recsys.export.bundle import export_bundle
from recsys.export.package import MODULES
from recsys.files import sha256


@pytest.fixture
def copy(exported: tuple[Path, Manifest], tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(exported[0], tmp_path / "copy"))


def all_parts(folder: Path) -> list[str]:
    return [*read_manifest(folder).parts, MANIFEST]


def write(folder: Path, manifest: Manifest) -> None:
    """Write a manifest whose own fingerprint is right, as a forger would."""
    sealed = replace(manifest, fingerprint=replace(manifest, fingerprint="").digest())
    (folder / MANIFEST).write_text(json.dumps(asdict(sealed)))


def test_manifest_lists_every_file(exported: tuple[Path, Manifest]) -> None:
    folder, manifest = exported
    on_disk = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {MANIFEST}
    assert set(manifest.parts) == on_disk
    assert set(REQUIRED) <= on_disk
    assert any(part.startswith("vocabularies/") for part in on_disk)
    assert read_manifest(folder) == manifest


def test_a_flipped_byte_in_any_part_is_refused_by_name(copy: Path) -> None:
    for part in all_parts(copy):
        path = copy / part
        whole = path.read_bytes()
        spoilt = bytearray(whole)
        spoilt[len(spoilt) // 2] ^= 1
        path.write_bytes(bytes(spoilt))
        with pytest.raises(BundleError, match=part.replace(".", r"\.")):
            Bundle.load(copy)
        path.write_bytes(whole)
    Bundle.load(copy)


def test_a_missing_or_truncated_part_is_refused_by_name(copy: Path) -> None:
    for part in all_parts(copy):
        path = copy / part
        whole = path.read_bytes()
        path.unlink()
        with pytest.raises(BundleError, match=f"'{part}' is missing"):
            Bundle.load(copy)
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(BundleError, match=part.replace(".", r"\.")):
            Bundle.load(copy)
        path.write_bytes(whole)


def test_a_part_that_the_manifest_forgot_is_refused(copy: Path) -> None:
    manifest = read_manifest(copy)
    write(copy, replace(manifest, parts={k: v for k, v in manifest.parts.items() if k != "item.index"}))
    with pytest.raises(BundleError, match=r"part 'item\.index' is missing"):
        Bundle.load(copy)


def test_halves_of_two_bundles_are_refused(copy: Path, shop_maker, tmp_path: Path) -> None:
    other = tmp_path / "other"
    export_bundle(other, **shop_maker(1, str).arguments(index="flat"))
    for part in ("user_tower.pt", "item_embeddings.parquet", "item.index", "vocabularies/item_id.parquet"):
        whole = (copy / part).read_bytes()
        shutil.copyfile(other / part, copy / part)
        with pytest.raises(BundleError, match=f"'{part}' was changed, cut short or taken from another bundle"):
            Bundle.load(copy)
        (copy / part).write_bytes(whole)


def test_unknown_format_version(copy: Path) -> None:
    content = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(content | {"format_version": 99}))
    with pytest.raises(BundleError, match="format version 99; this reader knows 3"):
        Bundle.load(copy)


@pytest.mark.parametrize("path", ["../outside.txt", "/etc/hostname", "vocabularies/../../outside.txt", "a\\..\\b"])
def test_a_path_outside_the_folder_is_not_opened(copy: Path, path: str) -> None:
    (copy.parent / "outside.txt").write_text("x")
    manifest = read_manifest(copy)
    write(copy, replace(manifest, parts=manifest.parts | {path: "0"}))
    with pytest.raises(BundleError, match="lies outside the folder"):
        Bundle.load(copy)


def test_a_link_out_of_the_folder_is_not_opened(copy: Path) -> None:
    shutil.move(copy / "item.index", copy.parent / "elsewhere.index")
    (copy / "item.index").symlink_to(copy.parent / "elsewhere.index")
    with pytest.raises(BundleError, match=r"'item\.index' lies outside the folder"):
        Bundle.load(copy)


def test_a_link_to_a_folder_is_not_looked_into(copy: Path) -> None:
    (copy.parent / "elsewhere").mkdir()
    (copy / "segments").symlink_to(copy.parent / "elsewhere")
    with pytest.raises(BundleError, match="'segments' is not a part of this bundle"):
        Bundle.load(copy)


def test_an_unlisted_file_is_refused_but_not_the_systems_own(copy: Path) -> None:
    (copy / ".DS_Store").write_text("x")
    Bundle.load(copy)
    (copy / "vocabularies" / "extra.parquet").write_text("x")
    with pytest.raises(BundleError, match=r"'vocabularies/extra\.parquet' is not a part"):
        Bundle.load(copy)


def test_no_folder_and_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        Bundle.load(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"part 'manifest\.json' is missing"):
        Bundle.load(tmp_path)


def test_an_interrupted_export_leaves_the_old_bundle(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "old").write_text("old")

    def interrupted() -> None:
        with written_beside(target) as beside:
            (beside / "new").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
    assert (target / "old").read_text() == "old"
    with written_beside(target) as beside:
        (beside / "new").write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
    assert [p.name for p in target.iterdir()] == ["new"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="cannot be written"), written_beside(tmp_path / "file" / "bundle"):
        pass


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.place,))


@pytest.mark.parametrize(
    "part", ["user_tower.pt", "item_embeddings.parquet", "item.index", "vocabularies/item_id.parquet"]
)
def test_a_pickle_in_place_of_a_part_is_not_opened_even_with_a_forged_manifest(copy: Path, part: str) -> None:
    """Who can write the manifest can replace a part, but nothing that a reader opens is unpickled."""
    sprung = copy.parent / "sprung"
    (copy / part).write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(BundleError, match=part.replace(".", r"\.")):
        Bundle.load(copy)
    manifest = read_manifest(copy)
    write(copy, replace(manifest, parts=manifest.parts | {part: sha256(copy / part)}))
    with pytest.raises((BundleError, pl.exceptions.PolarsError)):
        Bundle.load(copy)
    torch.save(Trap(sprung), copy / part)
    write(copy, replace(manifest, parts=manifest.parts | {part: sha256(copy / part)}))
    with pytest.raises((BundleError, pl.exceptions.PolarsError)):
        Bundle.load(copy)
    assert not sprung.exists()


def test_the_reader_calls_nothing_that_executes(repo: Path) -> None:
    """No pickle, no torch.load, no NumPy files of objects, no eval in the code that travels with a model."""
    for module in MODULES:
        tree = ast.parse((repo / "recsys" / module).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", "") or ""}
                assert not names & {"pickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"}, module
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"eval", "exec", "torch.load", "np.load", "pl.DataFrame.deserialize"}, module
