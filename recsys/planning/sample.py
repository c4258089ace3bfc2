"""A sample of the tables goes through the very preparation that the tables will go through."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from recsys.columns import EVENT_TYPE, PURPOSE, USER_ID
from recsys.config.data import DataConfig, SplitConfig
from recsys.data.files import locate
from recsys.data.guard import consent_of, meaning
from recsys.data.prepare import place_for, prepare
from recsys.data.prepared import Prepared, load_prepared
from recsys.data.sources import CONSENT, named_types
from recsys.data.validate import REASONS
from recsys.errors import DataError, RecsysError, did_you_mean
from recsys.planning.tables import Glimpse
from recsys.privacy.erased import load_erased

MOST_HASHED = 2 * 2**30
"""Bytes of tables that are hashed to see whether they have been prepared; a disk reads them in seconds."""
SAFE_SHARE = 0.1
"""Share of a window in a sample, at least: a window of few events may have none of them."""


@dataclass(frozen=True)
class Sampled:
    """What became of the sample.

    Attributes:
        prepared: Made of the sample, in a folder that is removed when the plan is made.
        rows: Rows of events in the sample.
        unusable: How many cannot be used, by reason.
        bytes_an_event: That prepared events take on the disk.
    """

    prepared: Prepared
    rows: int
    unusable: dict[str, int]
    bytes_an_event: float


def find_prepared(cfg: DataConfig) -> Prepared | None:
    """Return the data set that has been made of the same content and settings; its events are not read.

    Tables are compared by their hash only where a data set of the name is there, they lie on a disk and are not huge.

    Raises:
        RecsysError: The tables cannot be found.
    """
    cache = Path(cfg.cache_dir).expanduser()
    if not any(cache.glob(f"{cfg.name}-*/meta.json")):
        return None
    paths = [path for key in ("events", "items", "users") if (path := getattr(cfg, key))]
    files = [file for path in paths for file in locate("events", path)[0]]
    if any("://" in file for file in files) or sum(Path(file).stat().st_size for file in files) > MOST_HASHED:
        return None
    folder = place_for(cfg)[2]
    if not folder.is_dir():
        return None
    try:
        prepared = load_prepared(folder, lazy=True)
    except DataError:  # the run prepares it again
        return None
    return prepared if prepared.report.get("erased_list") == load_erased(cache).digest else None


def type_problems(cfg: DataConfig, events: Glimpse) -> tuple[list[str], list[str]]:
    """Return problems and notes about event types that the configuration names and the sample does not have."""
    if EVENT_TYPE not in events.columns:
        return [], []
    found = events.sample[events.columns[EVENT_TYPE]].cast(pl.String).drop_nulls().unique().sort().to_list()
    problems: list[str] = []
    notes: list[str] = []
    for key, names in named_types(cfg).items():
        for name in names:
            if name in found:
                continue
            near = did_you_mean(name, found)
            text = (
                f"{key} names '{name}', which never occurs among {len(events.sample):,} rows; found: "
                f"{', '.join(found[:20])}.{near}"
            )
            alike = [other for other in found if other not in names]  # purchase beside purchase_gift: both are meant
            is_sure = events.is_whole or did_you_mean(name, alike) or (events.is_spread and not set(names) & set(found))
            (problems if is_sure else notes).append(text)
    return problems, notes


def consent_problems(cfg: DataConfig, consent: Glimpse) -> list[str]:
    """Return what is wrong with the purposes of the sample of a consent table."""
    wanted, found = cfg.privacy.purpose, _purposes(consent)
    if wanted in found or not consent.is_spread:
        return []
    return [
        f"data.privacy.purpose={wanted}: never occurs among {len(consent.sample):,} rows of {consent.path}; found: "
        f"{', '.join(sorted(found)[:20])}.{did_you_mean(wanted, found)} Name one of them."
    ]


def _purposes(consent: Glimpse) -> list[str]:
    return consent.sample[consent.columns[PURPOSE]].cast(pl.String).str.strip_chars().drop_nulls().unique().to_list()


def prepare_sample(cfg: DataConfig, glimpses: Mapping[str, Glimpse], folder: Path) -> Sampled:
    """Prepare the sample; with consent where it has all rows, else only what the consent table says is checked.

    Args:
        cfg: Resolved.
        glimpses: Of the tables, by key.
        folder: For the sample and what is made of it.

    Raises:
        RecsysError: What the tables themselves would be refused for; the message is about a sample of them.
    """
    meaning(cfg)  # whether there is a key, and where
    events, places = glimpses["events"], {}
    for key in ("events", "items", "users", CONSENT):
        if key in glimpses:
            places[key] = folder / f"{key}.{'csv' if glimpses[key].kind == 'csv' else 'parquet'}"
            write = (
                glimpses[key].sample.write_csv if places[key].suffix == ".csv" else glimpses[key].sample.write_parquet
            )
            write(places[key])
    tables = {key: str(place) for key, place in places.items()}
    own = replace(cfg, events=tables["events"], items=tables.get("items"), users=tables.get("users"))
    own = replace(own, cache_dir=str(folder / "prepared"), partitions=1, memory_gib=None)
    asked = replace(own, privacy=replace(cfg.privacy, consent=tables.get(CONSENT)))
    silent = replace(own, privacy=replace(cfg.privacy, consent=None, default=None, consent_columns={}))
    is_whole = all(one.is_whole for one in glimpses.values())
    own = asked if is_whole else silent
    if not events.is_whole:
        own = _forgiving(own, events)
    try:
        prepared = prepare(own)
        if CONSENT in tables and not is_whole and cfg.privacy.purpose in _purposes(glimpses[CONSENT]):
            consent_of(asked, prepared.events.schema[USER_ID] if cfg.privacy.pseudonym_key is None else pl.String())
    except RecsysError as error:
        raise type(error)(_about_a_sample(str(error), cfg, glimpses, tables)) from error
    report = prepared.report
    made = sum(file.stat().st_size for file in prepared.path.rglob("*") if file.is_file())
    unusable = {reason: count for reason, count in report["rejects"].items() if reason in REASONS}
    return Sampled(prepared, len(events.sample), unusable, made / max(report["rows"]["kept"], 1))


def window_problems(split: SplitConfig, prepared: Prepared, events: Glimpse) -> list[str]:
    """Return a message for each configured time of the split that lies outside the times of a spread sample."""
    if events.is_whole or not events.is_spread or split.val_start is None or split.test_start is None:
        return []
    start, end = prepared.windows.train_start, prepared.windows.end
    problems = []
    for key in ("val_start", "test_start"):
        text = str(getattr(split, key))
        time = datetime.fromisoformat(text)
        time = time if time.tzinfo else time.replace(tzinfo=UTC)
        if not start < time < end:
            problems.append(
                f"data.split.{key}={text}: the sample's events lie between {start.isoformat()} and {end.isoformat()}, "
                "so a window would be empty; set a time between them, or shares (data.split.val, data.split.test)."
            )
    return problems


def _forgiving(cfg: DataConfig, events: Glimpse) -> DataConfig:
    """Return a config that refuses nothing for what rows beyond the sample may have."""
    split = cfg.split
    if split.val_start is not None:
        split = SplitConfig(end=split.end)
    split = replace(split, val=max(split.val, SAFE_SHARE), test=max(split.test, SAFE_SHARE))
    if split.val + split.test >= 1 - SAFE_SHARE:
        split = SplitConfig(end=split.end)
    if EVENT_TYPE not in events.columns:
        return replace(cfg, split=split)
    found = {*events.sample[events.columns[EVENT_TYPE]].cast(pl.String).drop_nulls()}
    returns = replace(
        cfg.cleaning.returns, event_types=[kind for kind in cfg.cleaning.returns.event_types if kind in found]
    )
    return replace(
        cfg,
        split=split,
        relevant=[kind for kind in cfg.relevant if kind in found],
        left_out=[kind for kind in cfg.left_out if kind in found],
        impressions=[kind for kind in cfg.impressions if kind in found],
        weights={kind: weight for kind, weight in cfg.weights.items() if kind in found},
        cleaning=replace(cfg.cleaning, returns=returns),
    )


def _about_a_sample(text: str, cfg: DataConfig, glimpses: Mapping[str, Glimpse], tables: Mapping[str, str]) -> str:
    """Return a message with the tables' own places in it, and what it is about."""
    for key, path in tables.items():
        text = text.replace(path, str(cfg.privacy.consent if key == CONSENT else getattr(cfg, key)))
    text = re.sub(r" All of them: \S+\.rejects\.parquet\.", "", text)
    if all(one.is_whole for one in glimpses.values()):
        return text
    rows = ", ".join(f"{len(one.sample):,} rows of {key}" for key, one in glimpses.items() if key != CONSENT)
    return f"{text} (Found in a sample: {rows}.)"
