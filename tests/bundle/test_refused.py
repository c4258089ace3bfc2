"""Ten ways in which a bundle is not what it was, each refused with a message that names the part."""

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recsys.bundle.format import MANIFEST, Manifest, read_manifest
from recsys.bundle.reader import Bundle
from recsys.errors import BundleError
from recsys.export.bundle import export_bundle
from recsys.files import sha256


@pytest.fixture(scope="module")
def other(shop_maker: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same shop with other events: other weights for the same ids."""
    folder = tmp_path_factory.mktemp("other") / "bundle"
    export_bundle(folder, **shop_maker(1).arguments())
    return folder


@pytest.fixture
def copy(exported: tuple[Path, Manifest], tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(exported[0], tmp_path / "copy"))


def flipped(folder: Path, other: Path) -> None:
    """One bit, deep inside the weights."""
    path = folder / "user_tower.pt"
    content = bytearray(path.read_bytes())
    content[2 * len(content) // 3] ^= 1
    path.write_bytes(bytes(content))


def swapped_index(folder: Path, other: Path) -> None:
    shutil.copyfile(other / "item.index", folder / "item.index")


def older_vocabulary(folder: Path, other: Path) -> None:
    """Of a fit that did not know the last item yet, so that its id is another's."""
    path = folder / "vocabularies" / "item_id.parquet"
    pl.read_parquet(path)[:-1].write_parquet(path)


def truncated(folder: Path, other: Path) -> None:
    path = folder / "item_embeddings.parquet"
    path.write_bytes(path.read_bytes()[:-1])


def mixed_halves(folder: Path, other: Path) -> None:
    """Everything of the users from one bundle, everything of the items from another."""
    for name in ("item_tower.pt", "item_embeddings.parquet", "catalogue.parquet", "item.index"):
        shutil.copyfile(other / name, folder / name)


def traversal(folder: Path, other: Path) -> None:
    """A manifest that was forged well, but for what it wants to be opened."""
    (folder.parent / "secret.parquet").write_bytes(b"x")
    forge(folder, {"../secret.parquet": sha256(folder.parent / "secret.parquet")})


def pickled(folder: Path, other: Path) -> None:
    """A pickle that would leave a file behind, in place of a tower, with a manifest that lists it."""
    (folder / "item_tower.pt").write_bytes(pickle.dumps(Trap(folder.parent / "sprung")))
    forge(folder, {"item_tower.pt": sha256(folder / "item_tower.pt")})


def unknown_version(folder: Path, other: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(content | {"format_version": 4}))


def missing(folder: Path, other: Path) -> None:
    (folder / "histories.parquet").unlink()


def unlisted(folder: Path, other: Path) -> None:
    (folder / "ranker.pt").write_bytes(b"x")


def changed_manifest(folder: Path, other: Path) -> None:
    """Better metrics than were measured."""
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(content | {"metrics": {"test/ndcg_at_20": 0.99}}))


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.place,))


def forge(folder: Path, parts: dict[str, str]) -> None:
    """Write a manifest with other hashes of parts whose own fingerprint is right."""
    manifest = read_manifest(folder)
    forged = replace(manifest, parts=manifest.parts | parts)
    (folder / MANIFEST).write_text(json.dumps(asdict(replace(forged, fingerprint=forged.digest()))))


CORRUPTIONS: list[tuple[Callable[[Path, Path], None], str]] = [
    (flipped,          r"part 'user_tower\.pt' was changed"),
    (swapped_index,    r"part 'item\.index' was changed, cut short or taken from another bundle"),
    (older_vocabulary, r"part 'vocabularies/item_id\.parquet' was changed, cut short or taken from another bundle"),
    (truncated,        r"part 'item_embeddings\.parquet' was changed, cut short"),
    (mixed_halves,     r"part 'catalogue\.parquet' was changed, cut short or taken from another bundle"),
    (traversal,        r"part '\.\./secret\.parquet' lies outside the folder"),
    (pickled,          r"part 'item_tower\.pt': torch cannot read it"),
    (unknown_version,  r"manifest\.json has format version 4; this reader knows 3"),
    (missing,          r"part 'histories\.parquet' is missing"),
    (unlisted,         r"'ranker\.pt' is not a part of this bundle"),
    (changed_manifest, r"manifest\.json was changed after it was written"),
]  # fmt: skip


@pytest.mark.parametrize(("corrupt", "message"), CORRUPTIONS, ids=[corrupt.__name__ for corrupt, _ in CORRUPTIONS])
def test_it_is_refused_by_name(
    corrupt: Callable[[Path, Path], None], message: str, copy: Path, other: Path, tmp_path: Path
) -> None:
    Bundle.load(copy)
    corrupt(copy, other)
    with pytest.raises(BundleError, match=message):
        Bundle.load(copy)
    assert not (tmp_path / "sprung").exists()
