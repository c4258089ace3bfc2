"""Time and memory of `recsys prepare` in partitions, beside polars that reads, sorts and writes the same events."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from rich.table import Table

from recsys.errors import DataError

SORT = """
import sys
import polars as pl
pl.scan_parquet(sys.argv[1]).sort("user_id", "timestamp").sink_parquet(sys.argv[2], engine="streaming")
"""


@dataclass(frozen=True)
class Run:
    """One process: seconds on the wall, and GiB resident at its peak."""

    seconds: float
    peak_gib: float


def open_shop(folder: Path, events: int, users: int | None, items: int | None) -> Path:
    """Return the folder of a shop without dirt, which is made where it is not there.

    Raises:
        DataError: It cannot be made.
    """
    if not folder.exists():
        sizes = {"--events": events, "--users": users or events // 10, "--items": items or max(events // 100, 100)}
        script = Path(__file__).with_name("make_events.py")
        command = [sys.executable, str(script), "--out", str(folder), *(str(v) for pair in sizes.items() for v in pair)]
        if subprocess.run(command).returncode:
            raise DataError(f"{folder}: the shop cannot be made; see above.")
    return folder


def beside_polars(shop: Path, partitions: int, scratch: Path) -> dict[str, Any]:
    """Run both on a shop, each in a process of its own, and return what the report holds.

    Args:
        shop: From :func:`open_shop`.
        partitions: Of `recsys prepare`.
        scratch: Folder for what they write; it is removed before and afterwards.

    Raises:
        DataError: One of them failed.
    """
    files = sorted((shop / "events").glob("*.parquet"))
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for file in files:  # so that neither is the first to read them
        file.read_bytes()
    tables = [f"data.events={shop}/events", f"data.items={shop}/items.parquet", f"data.users={shop}/users"]
    roles = ["data.relevant=[purchase]", "data.context=[device]", f"data.partitions={partitions}"]
    places = [f"data.cache_dir={scratch}/prepared", f"hydra.run.dir={scratch}/run"]
    try:
        plain = _run([sys.executable, "-c", SORT, str(shop / "events"), str(scratch / "sorted.parquet")])
        (scratch / "sorted.parquet").unlink()
        ours = _run([sys.executable, "-m", "recsys", "prepare", "data=tables", *tables, *roles, *places])
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return {
        "polars": pl.__version__,
        "events": pl.scan_parquet(files).select(pl.len()).collect().item(),
        "partitions": partitions,
        "prepare": vars(ours),
        "sort": vars(plain),
        "ratio": ours.seconds / plain.seconds,
    }


def prepare_table(report: dict[str, Any]) -> Table:
    """Return the comparison as a table."""
    table = Table(title=f"{report['events']:,} events on {report['device']}")
    for column in ("", "seconds", "peak GiB"):
        table.add_column(column, justify="right" if column else "left")
    names = {"prepare": f"recsys prepare, {report['partitions']} partitions", "sort": "polars: read, sort, write"}
    for key, name in names.items():
        table.add_row(name, f"{report[key]['seconds']:,.1f}", f"{report[key]['peak_gib']:.2f}")
    table.add_row("ratio", f"{report['ratio']:.2f} x", "", style="bold")
    return table


def _run(command: list[str]) -> Run:
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise DataError(f"exit code {process.returncode} of: {' '.join(command)}")
    return Run(seconds, used.ru_maxrss / 2**20)
