"""Segments on disk: a folder of JSON and Parquet that is whole or not there; reading it needs no scikit-learn."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import inf, isinf
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys.errors import DataError
from recsys.files import replacing
from recsys.segments.clusters import Clustering, Space, Trial
from recsys.segments.demographic import DemographicGroups
from recsys.segments.intent import IntentRules
from recsys.segments.model import SegmentModel
from recsys.segments.rfm import RfmScale

FORMAT_VERSION = 1
MERGES = ("left", "right", "distance", "size")
"""Columns of SciPy's table of merges."""


def save_segments(model: SegmentModel, folder: Path) -> Path:
    """Write ``model.json``, ``centroids.parquet`` and ``merges.parquet``; an older folder gives way.

    Raises:
        DataError: The folder cannot be written.
    """
    meta = {"format": FORMAT_VERSION} | asdict(model)
    meta["clusterings"] = {
        name: {"agreement": found.agreement, "trials": [asdict(trial) for trial in found.trials]}
        for name, found in model.clusterings.items()
    }
    if model.rfm is not None:  # JSON knows no infinity
        meta["rfm"] = {axis: [None if isinf(b) else b for b in bounds] for axis, bounds in model.rfm.bounds.items()}
    axes = model.space.axes if model.space else ()
    found = model.clusterings
    tables = {
        "centroids": _table({name: c.centroids for name, c in found.items()}, axes),
        "merges": _table({name: c.linkage for name, c in found.items() if c.linkage is not None}, MERGES),
    }
    try:
        _write(folder, json.dumps(meta, indent=1), tables)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{folder}: segments cannot be written: {error}; give a folder that can.") from error
    return folder


def load_segments(folder: str | Path) -> SegmentModel:
    """Read what :func:`save_segments` wrote.

    Raises:
        DataError: The folder is missing, incomplete or of another format version.
    """
    folder = Path(folder)
    try:
        meta: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        if meta["format"] != FORMAT_VERSION:
            raise DataError(
                f"{folder}: segments of format {meta['format']}, this version reads {FORMAT_VERSION}; run"
                " `recsys segment` again."
            )
        centroids, merges = (pl.read_parquet(folder / f"{name}.parquet") for name in ("centroids", "merges"))
        return _model(meta, centroids, merges)
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{folder}: not a complete folder of segments ({str(error).strip().splitlines()[0]}); give the folder"
            " that `recsys segment` wrote."
        ) from error


def write_table(table: pl.DataFrame, path: Path) -> Path:
    """Write a table as Parquet, whole or not at all, and return its path.

    Raises:
        DataError: The folder cannot be written.
    """
    with replacing(path, "table of segments") as temporary:
        table.write_parquet(temporary)
    return path


def _model(meta: dict[str, Any], centroids: pl.DataFrame, merges: pl.DataFrame) -> SegmentModel:
    space, rfm, groups, intent = (meta[key] for key in ("space", "rfm", "demographic", "intent"))
    trees = set(merges["method"])
    return SegmentModel(
        cut=meta["cut"],
        relevant=tuple(meta["relevant"]),
        cart_types=tuple(meta["cart_types"]),
        space=None if space is None else Space(*(tuple(space[key]) for key in ("axes", "center", "spread"))),
        clusterings={
            name: Clustering(
                _numbers(centroids, name),
                tuple(Trial(**trial) for trial in stored["trials"]),
                stored["agreement"],
                _numbers(merges, name) if name in trees else None,
            )
            for name, stored in meta["clusterings"].items()
        },
        rfm=None
        if rfm is None
        else RfmScale({axis: tuple(inf if b is None else b for b in bounds) for axis, bounds in rfm.items()}),
        demographic=None
        if groups is None
        else DemographicGroups(
            tuple(groups["attributes"]),
            {name: tuple(bounds) for name, bounds in groups["bounds"].items()},
            tuple(groups["groups"]),
        ),
        intent=None if intent is None else IntentRules(**intent),
    )


def _table(numbers: Mapping[str, np.ndarray], columns: Sequence[str]) -> pl.DataFrame:
    """Return the rows of all methods one below the other: ``method`` and the columns."""
    methods = [name for name, rows in numbers.items() for _ in range(len(rows))]
    joined = np.concatenate([np.zeros((0, len(columns))), *numbers.values()])
    values = {name: joined[:, n] for n, name in enumerate(columns)}
    return pl.DataFrame({"method": pl.Series(methods, dtype=pl.String), **values})


def _numbers(table: pl.DataFrame, method: str) -> np.ndarray:
    own = table.filter(pl.col("method") == method)
    values = own.drop("method")
    return values.to_numpy().astype(np.float64).reshape(len(own), values.width)


def _write(folder: Path, meta: str, tables: Mapping[str, pl.DataFrame]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.{os.getpid()}.", suffix=".tmp", dir=folder.parent))
    try:
        (temporary / "model.json").write_text(meta, encoding="utf-8")
        for name, table in tables.items():
            table.write_parquet(temporary / f"{name}.parquet")
        temporary.chmod(0o755)  # mkdtemp's folder is private
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
