"""Own memory of a process that trains from a log in memory, and of one that maps the log from files."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from rich.table import Table

from recsys.errors import DataError

BATCHES = 200
LOGS = ("memory", "mapped")
SAMPLE_SECONDS = 0.02


def both_logs(shop: Path, partitions: int, scratch: Path) -> dict[str, Any]:
    """Make the batches of a shop both ways, each in a process of its own, and return what the report holds.

    Args:
        shop: From :func:`benchmark_prepare.open_shop`.
        partitions: In which it is prepared.
        scratch: Folder for the prepared data, which is used again.

    Raises:
        DataError: One of them failed.
    """
    return {log: _measured(shop, partitions, scratch, log) for log in LOGS}


def mapped_table(report: dict[str, Any]) -> Table:
    """Return the comparison as a table."""
    table = Table(title=f"{report['memory']['events']:,} events to train on, {report['device']}")
    for column in ("data.log", "seconds to the first batch", "peak GiB of its own", "ms a batch"):
        table.add_column(column, justify="left" if column == "data.log" else "right")
    for log in LOGS:
        row = report[log]
        table.add_row(log, f"{row['seconds']:.1f}", f"{row['own_gib']:.2f}", f"{row['batch_ms']:.1f}")
    same = "the same batches" if report["memory"]["sum"] == report["mapped"]["sum"] else "OTHER batches"
    table.caption = f"{same}; pages of files, which the system takes back, are not counted"
    return table


def _measured(shop: Path, partitions: int, scratch: Path, log: str) -> dict[str, Any]:
    command = [sys.executable, __file__, str(shop), str(partitions), str(scratch), log]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise DataError(f"exit code {done.returncode} of: {' '.join(command)}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _batches(shop: Path, partitions: int, scratch: Path, log: str) -> dict[str, Any]:
    """Prepare, or open what is prepared; then fit what a retriever reads and make its first batches."""
    from recsys.config.compose import compose
    from recsys.data.batches import MomentBatches
    from recsys.data.dataset import fit_data, interaction_log
    from recsys.data.prepare import prepare

    tables = [f"data.events={shop}/events", f"data.items={shop}/items.parquet", f"data.users={shop}/users"]
    roles = ["data.relevant=[purchase]", "data.context=[device]", f"data.partitions={partitions}"]
    cfg = compose(
        "train", ["data=tables", *tables, *roles, f"data.cache_dir={scratch}", f"data.log={log}", f"run_dir={scratch}"]
    )
    prepared = prepare(cfg.data)
    own: list[int] = []
    threading.Thread(target=_watch, args=(own,), daemon=True).start()
    start = time.perf_counter()
    data = fit_data(prepared, interaction_log(prepared), prepared.windows.test_start)
    settings = cfg.training
    batches = MomentBatches(
        data.log,
        history=cfg.model.history,
        batch_moments=settings.batch_moments,
        epoch_batches=settings.epoch_batches,
        negatives=settings.negatives,
        moments_per_block=settings.moments_per_block,
        catalogue=data.eligible.nonzero().squeeze(1),
    )
    turns = iter(batches)
    checks = [int(next(turns).event.sum())]
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    for _, batch in zip(range(BATCHES), turns, strict=False):
        data.tables.moments(batch.user, batch.event)
        checks.append(int(batch.event.sum()))
    spent = time.perf_counter() - start
    return {
        "events": len(data.log),
        "seconds": seconds,
        "own_gib": max(own) / 2**20,
        "batch_ms": 1e3 * spent / max(len(checks) - 1, 1),
        "sum": sum(checks),
    }


def _watch(own: list[int]) -> None:
    """Note the KiB that the process has for itself, files not counted, again and again."""
    while True:
        rows = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        own.append(int(next(row for row in rows if row.startswith("RssAnon")).split()[1]))
        time.sleep(SAMPLE_SECONDS)


if __name__ == "__main__":
    print(json.dumps(_batches(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])))
