"""``recsys add-items``: new products into a bundle in seconds, without training."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.config.add_items import AddItemsConfig
from recsys.errors import DataError

if TYPE_CHECKING:
    import polars as pl

FROM = "items_added_to"
"""Tag of a version: the number of the one that it knows more products than."""


def run(cfg: AddItemsConfig) -> str:
    """Write a bundle with further products, register it where the old one is, and return its folder or URI.

    Raises:
        BundleError: The bundle cannot be used, or the output is there already.
        DataError: The file cannot be used; every fault is named with its count.
        TrackingError: The registry refused, or could not be reached; the new bundle is whole nevertheless.
    """
    from rich.console import Console

    from recsys.bundle.parts import local_folder
    from recsys.config.schema import TrackingConfig
    from recsys.export.add_items import add_items
    from recsys.tracking.aliases import parse
    from recsys.tracking.registry import register_bundle
    from recsys.tracking.run import start_run
    from recsys.tracking.server import bounded_http

    console, start = Console(), time.perf_counter()
    target = Path(cfg.output) if cfg.output else Path(cfg.run_dir, "bundle")
    version = parse(cfg.bundle, cfg.tracking_uri, "bundle") if cfg.bundle.startswith("models:/") else None
    items = read_items(cfg.items)
    with bounded_http(timeout=120), local_folder(cfg.bundle) as folder:
        added = add_items(folder, items, target, f"items={cfg.items}")
    seconds, found = time.perf_counter() - start, str(target)
    if version is not None:
        tracking = TrackingConfig(
            uri=cfg.tracking_uri, experiment=cfg.tracking_experiment, run_name="add-items", model_name=version[0]
        )
        with start_run(tracking, cfg.run_dir):
            _, found = register_bundle(target, version[0], {FROM: str(version[1])})
    absent = f", without {', '.join(added.missing)}" if added.missing else ""
    console.print(
        f"{added.items:,} products added{absent}: {added.manifest.n_items:,} in all ({seconds:.1f} s)\n"
        f"bundle      {target} ({added.manifest.fingerprint[:12]})" + (f"\nversion     {found}" if version else ""),
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return found


def read_items(file: str) -> "pl.DataFrame":
    """Read a .parquet or .csv file; the columns of a CSV are text.

    Raises:
        DataError: It is not there, or cannot be read.
    """
    from recsys.data.files import read_file

    if Path(file).suffix not in (".parquet", ".csv"):
        raise DataError(f"items={file}: is neither .parquet nor .csv; write the new products as one of them.")
    return read_file("items", file, infer_schema=False)
