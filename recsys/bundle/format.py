"""The bundle on disk: one folder, one manifest, one fingerprint over every byte of every part."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

from recsys.errors import BundleError, did_you_mean
from recsys.files import sha256

FORMAT_VERSION = 3
"""Raised when a reader of the version before could no longer read the folder."""

MANIFEST = "manifest.json"
USER_TOWER = "user_tower.pt"
ITEM_TOWER = "item_tower.pt"
USER_EMBEDDINGS = "user_embeddings.parquet"
ITEM_EMBEDDINGS = "item_embeddings.parquet"
INDEX = "item.index"
CATALOGUE = "catalogue.parquet"
USERS = "users.parquet"
HISTORIES = "histories.parquet"
VOCABULARIES = "vocabularies"
SAMPLE = "sample.json"
PARITY = "parity.json"
PARITY_PAGE = "parity.html"
TENSORS = "sample.safetensors"
FORMAT_PAGE = "FORMAT.md"
PROFILE = "data_profile.json"
CARD = "model_card.md"
RANKER = "ranker.pt"
RANKING = "ranking"
TYPICAL = "typical.json"
SEGMENTS = "segments"
IMPUTATION = "imputation"
TOUCHPOINTS = "touchpoints.json"

REQUIRED = (
    USER_TOWER, ITEM_TOWER, USER_EMBEDDINGS, ITEM_EMBEDDINGS, INDEX, CATALOGUE, USERS, HISTORIES,
    SAMPLE, PARITY, PROFILE, CARD,
)  # fmt: skip
"""Parts that every bundle has, beside the files under ``vocabularies/``."""

AGAIN = "Copy or download the whole folder again, or export it again."


@dataclass(frozen=True)
class Manifest:
    """What the folder holds and what it promises; ``manifest.json`` is this as JSON.

    Attributes:
        format_version: Of the layout of the folder.
        similarity: ``dot``: the score of an item is the inner product of the two vectors.
        width: D, length of a vector.
        history_length: L, the last events of a user that the user tower reads.
        n_users: U, rows of the users' tables.
        n_items: N, rows of the items' tables.
        user_id_type: ``int`` or ``str``.
        item_id_type: ``int`` or ``str``.
        relevant: Event types that are recommended for; empty: all events are such.
        cut: ISO time; only events before it shaped the vectors, the histories and the as-of features.
        windows: ISO times of the split.
        fitted_on: Windows that the model was fitted on, such as ``train_val``.
        features: The feature declaration, :meth:`recsys.features.FeatureSpec.to_list`.
        signatures: Tower -> input name -> ``{dtype, shape}``; letters are free dimensions.
        ranker: What the second stage needs beside its parts, ``temperature`` of the retriever; empty without one.
        index: Kind of the index, its measured recall and search width.
        metrics: Metric key -> value.
        libraries: Library -> version that wrote the bundle.
        data_fingerprint: Of the prepared data set.
        parts: File, relative, ``/`` between folders -> SHA-256 of its bytes.
        fingerprint: SHA-256 over all of the above, :meth:`digest`.
    """

    format_version: int
    similarity: str
    width: int
    history_length: int
    n_users: int
    n_items: int
    user_id_type: str
    item_id_type: str
    relevant: list[str]
    cut: str
    windows: dict[str, str]
    fitted_on: str
    features: list[dict[str, Any]]
    signatures: dict[str, dict[str, dict[str, Any]]]
    ranker: dict[str, Any]
    index: dict[str, Any]
    metrics: dict[str, float]
    libraries: dict[str, str]
    data_fingerprint: str
    parts: dict[str, str] = field(default_factory=dict)
    fingerprint: str = ""

    @property
    def content(self) -> dict[str, Any]:
        """What it says of the bundle, apart from the files: what :func:`seal` takes."""
        files = ("format_version", "parts", "fingerprint")
        return {key: value for key, value in asdict(self).items() if key not in files}

    def digest(self) -> str:
        """Return the SHA-256 over the manifest without its fingerprint, and so over every part's hash."""
        content = {key: value for key, value in asdict(self).items() if key != "fingerprint"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def verify(self, folder: Path) -> None:
        """Check that ``folder`` holds exactly the parts of this manifest, byte for byte.

        Raises:
            BundleError: Names the part that is missing, changed, unlisted or outside the folder.
        """
        if self.digest() != self.fingerprint:
            raise BundleError(
                f"bundle {folder}: {MANIFEST} was changed after it was written: "
                f"its content does not match its fingerprint. {AGAIN}"
            )
        for name in self.parts:
            _check_inside(folder, name)
        required = (*REQUIRED, RANKER, f"{RANKING}/state.json") if self.ranker else REQUIRED
        missing = [name for name in (*required, *self.parts) if name not in self.parts or not (folder / name).is_file()]
        if missing:
            raise BundleError(f"bundle {folder}: part '{missing[0]}' is missing. {AGAIN}")
        for name in _files(folder):
            if name != MANIFEST and name not in self.parts:
                raise BundleError(f"bundle {folder}: '{name}' is not a part of this bundle. Remove it. {AGAIN}")
        for name, expected in self.parts.items():
            if sha256(folder / name) != expected:
                raise BundleError(
                    f"bundle {folder}: part '{name}' was changed, cut short or taken from another bundle: "
                    f"its bytes do not match {MANIFEST}. {AGAIN}"
                )


def read_manifest(folder: Path) -> Manifest:
    """Read ``manifest.json`` without looking at the parts.

    Raises:
        BundleError: No folder, no manifest, not JSON, an unknown format version or unknown keys.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise BundleError(f"bundle {folder}: no such folder.")
    if not path.is_file():
        raise BundleError(f"bundle {folder}: part '{MANIFEST}' is missing; is this the folder of a bundle?")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"bundle {folder}: {MANIFEST} is not JSON ({error}). {AGAIN}") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise BundleError(
            f"bundle {folder}: {MANIFEST} has format version {version!r}; this reader knows {FORMAT_VERSION}. "
            "Install the recsys version that wrote it, or export it again."
        )
    known = [f.name for f in fields(Manifest)]
    for key in (*content, *known):
        if key not in known:
            raise BundleError(f"bundle {folder}: {MANIFEST} has an unknown key '{key}'." + did_you_mean(key, known))
        if key not in content:
            raise BundleError(f"bundle {folder}: {MANIFEST} lacks the key '{key}'. {AGAIN}")
    return Manifest(**content)


def seal(folder: Path, **content: Any) -> Manifest:
    """Hash every file in ``folder`` and write the manifest beside them; returns it."""
    parts = {name: sha256(folder / name) for name in sorted(_files(folder)) if name != MANIFEST}
    open_manifest = Manifest(format_version=FORMAT_VERSION, parts=parts, **content)
    # through JSON once, so that the digest is of what a reader will see
    plain = json.loads(json.dumps(asdict(open_manifest)))
    manifest = Manifest(**(plain | {"fingerprint": Manifest(**plain).digest()}))
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")
    return manifest


@contextmanager
def written_beside(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` that takes its place when the block ends well, and is removed if not.

    Raises:
        BundleError: The place cannot be written to, or is full.
    """
    beside: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        yield beside
        beside.chmod(0o755)
        old = None
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent)) / "bundle"
            target.replace(old)
        beside.replace(target)
        if old is not None:
            shutil.rmtree(old.parent, ignore_errors=True)
    except OSError as error:
        raise BundleError(
            f"bundle {target}: cannot be written: {error.strerror or error}. Nothing was left there; "
            "free some space or choose another output folder."
        ) from error
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)


def _files(folder: Path) -> list[str]:
    """Return every file below ``folder``, relative; names that begin with a dot are the operating system's.

    A link to a folder counts as a file: what lies behind it is not looked at.
    """
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())
    return [p.as_posix() for p in found if not any(piece.startswith(".") for piece in p.parts)]


def _check_inside(folder: Path, name: str) -> None:
    pure = PurePosixPath(name)
    inside = not pure.is_absolute() and ".." not in pure.parts and "\\" not in name
    if not inside or not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"bundle {folder}: part '{name}' lies outside the folder of the bundle and is not opened.")
