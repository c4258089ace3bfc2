"""People leave prepared data and the tables of runs; each file is written beside its place, then renamed."""

import json
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import polars as pl

from recsys.columns import ITEM_ID, TIMESTAMP, USER_ID
from recsys.data.imputation import refit
from recsys.data.imputation_store import load_imputer, save_imputer
from recsys.data.partitions import PARTS
from recsys.data.prepared import IN_PARTS, META, part_files
from recsys.data.sources import REJECT_REASON, ROW_NUMBER
from recsys.errors import DataError
from recsys.files import remove_leftovers_below, replacing, write_whole
from recsys.privacy.erased import ERASED, as_text


def prepared_folders(cache_dir: Path) -> list[Path]:
    """Return the prepared data sets of a folder, whole or not."""
    return sorted(path.parent for path in cache_dir.glob(f"*/{META}"))


def clear_cache(cache_dir: Path, users: Collection[str]) -> list[Path]:
    """Remove what interrupted runs left, and people from the rejects of refused ones; return the files that changed.

    The slices of partitions go as a whole: they are made again from the source when it is prepared again.

    Raises:
        DataError: A run is writing into the folder just now.
    """
    remove_leftovers_below(cache_dir)
    running = [path for path in cache_dir.glob(".*.*.tmp") if path.is_dir()]
    if running:
        raise DataError(
            f"{running[0]}: another process is preparing data there; wait for it, and erase again. People who are on"
            " the list already stay out of what it prepares next."
        )
    for slices in cache_dir.glob(f"*{PARTS}"):
        shutil.rmtree(slices)
    return [path for path in sorted(cache_dir.glob("*.rejects.parquet")) if _rewrite(path, _rejects(path, users))]


def erase_from_prepared(folder: Path, users: Collection[str], erased_list: str) -> int:
    """Take people out of a prepared data set and return how many of its rows of events went.

    The windows, the features and the fingerprint stay: the folder is still what its settings make of its source, less
    these people, and is used again. What fills missing attributes of users is fitted again, on the others. Calling it
    again after it was killed ends with the same files.

    Args:
        folder: Of the data set.
        users: Ids as text, and pseudonyms.
        erased_list: State of the list of the erased, which the folder now honours.

    Raises:
        DataError: A file cannot be read or written.
    """
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        frames = {name: pl.read_parquet(folder / f"{name}.parquet") for name in ("items", "users", "rejects")}
        parts = {name: part_files(folder, name, meta["parts"]) for name in IN_PARTS}
    except (OSError, ValueError, KeyError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{folder}: not a complete prepared data set ({str(error).strip().splitlines()[0]}); delete the folder."
        ) from error
    kept = {"users": frames["users"].filter(~_is_one_of(frames["users"][USER_ID], users))}
    kept["rejects"] = _rejects(folder / "rejects.parquet", users)
    kept["items"] = frames["items"]
    heights = {name: sum(_without(file, users) for file in files) for name, files in parts.items()}
    if not meta["has_item_table"]:  # items are known from events alone, so they go with their last one
        left = pl.concat([pl.scan_parquet(file).select(ITEM_ID) for file in parts["events"]]).unique().collect()
        kept["items"] = kept["items"].join(left, on=ITEM_ID, how="semi", maintain_order="left")
    for name, frame in kept.items():
        _rewrite(folder / f"{name}.parquet", frame)
    heights |= {name: len(frame) for name, frame in kept.items()}
    # by what the file says, so that a second call counts what the first one took out before it was killed
    gone = {name: meta["heights"][name] - heights[name] for name in meta["heights"]}
    if gone["users"] and "users" in meta["imputed"]:
        _refit_users(folder / "imputation" / "users", kept["users"], parts["events"], meta["windows"]["val_start"])
    if any(gone.values()) or meta["report"].get("erased_list") != erased_list:
        report = meta["report"] | {"erased_list": erased_list}
        lines = gone["events"] + gone["impressions"]
        report["rows"] = report["rows"] | {
            "kept": report["rows"]["kept"] - gone["events"],
            "impressions": report["rows"]["impressions"] - gone["impressions"],
            "rejected": report["rows"]["rejected"] + lines,
        }
        if lines:
            report["rejects"] = report["rejects"] | {ERASED: report["rejects"].get(ERASED, 0) + lines}
        named = tuple(f"lines of {user} (" for user in users)  # accounts over a limit
        report["cleaning"] = [
            finding | {"parts": [part for part in finding["parts"] if not part[0].startswith(named)]}
            for finding in report["cleaning"]
        ]
        if gone["users"]:
            left_out = report.get("users_left_out", {})
            report["users_left_out"] = left_out | {ERASED: left_out.get(ERASED, 0) + gone["users"]}
        meta |= {"report": report, "heights": {name: heights[name] for name in meta["heights"]}}
        write_whole(folder / META, json.dumps(meta, indent=1).encode())
    return int(gone["events"])


def erase_from_tables(folder: Path, users: Collection[str], skip: Collection[Path] = ()) -> list[Path]:
    """Drop the rows of people from every Parquet file below a folder that has a ``user_id``; return those changed.

    What interrupted runs left half done is removed. A broken file stays, for the search to name.

    Args:
        folder: Of a run.
        users: Ids as text, and pseudonyms.
        skip: Folders below it that are left alone.
    """
    remove_leftovers_below(folder)
    changed = []
    for path in sorted(folder.rglob("*.parquet")):
        inside = any(path.is_relative_to(other) for other in skip)
        with suppress(pl.exceptions.PolarsError, OSError):
            if not inside and USER_ID in pl.read_parquet_schema(path):
                frame = pl.read_parquet(path)
                if _rewrite(path, frame.filter(~_is_one_of(frame[USER_ID], users))):
                    changed.append(path)
    return changed


def found_in_tables(folder: Path, users: Collection[str]) -> set[str]:
    """Return which of the users the Parquet files below a folder name in ``user_id``; a broken file names nobody.

    Args:
        folder: Of prepared data, a run or a bundle; one that is not there holds nobody.
        users: Ids as text, and pseudonyms.
    """
    found = set[str]()
    for path in folder.rglob("*.parquet"):
        with suppress(pl.exceptions.PolarsError, OSError):  # who erases from it says what is wrong
            if USER_ID in pl.read_parquet_schema(path):
                ids = as_text(pl.read_parquet(path, columns=[USER_ID])[USER_ID].unique())
                found |= set(ids.filter(ids.is_in(sorted(users))))
    return found


def _refit_users(folder: Path, users: pl.DataFrame, events: Sequence[Path], val_start: str) -> None:
    """Fit what fills missing attributes without those who went: neighbours are rows of people, a group may be one."""
    is_known = pl.col(TIMESTAMP) < datetime.fromisoformat(val_start)
    seen = pl.concat([pl.scan_parquet(file).filter(is_known).select(USER_ID) for file in events]).unique().collect()
    table = users.select(USER_ID, pl.exclude(USER_ID))
    save_imputer(refit(load_imputer(folder), table, seen[USER_ID]), folder)


def _without(path: Path, users: Collection[str]) -> int:
    """Take people out of one file of a table and return how many rows are left."""
    frame = pl.read_parquet(path)
    kept = frame.filter(~_is_one_of(frame[USER_ID], users))
    _rewrite(path, kept)
    return len(kept)


def _rejects(path: Path, users: Collection[str]) -> pl.DataFrame:
    """Return the rejects that name nobody of the users in any column; shifted rows have their ids in a wrong one."""
    frame = pl.read_parquet(path)
    found = pl.repeat(False, len(frame), eager=True)
    for column in frame.drop(ROW_NUMBER, REJECT_REASON):
        found |= _is_one_of(column, users)
    return frame.filter(~found)


def _is_one_of(column: pl.Series, users: Collection[str]) -> pl.Series:
    if column.dtype.is_nested():
        return pl.repeat(False, len(column), eager=True)
    return as_text(column).is_in(sorted(users)).fill_null(False)


def _rewrite(path: Path, frame: pl.DataFrame) -> bool:
    """Write a table beside its place and rename it, if it has fewer rows than the one there; return whether it had."""
    if len(frame) == pl.scan_parquet(path).select(pl.len()).collect().item():
        return False
    with replacing(path, "table without the erased") as temporary:
        frame.write_parquet(temporary)
    return True
