"""What fills the gaps of a table, on disk: JSON and Parquet."""

import json
from dataclasses import fields
from pathlib import Path

import polars as pl

from recsys.data.imputation import Filler, Imputer
from recsys.data.imputation_methods import Peers


def save_imputer(imputer: Imputer, folder: Path) -> None:
    """Write an imputer as JSON and Parquet into a folder that is made for it.

    Raises:
        OSError: The place cannot be written to, or is full.
    """
    folder.mkdir(parents=True)
    rows = []
    for number, filler in enumerate(imputer.fillers):
        rows.append({f.name: getattr(filler, f.name) for f in fields(Filler) if f.name != "tables"})
        rows[-1]["tables"] = len(filler.tables)
        for place, table in enumerate(filler.tables):
            table.write_parquet(folder / f"group_{number}_{place}.parquet")
    imputer.peers.rows.write_parquet(folder / "peers.parquet")
    content = {"fillers": rows, "targets": imputer.peers.targets, "categories": imputer.peers.categories}
    (folder / "imputer.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


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
