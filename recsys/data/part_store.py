"""Parts on a disk: cleaned ones that wait for the windows, and settled ones, whose tables stay there until read."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl

from recsys.data.cleaning.rules import Cleaned
from recsys.data.part import Facts, Part, Settled
from recsys.data.split import Times

_SETTLED = ("events", "lines", "impressions", "rejects", "active")


def save_part(part: Part, folder: Path) -> None:
    """Write a part that waits for the windows into a folder."""
    cleaned = part.cleaned
    tables = {"events": cleaned.events, "impressions": cleaned.impressions, "returns": cleaned.returns}
    tables |= {"rejects": part.rejects, "active": part.active}
    for name, frame in tables.items():
        frame.write_parquet(folder / f"{name}.parquet")
    np.save(folder / "times.npy", Times.of(cleaned.events).parts[0])
    _save_facts(part.facts, folder)


def load_part(folder: Path) -> Part:
    """Read what :func:`save_part` has written."""
    names = ("events", "impressions", "returns", "rejects", "active")
    tables = {name: pl.read_parquet(folder / f"{name}.parquet") for name in names}
    rejects, facts = tables["rejects"], load_facts(folder)
    none = rejects.clear().select(rejects.columns[:2])
    cleaned = Cleaned(
        tables["events"], tables["impressions"], none, tables["returns"], facts.rows["duplicates"], findings=()
    )
    return Part(cleaned, rejects, tables["active"], facts)


def save_settled(part: Settled, folder: Path) -> None:
    """Write a settled part into a folder."""
    for name in _SETTLED:
        getattr(part, name).collect().write_parquet(folder / f"{name}.parquet")
    np.save(folder / "times.npy", part.times)
    _save_facts(part.facts, folder)


def load_settled(folder: Path) -> Settled:
    """Open what :func:`save_settled` has written."""
    tables = {name: pl.scan_parquet(folder / f"{name}.parquet") for name in _SETTLED}
    return Settled(**tables, times=load_times(folder), facts=load_facts(folder), folder=folder)


def load_times(folder: Path) -> np.ndarray:
    """Return the times of a part's events, mapped into memory."""
    times: np.ndarray = np.load(folder / "times.npy", mmap_mode="r")
    return times


def load_facts(folder: Path) -> Facts:
    """Return what happened to the rows of a part."""
    return Facts.from_dict(json.loads((folder / "facts.json").read_text()))


def _save_facts(facts: Facts, folder: Path) -> None:
    (folder / "facts.json").write_text(json.dumps(asdict(facts)))
