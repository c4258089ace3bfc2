"""``recsys sync``: what runs could not send while the tracking server was away goes there now, and how they ended.

journals below folders ─► those of runs that go on are left to them ─► send ─► status ─► table
"""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.config.schema import SyncConfig
from recsys.errors import ConfigError, TrackingError

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Synced:
    """What became of one journal.

    Attributes:
        folder: Of the run.
        before: Entries that waited.
        waiting: Entries that still wait.
        refused: Entries that the server will never take; they lie in ``refused.jsonl``.
        status: Of the run at the server; RUNNING where its process lives, ``?`` where the server was not asked.
        reason: Why some still wait; empty when none does.
        models: Versions that bundles of the run became.
    """

    folder: Path
    before: int
    waiting: int
    refused: int
    status: str
    reason: str = ""
    models: tuple[str, ...] = ()


def run(cfg: SyncConfig) -> list[Synced]:
    """Send what waits below the folders and show it; return one row for each journal.

    Raises:
        ConfigError: A folder does not exist.
        TrackingError: Something still waits.
    """
    from rich.console import Console

    from recsys.tracking.journal import FOLDER, JOURNAL

    for folder in cfg.runs:
        if not Path(folder).is_dir():
            raise ConfigError(f"runs: '{folder}' is no folder; name run folders, or folders of them.")
    found = {place.parent for folder in cfg.runs for place in Path(folder).rglob(f"{FOLDER}/*/{JOURNAL}")}
    rows = [row for place in sorted(found) if (row := sync_journal(place, cfg.tracking_uri))]
    console = Console()
    if not rows:
        console.print(f"nothing waits below {', '.join(cfg.runs)}", markup=False, soft_wrap=True)
        return rows
    show(console, rows)
    late = [row for row in rows if row.reason]
    if late:
        reasons = ", ".join(sorted({row.reason for row in late}))
        raise TrackingError(
            f"{sum(row.waiting for row in late)} entries of {len(late)} runs still wait ({reasons}). "
            "Put it right and repeat `recsys sync`; tracking_uri=URI names another server."
        )
    return rows


def sync_journal(place: Path, tracking_uri: str | None) -> Synced | None:
    """Send what one journal holds, and close the run if its process was killed; without a rest, the journal goes.

    Returns None for a journal without a line.

    Args:
        place: Folder of the journal.
        tracking_uri: None: the server that the run began with.
    """
    from recsys.tracking.journal import Journal
    from recsys.tracking.replay import finish, replay
    from recsys.tracking.server import bounded_http, connect, first_line

    with closing(Journal(place)) as journal:
        folder, uri = place.parents[1], tracking_uri or journal.uri()
        if uri is None:
            return None
        before, status, reason = journal.count(), "RUNNING", ""
        if not journal.take():  # its process lives, and sends by itself
            return Synced(folder, before, before, journal.refused(), status)
        try:
            with bounded_http():
                connect(uri)
                reason = replay(journal, uri) or ""
                status = finish(journal, uri)
        except Exception as error:  # of this server; other runs may have begun with another
            status, reason = "?", first_line(error)
        if not reason:
            journal.discard()
        models = tuple(journal.models.values())
        return Synced(folder, before, journal.count() if reason else 0, journal.refused(), status, reason, models)


def show(console: "Console", rows: list[Synced]) -> None:
    """Print a line for each run."""
    from rich.table import Table

    table = Table(title="recsys sync")
    for name in ("run", "waited", "sent", "refused", "still waits", "status", "model"):
        table.add_column(name, overflow="fold")
    for row in rows:
        numbers = [row.before, row.before - row.waiting, row.refused, row.waiting]
        table.add_row(str(row.folder), *map(str, numbers), row.status, ", ".join(row.models))
    console.print(table)
