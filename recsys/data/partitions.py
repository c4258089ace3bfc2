"""Preparing in partitions by user, for events that memory cannot hold: split, clean each, merge.

::

    PREPARED/NAME.parts/
        slices/KEY/part-KKKK.parquet     rows of the source by partition, kept: a new day adds its own
        work/HASH/split.json             what the rules must know of the whole
        work/HASH/clean-KKKK/            one partition, cleaned
        work/HASH/settled-KKKK/          the same once the windows are known, where a rule waits for them

Each folder is whole or not there, so a run that was killed goes on where it was. The work is removed at the end.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from recsys.columns import TIMESTAMP, USER_ID
from recsys.config.data import DataConfig
from recsys.data.assemble import assemble
from recsys.data.build import Built, latest, refuse, writing
from recsys.data.cleaning.accounts import lines_until
from recsys.data.cleaning.event_types import check_types
from recsys.data.cleaning.rules import waits_for_windows
from recsys.data.guard import Guard, asks_for_end
from recsys.data.part import Settled, add_up, clean_part, look, settle_part
from recsys.data.part_store import load_facts, load_part, load_settled, load_times, save_part, save_settled
from recsys.data.slices import no_events, read_part, read_whole, slices, split_slice, text_types
from recsys.data.sources import COPIES, Tables, tables_with
from recsys.data.split import Times, Windows, find_windows, require_events
from recsys.data.validate import check_events
from recsys.data.whole import Whole
from recsys.errors import ConfigError, DataError
from recsys.files import folder_beside, take_place, write_whole
from recsys.privacy.erased import load_erased

BYTES_A_ROW = 1_500
"""That cleaning may take at its peak: an upper bound, events of nine columns took far less."""
BASE_GIB = 1.0
"""That the program and a slice take."""
STEPS = ("split", "merge")
PARTS = ".parts"
"""Ending of the folder beside the prepared data."""


def number_of_parts(cfg: DataConfig) -> int:
    """Return ``data.partitions``, or more of them where ``data.memory_gib`` needs it: the next power of 2."""
    if cfg.memory_gib is None:
        return cfg.partitions
    rows = sum(piece.rows for piece in slices(cfg))
    needed = rows * BYTES_A_ROW / ((cfg.memory_gib - BASE_GIB) * 2**30)
    parts = cfg.partitions
    while parts < needed:
        parts = 1 << parts.bit_length()
    return parts


def clear_after(cfg: DataConfig, fingerprint: str) -> None:
    """Clear what a run has left that was killed when the data set was whole."""
    root = Path(cfg.cache_dir).expanduser() / f"{cfg.name}{PARTS}"
    for left in root.glob(f"work/{fingerprint[:12]}-*"):
        done = Partitions(cfg, fingerprint, int(left.name.split("-")[1]))
        done.work = left
        done.clear()


class Partitions:
    """The steps of preparing one data set; each passes over what is done.

    Args:
        cfg: Resolved.
        fingerprint: Of content and config.
        parts: How many partitions.
    """

    def __init__(self, cfg: DataConfig, fingerprint: str, parts: int) -> None:
        self.cfg, self.parts = cfg, parts
        self.place = f"data.events={cfg.events}"
        cache_dir = Path(cfg.cache_dir).expanduser()
        self.root = cache_dir / f"{cfg.name}{PARTS}"
        state = f"{fingerprint[:12]}-{parts}-{load_erased(cache_dir).digest[:8]}".rstrip("-")
        self.work = self.root / "work" / state
        self._bar: tuple[Progress, TaskID] | None = None

    def require(self, step: str) -> None:
        """Check that there is such a step.

        Raises:
            ConfigError: There is not.
        """
        numbers = range(self.parts)
        if self.parts == 1 or (step not in STEPS and not (step.isdecimal() and int(step) in numbers)):
            raise ConfigError(
                f"partition={step}: there are {self.parts} partition(s) (data.partitions, data.memory_gib); legal:"
                f" split, merge and 0 to {self.parts - 1}, with 2 partitions or more."
            )

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Show a bar on the console's error stream while the block runs."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            self._bar = bar, bar.add_task("prepare", total=None)
            yield
        self._bar = None

    def split(self) -> None:
        """Read the source slice by slice and write the rows of each partition.

        Raises:
            ConfigError: The events do not lie on a disk.
            DataError: Input that cannot be read, or an event type that never occurs.
        """
        if self._is_split:
            return
        shutil.rmtree(self.work, ignore_errors=True)  # what was cleaned goes with the slices it was read from
        found = slices(self.cfg)
        with writing(self.root):
            types = text_types(self.cfg, found, self.root / "types")
            folders = []
            for number, piece in enumerate(found):
                self._show("split", number, len(found))
                folders.append(split_slice(self.cfg, piece, types, self.parts, self._slices))
            beside = Whole.beside(tables_with(no_events(self.cfg, types), self.cfg), self.cfg)
            whole = sum((read_whole(folder) for folder in folders), beside)
            check_types(whole.types, self.cfg, self.place)
            content = {
                "slices": [[folder.name, piece.first] for folder, piece in zip(folders, found, strict=True)],
                "types": types,
                "whole": asdict(whole),
                "last": self._last(folders, whole),
            }
            write_whole(self._split_file, json.dumps(content).encode())

    def clean(self, number: int) -> None:
        """Clean one partition.

        Raises:
            DataError: The source is not split yet, or a rule needs a column that is not there.
        """
        if self._cleaned(number).is_dir():
            return
        self._show("clean", number, self.parts)
        tables = self._with_events(number)
        looked = look(tables.events, self.cfg)
        checked = check_events(looked.source, self.cfg, self._whole)
        part = clean_part(tables, looked, checked, self._guard, self.cfg)
        with writing(self.root), folder_beside(self._cleaned(number)) as temporary:
            if waits_for_windows(self.cfg):
                save_part(part, temporary)
            else:
                save_settled(settle_part(part, tables, self.cfg), temporary)
            take_place(temporary, self._cleaned(number))

    def merge(self, refused: Path) -> Built:
        """Find the windows, settle the partitions and make what is made of all of them.

        Args:
            refused: File of the rejects, if there are too many.

        Raises:
            ConfigError: A value of the config that is not legal.
            DataError: A partition is not clean yet, or input cannot be used.
        """
        folders = [self._cleaned(number) for number in range(self.parts)]
        missing = [str(number) for number, folder in enumerate(folders) if not folder.is_dir()]
        if missing:
            raise DataError(f"{self.work}: not clean yet: partition={', partition='.join(missing)}; run these first.")
        facts = add_up(map(load_facts, folders))
        refuse([pl.scan_parquet(folder / "rejects.parquet") for folder in folders], facts, self.cfg, refused)
        times = Times(tuple(map(load_times, folders)))
        windows = find_windows(times, facts.users, facts.n_items, self.cfg.split)
        parts = self._settled(folders, windows)
        require_events(Times(tuple(part.times for part in parts)), windows)
        self._show("merge", 0, 1)
        made = assemble(parts, self._tables, self._guard, windows, self.cfg)
        return Built(parts, made, windows, self._tables.items is not None)

    def clear(self) -> None:
        """Remove the work, and slices that are of no source being prepared; all of them where somebody may not stay."""
        if not self._split_file.exists():  # killed while it was clearing
            shutil.rmtree(self.work, ignore_errors=True)
            return
        kept = {name for file in self.root.glob("work/*/split.json") for name in _slices_in(file)}
        privacy = self.cfg.privacy
        asked = asks_for_end(privacy) or privacy.pseudonym_key is not None or privacy.retain_from is not None
        if asked or load_erased(self.root.parent).people:  # the slices hold rows as they came
            kept = set()
        for folder in self._slices.iterdir():
            if folder.name not in kept and not folder.name.startswith("."):
                shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(self.work, ignore_errors=True)

    def _settled(self, folders: Sequence[Path], windows: Windows) -> list[Settled]:
        if not waits_for_windows(self.cfg):
            return list(map(load_settled, folders))
        slim = (pl.read_parquet(folder / "events.parquet", columns=[TIMESTAMP, COPIES]) for folder in folders)
        lines = [lines_until(events, windows) for events in slim]
        everybody = [sum(counts) for counts in zip(*lines, strict=True)]
        settled = []
        for number, folder in enumerate(folders):
            self._show("settle", number, self.parts)
            path = self.work / f"settled-{number:04}"
            if not path.is_dir():
                part = settle_part(load_part(folder), self._with_events(number), self.cfg, windows, everybody)
                with writing(self.root), folder_beside(path) as temporary:
                    save_settled(part, temporary)
                    take_place(temporary, path)
            settled.append(load_settled(path))
        return settled

    def _last(self, folders: Sequence[Path], whole: Whole) -> str | None:
        """Return the time of the last event that can be used, where it matters."""
        if not asks_for_end(self.cfg.privacy):
            return None
        times = []
        for number in range(self.parts):
            rows = read_part(folders, [0] * len(folders), number)
            times.append(latest(check_events(look(rows, self.cfg).source, self.cfg, whole).events))
        known = [time for time in times if time is not None]
        return max(known).isoformat() if known else None

    def _with_events(self, number: int) -> Tables:
        names, firsts = zip(*self._known["slices"], strict=True)
        return replace(self._tables, events=read_part([self._slices / name for name in names], firsts, number))

    @cached_property
    def _known(self) -> dict[str, Any]:
        if not self._is_split:
            raise DataError(f"{self.work}: the source is not split yet; run partition=split first.")
        known: dict[str, Any] = json.loads(self._split_file.read_text())
        return known

    @cached_property
    def _whole(self) -> Whole:
        return Whole.from_dict(self._known["whole"])

    @cached_property
    def _guard(self) -> Guard:
        last = self._known["last"]
        return Guard.of(self.cfg, self._whole.id_type(USER_ID), None if last is None else datetime.fromisoformat(last))

    @cached_property
    def _tables(self) -> Tables:
        return tables_with(no_events(self.cfg, self._known["types"]), self.cfg)

    @property
    def _is_split(self) -> bool:
        """Whether the source is split, and all its slices are still there."""
        file = self._split_file
        return file.exists() and all((self._slices / name).is_dir() for name in _slices_in(file))

    @property
    def _split_file(self) -> Path:
        return self.work / "split.json"

    @property
    def _slices(self) -> Path:
        return self.root / "slices"

    def _cleaned(self, number: int) -> Path:
        return self.work / f"clean-{number:04}"

    def _show(self, step: str, done: int, of: int) -> None:
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, description=step, completed=done, total=of)


def _slices_in(split_file: Path) -> list[str]:
    """Return the names of the slices of a source that has been split."""
    return [name for name, _ in json.loads(split_file.read_text())["slices"]]
