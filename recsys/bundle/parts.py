"""Single parts of a bundle: where they lie, and how each is opened."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recsys.bundle.format import MANIFEST
from recsys.errors import BundleError

COPY = "recsys-bundle-"
"""How the names of downloaded copies begin, among temporary files; the receipt of an erasure tells it."""


@contextmanager
def local_folder(uri: str | Path) -> Iterator[Path]:
    """Yield the folder that holds the manifest, downloaded by MLflow where ``uri`` asks for it; the copy is removed.

    Raises:
        BundleError: MLflow is not installed, or finds nothing there.
    """
    text = str(uri)
    if not text.startswith(("models:/", "runs:/")):
        yield Path(uri)
        return
    copy, process = Path(tempfile.mkdtemp(prefix=COPY)), os.getpid()
    try:
        downloaded = _download(text, copy)
        inside = sorted(downloaded.glob(f"data/*/{MANIFEST}"))
        yield inside[0].parent if inside else downloaded
    finally:
        if os.getpid() == process:  # a forked one may end while this one still reads
            shutil.rmtree(copy, ignore_errors=True)


def _download(text: str, copy: Path) -> Path:
    """Return where the files of a model lie on this disk: their own place, or the copy of what a server has."""
    try:
        import mlflow
        from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
        from mlflow.store.artifact.models_artifact_repo import ModelsArtifactRepository as Models
    except ImportError as error:
        raise BundleError(f"bundle {text}: this URI needs mlflow; install it, or copy the folder here.") from error
    try:
        model = Models(Models.split_models_uri(text)[0]) if text.startswith("models:/") else None
        is_here = model is not None and isinstance(model.repo, LocalArtifactRepository)
        return Path(mlflow.artifacts.download_artifacts(text, dst_path=None if is_here else str(copy)))
    except Exception as error:  # MLflow raises whatever its stores raise
        raise BundleError(
            f"bundle {text}: not found at tracking server '{mlflow.get_tracking_uri()}' ({str(error).splitlines()[0]})."
        ) from error


def read_tower(path: Path) -> Any:
    """Load a TorchScript tower to the CPU, whatever device it was saved from.

    Raises:
        BundleError: torch cannot read the file.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.load.*", category=DeprecationWarning)
            return torch.jit.load(str(path), map_location="cpu").eval()
    except RuntimeError as error:
        raise BundleError(f"part '{path.name}': torch cannot read it; export the bundle again.") from error


def run_tower(tower: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Return the vectors ``[B, D]`` of a tower, without gradients."""
    with torch.inference_mode():
        vectors: Tensor = tower(inputs)
    return vectors


def read_vectors(path: Path, ids: pl.Series) -> Tensor:
    """Read a matrix of vectors and check that its rows are those of ``ids``; returns ``[n, D]``.

    Raises:
        BundleError: They are the rows of another table.
    """
    frame = pl.read_parquet(path)
    if not frame["id"].equals(ids):
        raise BundleError(f"part '{path.name}': its ids are not those of the bundle; export it again.")
    return torch.from_numpy(frame["vector"].to_numpy().astype(np.float32))
