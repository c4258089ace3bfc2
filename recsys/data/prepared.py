"""The prepared data set: tables in, one folder out, keyed by a hash of content and config and reused ever after."""

import errno
import hashlib
import json
import logging
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from recsys.columns import ITEM_ID, TIMESTAMP, USER_ID
from recsys.config.schema import DataConfig
from recsys.data.clean import side_table
from recsys.data.cleaning.event_types import leave_out
from recsys.data.cleaning.items import clean_items, typed_items
from recsys.data.cleaning.rules import all_rejects, clean_events, finish, settle
from recsys.data.cleaning.shifted import straighten
from recsys.data.cleaning.time_zones import zones_found
from recsys.data.guard import guard, hide, meaning
from recsys.data.imputation import Imputer, imputation_facts, impute_tables
from recsys.data.imputation_store import load_imputer, save_imputer
from recsys.data.infer import declared_spec, infer_spec, write_features
from recsys.data.sources import content_digest, read_tables, resolve
from recsys.data.split import Windows, before_end, find_windows, require_events
from recsys.data.validate import Checked, check_events, refuse_rejects
from recsys.errors import DataError
from recsys.features import FeatureSpec
from recsys.files import beside
from recsys.privacy.erased import load_erased

FORMAT_VERSION = 2
"""Raised whenever the same input would be prepared in another way; older folders are then not reused."""

_TABLES = ("events", "items", "users", "impressions", "rejects")
_STALE_SECONDS = 86_400
_NODE = platform.node()
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A clean data set on disk and in memory.

    Attributes:
        path: Its folder.
        fingerprint: Hash of input content, config and format version; 32 hex digits.
        events: user_id, item_id, timestamp (UTC, microseconds), then event_type, basket_id, quantity, value and
            context columns where given, and the weight of the event's type where any is set; sorted by user, time,
            item. Ids are Int64 or String, as they came.
        items: ``item_id`` and attributes (Int64, Float64 or String), unique, sorted; covers every item of the events.
        users: ``user_id`` and attributes, likewise.
        impressions: What was shown, once each, with the columns of the events; no part of anybody's history.
        windows: Half-open UTC windows.
        spec: The features, declared or inferred.
        has_item_table: False when items are known only from events; an item can then be recommended as of a cut
            only if an event before it has it.
        relevant: Event types that count as positives; empty: all.
        report: What happened to the rows on the way, JSON data.
        users_at: Attributes that depend on the time, such as segments: cut in microseconds to what ``users`` is as
            of then, the same rows with further columns. None: users are what they are.
        imputers: What filled missing attributes, by ``items`` and ``users``; empty where nothing was asked for.
    """

    path: Path
    fingerprint: str
    events: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame
    impressions: pl.DataFrame
    windows: Windows
    spec: FeatureSpec
    has_item_table: bool
    relevant: tuple[str, ...]
    report: dict[str, Any]
    users_at: Callable[[int], pl.DataFrame] | None = None
    imputers: dict[str, Imputer] = field(default_factory=dict)

    def users_as_of(self, cut: int) -> pl.DataFrame:
        """Return the users with their attributes as of a cut, microseconds since 1970 UTC."""
        return self.users if self.users_at is None else self.users_at(cut)


def prepare(cfg: DataConfig) -> Prepared:
    """Validate, clean and split the tables, or load what an earlier call made of the same content and config.

    The folder ``cache_dir/NAME-HASH`` is written beside its place and renamed, so it is whole or not there.

    Raises:
        ConfigError: A value of the config that is not legal.
        DataError: Input that cannot be used, or an output folder that cannot be written.
    """
    resolved = resolve(cfg)
    fingerprint = _fingerprint(resolved)
    folder = Path(cfg.cache_dir).expanduser() / f"{cfg.name}-{fingerprint[:12]}"
    if folder.is_dir():
        try:
            prepared = load_prepared(folder)
        except DataError as error:
            _log.warning("%s Preparing it again.", error)
        else:
            if prepared.report.get("erased_list") == load_erased(folder.parent).digest:
                _log.info("reusing prepared data %s", folder)
                return prepared
            _log.info("%s holds people who have been erased since; preparing it again", folder)
            shutil.rmtree(folder)
    prepared, rejects = _build(resolved, folder, fingerprint)
    with _writing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder.parent, folder.name)
        owner = f".{folder.name}.{_NODE}.{os.getpid()}."
        temporary = Path(tempfile.mkdtemp(prefix=owner, suffix=".tmp", dir=folder.parent))
        try:
            _write(prepared, rejects, temporary)
            temporary.chmod(0o755)  # mkdtemp's folder is private, a shared cache is not
            _move(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    _log.info("prepared data written to %s", folder)
    return load_prepared(folder)


def load_prepared(path: str | Path) -> Prepared:
    """Load a prepared folder.

    Raises:
        DataError: The folder is missing, incomplete or of another format version.
    """
    folder = Path(path)
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["format"] != FORMAT_VERSION:
            raise DataError(
                f"{folder}: prepared data of format {meta['format']}, this version reads {FORMAT_VERSION};"
                " run `recsys prepare` again."
            )
        tables = {name: pl.read_parquet(folder / f"{name}.parquet") for name in _TABLES}
        imputers = {name: load_imputer(folder / "imputation" / name) for name in meta["imputed"]}
        heights = {name: len(frame) for name, frame in tables.items()}
        if heights != meta["heights"]:
            raise DataError(f"{folder}: row counts {heights} differ from {meta['heights']} as written.")
    except (OSError, ValueError, KeyError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{folder}: not a complete prepared data set ({str(error).strip().splitlines()[0]}); delete the folder and"
            " run `recsys prepare`."
        ) from error
    return Prepared(
        path=folder,
        fingerprint=meta["fingerprint"],
        events=tables["events"],
        items=tables["items"],
        users=tables["users"],
        impressions=tables["impressions"],
        windows=Windows(**{f.name: datetime.fromisoformat(meta["windows"][f.name]) for f in fields(Windows)}),
        spec=FeatureSpec.from_list(meta["features"]),
        has_item_table=meta["has_item_table"],
        relevant=tuple(meta["relevant"]),
        report=meta["report"],
        imputers=imputers,
    )


def _fingerprint(cfg: DataConfig) -> str:
    """Hash content and meaning; where files lie, where the result goes and what is computed of it later is no part."""
    left_out = ("events", "items", "users", "cache_dir", "sessions")
    settings = {k: v for k, v in asdict(cfg).items() if k not in left_out} | {"privacy": meaning(cfg)}
    text = json.dumps([FORMAT_VERSION, content_digest(cfg), settings], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _build(cfg: DataConfig, folder: Path, fingerprint: str) -> tuple[Prepared, pl.DataFrame]:
    """Return what is to be written, and the rejects."""
    tables = read_tables(cfg)
    straight = straighten(tables.events, cfg.cleaning.shifted)
    source, left_out, left_out_findings = leave_out(straight.events, cfg, f"data.events={cfg.events}")
    everything = check_events(source, cfg)
    guarded = guard(everything, tables, cfg)
    checked = guarded.checked
    _refuse(checked, cfg, folder.with_name(f"{folder.name}.rejects.parquet"))
    used = before_end(checked.events, cfg.split)
    catalogue = typed_items(tables.items, used, f"data.items={cfg.items}")
    cleaned = clean_events(used, catalogue, cfg, straight.repaired)
    windows = find_windows(cleaned.events, cfg.split)
    settled = settle(cleaned, windows, cfg)
    require_events(settled.events, windows)
    clean = finish(settled.events)
    events = clean.drop(tables.attributes).select(USER_ID, ITEM_ID, TIMESTAMP, pl.exclude(USER_ID, ITEM_ID, TIMESTAMP))
    items, item_counts, item_findings = clean_items(catalogue, clean, tables.attributes, windows, cfg)
    users, user_counts = side_table(guarded.users, USER_ID, events, f"data.users={cfg.users}")
    items, users, imputers = impute_tables(cfg.imputation, items, users, events, windows)
    has_item_table = tables.items is not None
    if cfg.features is None:
        spec, unused = infer_spec(events, items, users, tables.context, windows, has_item_table)
    else:
        spec, unused = declared_spec(cfg.features, events, items, users), {}
    rejects, reasons = all_rejects(
        everything.rejects, straight.rejected, left_out, settled.rejects, source=tables.events
    )
    reasons |= guarded.reasons
    rows = {
        "read": len(tables.events),
        "kept": len(events),
        "duplicates": settled.duplicates,
        "after_end": len(checked.events) - len(used),
        "impressions": len(settled.impressions),
        "rejected": sum(reasons.values()),
    }
    if rows["read"] != sum(rows.values()) - rows["read"]:
        raise AssertionError(f"rows were lost: {rows}, {reasons}")
    findings = [*straight.findings, *left_out_findings, *zones_found(source), *settled.findings, *item_findings]
    report = {
        "name": cfg.name,
        "rows": rows,
        "rejects": reasons,
        "cleaning": [asdict(finding) for finding in findings],
        "items": item_counts,
        "users": user_counts,
        "skipped_columns": tables.skipped | unused,
        "features": "inferred" if cfg.features is None else "declared",
        "imputation": imputation_facts(imputers),
        **guarded.facts,
    }
    prepared = Prepared(
        path=folder,
        fingerprint=fingerprint,
        events=events,
        items=items,
        users=users,
        impressions=settled.impressions.drop(tables.attributes),
        windows=windows,
        spec=spec,
        has_item_table=has_item_table,
        relevant=tuple(cfg.relevant),
        report=report,
        imputers=imputers,
    )
    return prepared, hide(rejects, cfg)


def _refuse(checked: Checked, cfg: DataConfig, path: Path) -> None:
    """Stop on too many rejects; they are written first, so that the message can point at them."""
    try:
        refuse_rejects(checked, cfg, path)
    except DataError:
        with _writing(path.parent), beside(path) as temporary:
            checked.rejects.write_parquet(temporary)
        raise


def _write(prepared: Prepared, rejects: pl.DataFrame, folder: Path) -> None:
    tables = {name: getattr(prepared, name) for name in _TABLES if name != "rejects"} | {"rejects": rejects}
    for name, frame in tables.items():
        frame.write_parquet(folder / f"{name}.parquet")
    for name, imputer in prepared.imputers.items():
        save_imputer(imputer, folder / "imputation" / name)
    write_features(prepared.spec, prepared.report["skipped_columns"], folder / "features.yaml")
    meta = {
        "format": FORMAT_VERSION,
        "fingerprint": prepared.fingerprint,
        "windows": {k: v.isoformat() for k, v in asdict(prepared.windows).items()},
        "features": prepared.spec.to_list(),
        "has_item_table": prepared.has_item_table,
        "relevant": list(prepared.relevant),
        "imputed": list(prepared.imputers),
        "heights": {name: len(frame) for name, frame in tables.items()},
        "report": prepared.report,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


def _move(temporary: Path, folder: Path) -> None:
    """Put the finished folder in its place; an incomplete one gives way, a complete one of a parallel run stays."""
    try:
        temporary.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        try:
            load_prepared(folder)
        except DataError:
            shutil.rmtree(folder)
            temporary.rename(folder)


def remove_leftovers(cache_dir: Path, name: str) -> None:
    """Remove temporary folders of interrupted runs: their process on this node is gone, or they are a day old.

    Args:
        cache_dir: Where prepared data sets lie.
        name: Of the data set that the run was to write; a glob.
    """
    for left in cache_dir.glob(f".{name}.*.tmp"):
        owner, process, _, _ = left.name.rsplit(".", 3)
        is_ours = owner.endswith(f".{_NODE}") and process.isdigit()
        if (is_ours and not _is_running(int(process))) or time.time() - left.stat().st_mtime > _STALE_SECONDS:
            _log.info("removing %s, left by an interrupted run", left)
            shutil.rmtree(left, ignore_errors=True)


def _is_running(process: int) -> bool:
    """Tell whether another process of this number exists; our own has made no folder yet."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{place}: prepared data cannot be written: {error}. Free some space there, or set data.cache_dir to a"
            " folder that can be written."
        ) from error
