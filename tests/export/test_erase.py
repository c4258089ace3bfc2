"""People leave a bundle: nothing of them stays, and everybody else is answered as before."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from recsys.bundle.format import Manifest, read_manifest
from recsys.bundle.parts import read_tower
from recsys.bundle.reader import Bundle
from recsys.data.encode import Encoder
from recsys.errors import BundleError
from recsys.export import erase as module
from recsys.export.erase import erase_from_bundle, finish, knows, prove_gone
from recsys.export.prove import refuse_unproven
from recsys.features import Feature, FeatureSpec

GONE = {"u17", "u3", "nobody"}


@pytest.fixture(scope="module")
def before(trained: Any) -> Bundle:
    return Bundle.load(trained.bundle)


@pytest.fixture(scope="module")
def erased(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(trained.bundle, tmp_path_factory.mktemp("erased") / "bundle"))
    assert knows(folder, GONE)
    assert erase_from_bundle(folder, GONE) == 2
    return folder


@pytest.mark.slow
def test_everybody_else_is_answered_as_before(before: Bundle, erased: Path) -> None:
    after = Bundle.load(erased)
    rest = [user for user in before.user_ids.to_list() if user not in GONE]
    assert after.user_ids.to_list() == rest
    assert after.check_sample() == before.check_sample()
    assert after.recommend(rest, 10).equals(before.recommend(rest, 10))
    assert after.rank(rest).equals(before.rank(rest))
    some = [[before.item_ids[0], before.item_ids[5]]] * len(rest)
    assert torch.equal(after.embed_users(rest, some), before.embed_users(rest, some))
    for name in ("metrics", "windows", "data_fingerprint", "index", "signatures"):
        assert getattr(after.manifest, name) == getattr(before.manifest, name)
    assert after.manifest.n_users == before.manifest.n_users - 2
    assert after.manifest.fingerprint != before.manifest.fingerprint


def test_who_left_is_a_stranger(before: Bundle, erased: Path) -> None:
    after = Bundle.load(erased)
    for user in ("u17", "u3"):
        answer = after.recommend([user], 10).drop("user_id")
        assert answer.equals(after.recommend([None], 10).drop("user_id"))
        assert not answer.equals(before.recommend([user], 10).drop("user_id"))
    assert prove_gone(erased, GONE) == 3
    with pytest.raises(BundleError, match="still knows"):
        prove_gone(erased, {"u4"})


def test_nothing_of_them_stays(before: Bundle, erased: Path) -> None:
    assert not knows(erased, GONE)
    users, vectors = (pl.read_parquet(erased / f"{name}.parquet") for name in ("users", "user_embeddings"))
    assert users["user_id"].to_list() == vectors["id"].to_list()
    assert not GONE & set(users["user_id"])
    events = pl.read_parquet(erased / "histories.parquet")
    old = pl.read_parquet(before.folder / "histories.parquet").with_columns(
        before.user_ids.gather(pl.read_parquet(before.folder / "histories.parquet")["user_row"]).alias("user_id")
    )
    kept = events.with_columns(users["user_id"].gather(events["user_row"]).alias("user_id")).drop("user_row")
    assert kept.equals(old.filter(~pl.col("user_id").is_in(sorted(GONE))).drop("user_row"))
    sample = json.loads((erased / "sample.json").read_text())
    assert not GONE & {request["user_id"] for request in sample["requests"]}
    assert "58 known users" in (erased / "model_card.md").read_text()


def test_their_own_weights_are_zero_and_the_others_stay(before: Bundle, erased: Path) -> None:
    words = pl.read_parquet(before.folder / "vocabularies" / "user_id.parquet")["value"].to_list()
    left = [2 + words.index(user) for user in ("u17", "u3")]
    now = pl.read_parquet(erased / "vocabularies" / "user_id.parquet")["value"].to_list()
    assert now == [None if word in GONE else word for word in words]
    for part, names in (
        ("user_tower.pt", ("id_embedding.table.weight",)),
        ("ranker.pt", ("ranker.deep.embeddings.2.table.weight", "ranker.wide.table.weight")),
    ):
        old, new = (dict(read_tower(f / part).named_parameters()) for f in (before.folder, erased))
        program = torch.export.load(erased / part.replace(".pt", ".pt2"))
        inputs = torch.utils._pytree.tree_leaves(program.example_inputs)
        assert not any(bool(tensor.any()) for tensor in inputs)  # histories of real users were there
        for name, weight in old.items():
            start = 0
            if name == "ranker.wide.table.weight":
                wide = read_tower(before.folder / part).ranker.wide
                start = wide.offsets[wide.names.index("user_id")] - 2
            expected = weight.detach().clone()
            if name in names:
                rows = [start + row for row in left]
                assert expected[rows].any() or "wide" in name
                expected[rows] = 0.0
            assert torch.equal(new[name], expected), name
            assert torch.equal(program.state_dict[name], expected), name


@pytest.mark.slow
def test_nothing_of_them_stays_in_onnx_models(trained_onnx: Path, tmp_path: Path) -> None:
    """They are made again from the changed programs, and go where that cannot be done."""
    import onnx

    folder = Path(shutil.copytree(trained_onnx, tmp_path / "bundle"))
    words = pl.read_parquet(folder / "vocabularies" / "user_id.parquet")["value"].to_list()
    left = [2 + words.index(user) for user in ("u17", "u3")]

    def table() -> np.ndarray[Any, Any]:
        weights = onnx.load(folder / "user_tower.onnx").graph.initializer
        found = [onnx.numpy_helper.to_array(w) for w in weights if w.name.endswith("id_embedding.table.weight")]
        (own,) = [weight for weight in found if len(weight) == 2 + len(words)]
        return own

    before, items = table(), (folder / "item_tower.onnx").read_bytes()
    assert before[left].any(axis=1).all()
    with (folder / "sample.safetensors").open("rb") as file:
        old = file.read()
    assert erase_from_bundle(folder, GONE) == 2
    after = table()
    assert not after[left].any()
    rest = np.delete(np.arange(len(before)), left)
    np.testing.assert_array_equal(after[rest], before[rest])
    assert (folder / "item_tower.onnx").read_bytes() == items
    assert (folder / "sample.safetensors").read_bytes() != old
    Bundle.load(folder).check_sample()


def test_without_the_libraries_onnx_models_go(
    exported: tuple[Path, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the certificate says so."""
    folder = Path(shutil.copytree(exported[0], tmp_path / "bundle"))
    if not (folder / "user_tower.onnx").is_file():
        pytest.skip("the libraries of the extra onnx are not installed")
    monkeypatch.setattr(module, "missing_libraries", lambda: "onnxruntime")
    monkeypatch.setattr(module, "_rows", lambda *_: iter(()))  # the shop's tower is not one of ours
    assert erase_from_bundle(folder, {str(Bundle.load(folder).user_ids[0])}) == 1
    parity = json.loads((folder / "parity.json").read_text())
    assert not (folder / "user_tower.onnx").exists()
    assert (folder / "item_tower.onnx").is_file()
    assert "people were erased" in parity["absent"]["user_tower.onnx"]
    assert "people were erased" in (folder / "parity.html").read_text()
    assert ("user", "onnx") not in {(case["tower"], case["form"]) for case in parity["cases"]}
    assert ("item", "onnx") in {(case["tower"], case["form"]) for case in parity["cases"]}
    refuse_unproven(folder, read_manifest(folder))


def test_values_that_only_they_had_go_too() -> None:
    sides = {"user_id": "user", "town": "user", "tags": "user", "item_id": "item"}
    spec = FeatureSpec(tuple(Feature(n, side, "multi_id" if n == "tags" else "id") for n, side in sides.items()))
    users = pl.DataFrame({"user_id": [1, 2, 3], "town": ["b", "a", "b"], "tags": ["x y", "y z", None]})
    items = pl.DataFrame({"item_id": [7]})
    events = pl.DataFrame({"user_id": [1, 2, 3], "item_id": [7, 7, 7]})
    encoder = Encoder.fit(spec, events, items, users)
    rest = users.filter(pl.col("user_id") != 2)
    forgetful, lost = encoder.forget(users, rest)
    assert lost == {"user_id": [3], "town": [2], "tags": [4]}
    for name, was in encoder.encode(rest, "user").items():
        assert torch.equal(forgetful.encode(rest, "user")[name], was)
    gone = forgetful.encode(users.filter(pl.col("user_id") == 2), "user")
    assert [gone["user_id"].tolist(), gone["town"].tolist(), gone["tags"].tolist()[0][:2]] == [[1], [1], [3, 1]]
    nobody = users.clear(n=1)
    assert forgetful.encode(nobody, "user")["town"].tolist() == [0]  # a null is no forgotten value


def test_again_changes_nothing(erased: Path) -> None:
    files = {path: path.stat().st_mtime_ns for path in erased.rglob("*")}
    assert erase_from_bundle(erased, GONE) == 0
    assert {path: path.stat().st_mtime_ns for path in erased.rglob("*")} == files


def test_no_raw_bytes_of_their_weights(before: Bundle, erased: Path) -> None:
    """Their vectors, too, are gone from every archive."""
    vectors = before.user_vectors[[before.user_ids.to_list().index(user) for user in ("u17", "u3")]].numpy()
    table = dict(read_tower(before.folder / "user_tower.pt").named_parameters())["id_embedding.table.weight"]
    words = pl.read_parquet(before.folder / "vocabularies" / "user_id.parquet")["value"].to_list()
    rows = table.detach().numpy()[[2 + words.index(user) for user in ("u17", "u3")]]
    content = b"".join(member for path in erased.rglob("*.pt*") for member in members(path))
    old = b"".join(member for path in before.folder.rglob("*.pt*") for member in members(path))
    for row in rows:
        assert row.astype(np.float32).tobytes() in old
        assert row.astype(np.float32).tobytes() not in content
    stored = pl.read_parquet(erased / "user_embeddings.parquet")["vector"].to_numpy()
    assert not any((stored == vector).all(1).any() for vector in vectors)


def members(path: Path) -> list[bytes]:
    with zipfile.ZipFile(path) as archive:
        return [archive.read(name) for name in archive.namelist()]


@pytest.mark.parametrize("step", ["write_sample", "prove_programs", "describe"])
def test_a_stop_leaves_the_bundle_as_it_was(trained_script: Path, tmp_path: Path, monkeypatch, step: str) -> None:
    folder = Path(shutil.copytree(trained_script, tmp_path / "bundle"))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, step, stop)
    with pytest.raises(KeyboardInterrupt):
        erase_from_bundle(folder, GONE)
    read_manifest(folder).verify(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_what_a_kill_leaves_is_put_right(exported: tuple[Path, Manifest], tmp_path: Path) -> None:
    """Killed between the two renames: the old folder has moved aside, the new one is not there yet."""
    folder = Path(shutil.copytree(exported[0], tmp_path / "bundle"))
    shutil.copytree(folder, tmp_path / ".bundle.abc")
    (tmp_path / ".bundle.old.xyz").mkdir()
    folder.replace(tmp_path / ".bundle.old.xyz" / "bundle")
    finish(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    Bundle.load(folder)


def test_who_is_written_like_somebody_else_is_nobody(exported: tuple[Path, Manifest]) -> None:
    assert 103 in Bundle.load(exported[0]).user_ids
    assert prove_gone(exported[0], {"0103", "103.0", "--103", "1e2", "\uff19", "-0"}) == 0
    with pytest.raises(BundleError, match="still knows"):
        prove_gone(exported[0], {"103"})


def test_what_cannot_be_erased_says_so(exported: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported[0], tmp_path / "bundle"))
    with pytest.raises(BundleError, match="no table of users that is known"):
        erase_from_bundle(folder, {"103"})
    with pytest.raises(BundleError, match="delete the bundle"):
        erase_from_bundle(folder, {str(user) for user in range(100, 140)})
    assert erase_from_bundle(folder, {"99"}) == 0
    assert Bundle.load(folder).manifest == exported[1]
