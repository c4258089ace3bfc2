"""What fills the gaps of a table, on disk: JSON and Parquet."""

import json
from dataclasses import fields
from pathlib import Path

import polars as pl

from recsys.data.imputation import Filler, Imputer
from recsys.data.imputation_methods import Peers
from recsys.files import json_bytes, replacing, write_whole


def save_imputer(imputer: Imputer, folder: Path) -> None:
    """Write an imputer as JSON and Parquet into a folder, which is made; each file is whole or as it was.

    Raises:
        DataError: The place cannot be written to, or is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, filler in enumerate(imputer.fillers):
        rows.append({f.name: getattr(filler, f.name) for f in fields(Filler) if f.name != "tables"})
        rows[-1]["tables"] = len(filler.tables)
        for place, table in enumerate(filler.tables):
            _write(table, folder / f"group_{number}_{place}.parquet")
    _write(imputer.peers.rows, folder / "peers.parquet")
    content = {"fillers": rows, "targets": imputer.peers.targets, "categories": imputer.peers.categories}
    write_whole(folder / "imputer.json", json_bytes(content), "imputer")


def load_imputer(folder: Path) -> Imputer:
    """Read what :func:`save_imputer` wrote.

    Raises:
        OSError: A file is missing.
    """
    content = json.loads((folder / "imputer.json").read_text(encoding="utf-8"))
    fillers = []
    for number, row in enumerate(content["fillers"]):
        places = range(row["tables"])
        tables = tuple(pl.read_parquet(folder / f"group_{number}_{place}.parquet") for place in places)
        fillers.append(Filler(**row | {"groups": tuple(row["groups"]), "tables": tables}))
    rows = pl.read_parquet(folder / "peers.parquet")
    return Imputer(tuple(fillers), Peers(rows, tuple(content["targets"]), tuple(content["categories"])))


def _write(table: pl.DataFrame, path: Path) -> None:
    with replacing(path, "table of an imputer") as temporary:
        table.write_parquet(temporary)
