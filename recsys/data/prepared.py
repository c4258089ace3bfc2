"""The prepared data set: tables in, one folder out, keyed by a hash of content and config and reused ever after."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from recsys.columns import USER_ID
from recsys.config.data import DataConfig
from recsys.data.build import Built, build_whole, writing
from recsys.data.content import content_digest
from recsys.data.guard import hide, meaning
from recsys.data.imputation import Imputer
from recsys.data.imputation_store import load_imputer, save_imputer
from recsys.data.infer import write_features
from recsys.data.partitions import Partitions, clear_after, number_of_parts
from recsys.data.sources import ROW_NUMBER, resolve
from recsys.data.split import Windows
from recsys.errors import DataError
from recsys.features import FeatureSpec
from recsys.files import folder_beside, take_place
from recsys.privacy.erased import load_erased

FORMAT_VERSION = 3
"""Raised whenever the same input would be prepared in another way; older folders are then not reused."""

IN_PARTS = ("events", "impressions")
_WHOLE = ("items", "users", "rejects")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A clean data set on disk and in memory.

    Attributes:
        path: Its folder.
        fingerprint: Hash of input content, config and format version; 32 hex digits.
        event_parts: The events; all those of a user are in one part. More parts than one stay on the disk.
        events: All of them, read when first asked for: user_id, item_id, timestamp (UTC, microseconds), then
            event_type, basket_id, quantity, value and context columns where given, and the weight of the event's type
            where any is set; sorted by user, time, item. Ids are Int64 or String, as they came.
        items: ``item_id`` and attributes (Int64, Float64 or String), unique, sorted; covers every item of the events.
        users: ``user_id`` and attributes, likewise.
        impression_parts: Likewise.
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
    event_parts: tuple[pl.LazyFrame, ...]
    items: pl.DataFrame
    users: pl.DataFrame
    impression_parts: tuple[pl.LazyFrame, ...]
    windows: Windows
    spec: FeatureSpec
    has_item_table: bool
    relevant: tuple[str, ...]
    report: dict[str, Any]
    users_at: Callable[[int], pl.DataFrame] | None = None
    imputers: dict[str, Imputer] = field(default_factory=dict)

    @cached_property
    def events(self) -> pl.DataFrame:
        """See above."""
        return _by_user(self.event_parts)

    @cached_property
    def impressions(self) -> pl.DataFrame:
        """See above."""
        return _by_user(self.impression_parts)

    def with_events(self, events: pl.DataFrame) -> "Prepared":
        """Return the data set with other events, in the same order."""
        return replace(self, event_parts=(events.lazy(),))

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
    resolved, fingerprint, folder = place_for(cfg)
    done = _reused(resolved, fingerprint, folder)
    if done is not None:
        return done
    n_parts = number_of_parts(resolved)
    if n_parts == 1:
        return _keep(build_whole(resolved, rejects_file(folder)), resolved, fingerprint, folder)
    partitions = Partitions(resolved, fingerprint, n_parts)
    with partitions.progress():
        partitions.split()
        for number in range(n_parts):
            partitions.clean(number)
        prepared = _keep(partitions.merge(rejects_file(folder)), resolved, fingerprint, folder)
    partitions.clear()
    return prepared


def prepare_step(cfg: DataConfig, step: str) -> Prepared | None:
    """Do one step of preparing in partitions, so that a cluster can do them side by side; what is done is passed over.

    Args:
        cfg: With ``partitions`` above 1, or ``memory_gib``.
        step: ``split``, the number of a partition from 0, or ``merge``, which returns the data set.

    Raises:
        ConfigError: A value of the config that is not legal, or no such step.
        DataError: As :func:`prepare`, or the steps before this one are not done.
    """
    resolved, fingerprint, folder = place_for(cfg)
    partitions = Partitions(resolved, fingerprint, number_of_parts(resolved))
    partitions.require(step)
    done = _reused(resolved, fingerprint, folder)
    if done is not None:
        return done if step == "merge" else None
    with partitions.progress():
        if step == "split":
            partitions.split()
        elif step != "merge":
            partitions.clean(int(step))
        else:
            done = _keep(partitions.merge(rejects_file(folder)), resolved, fingerprint, folder)
            partitions.clear()
    return done


def rejects_file(folder: Path) -> Path:
    """Return where the rejects of a data set are written that was refused for them."""
    return folder.with_name(f"{folder.name}.rejects.parquet")


def load_prepared(path: str | Path, lazy: bool = False) -> Prepared:
    """Load a prepared folder; with ``lazy`` events stay on the disk until they are asked for.

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
        tables = {name: pl.read_parquet(folder / f"{name}.parquet") for name in _WHOLE}
        parts = {name: _open_parts(part_files(folder, name, meta["parts"]), lazy) for name in IN_PARTS}
        imputers = {name: load_imputer(folder / "imputation" / name) for name in meta["imputed"]}
        heights = {name: len(frame) for name, frame in tables.items()}
        heights |= {name: sum(map(_height, frames)) for name, frames in parts.items()}
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
        event_parts=parts["events"],
        items=tables["items"],
        users=tables["users"],
        impression_parts=parts["impressions"],
        windows=Windows(**{f.name: datetime.fromisoformat(meta["windows"][f.name]) for f in fields(Windows)}),
        spec=FeatureSpec.from_list(meta["features"]),
        has_item_table=meta["has_item_table"],
        relevant=tuple(meta["relevant"]),
        report=meta["report"],
        imputers=imputers,
    )


def part_files(folder: Path, name: str, parts: int) -> list[Path]:
    """Return the files of a table that may come in parts."""
    if parts == 1:
        return [folder / f"{name}.parquet"]
    return [folder / name / f"part-{number:04}.parquet" for number in range(parts)]


def place_for(cfg: DataConfig) -> tuple[DataConfig, str, Path]:
    """Return the resolved config, the hash of content and meaning, and the folder of what is made of both."""
    resolved = resolve(cfg)
    fingerprint = _fingerprint(resolved)
    return resolved, fingerprint, Path(cfg.cache_dir).expanduser() / f"{cfg.name}-{fingerprint[:12]}"


def _open_parts(files: Sequence[Path], lazy: bool) -> tuple[pl.LazyFrame, ...]:
    """Open a table: what is one file fitted into memory when it was made, and is read."""
    if len(files) == 1 and not lazy:
        return (pl.read_parquet(files[0]).lazy(),)
    return tuple(map(pl.scan_parquet, files))


def _reused(cfg: DataConfig, fingerprint: str, folder: Path) -> Prepared | None:
    """Return what an earlier call has made, if it is whole and nobody has been erased since."""
    if not folder.is_dir():
        return None
    try:
        prepared = load_prepared(folder)
    except DataError as error:
        _log.warning("%s Preparing it again.", error)
        return None
    if prepared.report.get("erased_list") != load_erased(folder.parent).digest:
        _log.info("%s holds people who have been erased since; preparing it again", folder)
        shutil.rmtree(folder)
        return None
    _log.info("reusing prepared data %s", folder)
    clear_after(cfg, fingerprint)
    return prepared


def _by_user(parts: Sequence[pl.LazyFrame]) -> pl.DataFrame:
    frames = [part.collect() for part in parts]
    return frames[0] if len(frames) == 1 else pl.concat(frames).sort(USER_ID, maintain_order=True)


def _height(frame: pl.LazyFrame) -> int:
    return int(frame.select(pl.len()).collect().item())


def _fingerprint(cfg: DataConfig) -> str:
    """Hash content and meaning; where files lie, where the result goes and what is computed of it later is no part."""
    left_out = ("events", "items", "users", "cache_dir", "sessions", "partitions", "memory_gib")
    settings = {k: v for k, v in asdict(cfg).items() if k not in left_out} | {"privacy": meaning(cfg)}
    text = json.dumps([FORMAT_VERSION, content_digest(cfg), settings], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _keep(built: Built, cfg: DataConfig, fingerprint: str, folder: Path) -> Prepared:
    with writing(folder.parent), folder_beside(folder) as temporary:
        _write(built, cfg, fingerprint, temporary)
        _move(temporary, folder)
    _log.info("prepared data written to %s", folder)
    return load_prepared(folder)


def _write(built: Built, cfg: DataConfig, fingerprint: str, folder: Path) -> None:
    made, rows = built.made, built.made.report["rows"]
    rejects = hide(pl.concat([part.rejects for part in built.parts]).collect().sort(ROW_NUMBER), cfg)
    tables = {"items": made.items, "users": made.users, "rejects": rejects}
    for name, frame in tables.items():
        frame.write_parquet(folder / f"{name}.parquet")
    for name in IN_PARTS:
        files = part_files(folder, name, len(built.parts))
        files[0].parent.mkdir(exist_ok=True)
        for part, file in zip(built.parts, files, strict=True):
            part.put(name, file)
    for name, imputer in made.imputers.items():
        save_imputer(imputer, folder / "imputation" / name)
    write_features(made.spec, made.report["skipped_columns"], folder / "features.yaml")
    heights = {"events": rows["kept"], "items": len(made.items), "users": len(made.users)}
    meta = {
        "format": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "windows": {k: v.isoformat() for k, v in asdict(built.windows).items()},
        "features": made.spec.to_list(),
        "has_item_table": built.has_item_table,
        "relevant": list(cfg.relevant),
        "imputed": list(made.imputers),
        "parts": len(built.parts),
        "heights": {**heights, "impressions": rows["impressions"], "rejects": len(rejects)},
        "report": made.report,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


def _move(temporary: Path, folder: Path) -> None:
    """Put the finished folder in its place; an incomplete one gives way, a complete one of a parallel run stays."""
    if not take_place(temporary, folder):
        try:
            load_prepared(folder)
        except DataError:
            shutil.rmtree(folder)
            temporary.rename(folder)
