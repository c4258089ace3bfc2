"""From the tables to everything of a prepared data set that is not written yet, all events in memory at once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from recsys.columns import TIMESTAMP, USER_ID
from recsys.config.data import DataConfig
from recsys.data.assemble import Assembled, assemble
from recsys.data.cleaning.event_types import check_types
from recsys.data.guard import Guard, hide
from recsys.data.part import Facts, Settled, clean_part, look, settle_part
from recsys.data.sources import REJECT_REASON, ROW_NUMBER, read_tables
from recsys.data.split import Times, Windows, find_windows, require_events
from recsys.data.validate import check_events, refuse_rejects
from recsys.data.whole import Whole
from recsys.errors import DataError
from recsys.files import beside


@dataclass(frozen=True)
class Built:
    """What there is to write.

    Attributes:
        parts: The events, those of a user in one of them.
        made: Of all of them together.
        windows: The split.
        has_item_table: False where items are known only from events.
    """

    parts: Sequence[Settled]
    made: Assembled
    windows: Windows
    has_item_table: bool


def build_whole(cfg: DataConfig, refused: Path) -> Built:
    """Prepare all events as one part.

    Args:
        cfg: Resolved.
        refused: File of the rejects, if there are too many.

    Raises:
        ConfigError: A value of the config that is not legal.
        DataError: Input that cannot be used.
    """
    tables = read_tables(cfg)
    looked = look(tables.events, cfg)
    place = f"data.events={cfg.events}"
    whole = Whole.of(looked.straight.events, looked.source, place) + Whole.beside(tables, cfg)
    check_types(whole.types, cfg, place)
    checked = check_events(looked.source, cfg, whole)
    guard = Guard.of(cfg, whole.id_type(USER_ID), latest(checked.events))
    part = clean_part(tables, looked, checked, guard, cfg)
    refuse([part.rejects.lazy()], part.facts, cfg, refused)
    times = Times.of(part.cleaned.events)
    windows = find_windows(times, part.facts.users, part.facts.n_items, cfg.split)
    settled = settle_part(part, tables, cfg, windows)
    require_events(Times((settled.times,)), windows)
    return Built([settled], assemble([settled], tables, guard, windows, cfg), windows, tables.items is not None)


def latest(events: pl.DataFrame) -> datetime | None:
    """Return the time of the last event; None where there is none."""
    last = events[TIMESTAMP].max()
    return last if isinstance(last, datetime) else None


def refuse(rejects: Sequence[pl.LazyFrame], facts: Facts, cfg: DataConfig, path: Path) -> None:
    """Stop on too many rows that cannot be used; they are written first, so that the message can point at them.

    Args:
        rejects: Of all parts.
        facts: Of all parts together.
        cfg: Says how many there may be.
        path: Of the file.

    Raises:
        DataError: There are too many.
    """
    unusable = pl.concat(rejects).filter(pl.col(REJECT_REASON).is_in(list(facts.unusable)))
    rows = hide(unusable.collect().sort(ROW_NUMBER), cfg)
    try:
        refuse_rejects(rows, facts.unusable, facts.rows["checked"], cfg, path)
    except DataError:
        with writing(path.parent), beside(path) as temporary:
            rows.write_parquet(temporary)
        raise


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn what the file system raises while prepared data is written into a DataError."""
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{place}: prepared data cannot be written: {error}. Free some space there, or set data.cache_dir to a"
            " folder that can be written."
        ) from error
