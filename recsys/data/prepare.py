"""Tables in, one prepared folder out, keyed by a hash of content and config and reused ever after."""

import hashlib
import json
import logging
import shutil
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import polars as pl

from recsys.config.data import DataConfig
from recsys.data.build import Built, build_whole, writing
from recsys.data.content import content_digest
from recsys.data.guard import hide, meaning
from recsys.data.imputation_store import save_imputer
from recsys.data.infer import write_features
from recsys.data.partitions import Partitions, clear_after, number_of_parts
from recsys.data.prepared import FORMAT_VERSION, IN_PARTS, META, Prepared, load_prepared, part_files
from recsys.data.sources import ROW_NUMBER, resolve
from recsys.data.spill import Spill
from recsys.errors import DataError
from recsys.files import folder_beside, one_at_a_time, take_place
from recsys.privacy.erased import load_erased

_log = logging.getLogger(__name__)


def prepare(cfg: DataConfig) -> Prepared:
    """Validate, clean and split the tables, or load what an earlier call made of the same content and config.

    The folder ``cache_dir/NAME-HASH`` is written beside its place and renamed, so it is whole or not there.

    Raises:
        ConfigError: A value of the config that is not legal.
        DataError: Input that cannot be used, or an output folder that cannot be written.
    """
    prepared = _prepare(cfg)
    if cfg.log == "memory":
        return prepared
    return replace(load_prepared(prepared.path, lazy=True), spill=Spill(prepared.path.parent))


def _prepare(cfg: DataConfig) -> Prepared:
    resolved, fingerprint, folder = place_for(cfg)
    done = _reused(resolved, fingerprint, folder)
    if done is not None:
        return done
    n_parts = number_of_parts(resolved)
    if n_parts == 1:
        return _keep(build_whole(resolved, rejects_file(folder)), resolved, fingerprint, folder)
    partitions = Partitions(resolved, fingerprint, n_parts)
    with ExitStack() as stack:
        with writing(partitions.root):
            stack.enter_context(one_at_a_time(partitions.root))  # the processes of a distributed run begin together
        return _reused(resolved, fingerprint, folder) or _in_parts(partitions, resolved, fingerprint, folder)


def _in_parts(partitions: Partitions, cfg: DataConfig, fingerprint: str, folder: Path) -> Prepared:
    with partitions.progress():
        partitions.split()
        for number in range(partitions.parts):
            partitions.clean(number)
        prepared = _keep(partitions.merge(rejects_file(folder)), cfg, fingerprint, folder)
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


def place_for(cfg: DataConfig) -> tuple[DataConfig, str, Path]:
    """Return the resolved config, the hash of content and meaning, and the folder of what is made of both."""
    resolved = resolve(cfg)
    fingerprint = _fingerprint(resolved)
    return resolved, fingerprint, Path(cfg.cache_dir).expanduser() / f"{cfg.name}-{fingerprint[:12]}"


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


def _fingerprint(cfg: DataConfig) -> str:
    """Hash content and meaning; where files lie, where the result goes and what is computed of it later is no part."""
    left_out = ("events", "items", "users", "cache_dir", "sessions", "partitions", "memory_gib", "log")
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
    (folder / META).write_text(json.dumps(meta, indent=1), encoding="utf-8")


def _move(temporary: Path, folder: Path) -> None:
    """Put the finished folder in its place; an incomplete one gives way, a complete one of a parallel run stays."""
    if not take_place(temporary, folder):
        try:
            load_prepared(folder)
        except DataError:
            shutil.rmtree(folder)
            temporary.rename(folder)
