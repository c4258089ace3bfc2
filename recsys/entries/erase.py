"""``recsys erase``: people leave prepared data, runs, bundles and registered models; a receipt says what changed.

list of the erased ─► prepared data ─► runs and bundles ─► registered models, files of runs ─► search ─► receipt

Each artifact is written beside its place and renamed, and the list comes first: after a kill, whatever is prepared
next is already without them, and a second call does the rest.
"""

import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.config.privacy import EraseConfig
from recsys.errors import ConfigError, DataError

if TYPE_CHECKING:
    from recsys.privacy.receipt import Change, Checked

RECEIPT = "receipt.json"
COPIES = ".erasing"
"""Folder, beside the prepared data, of copies that registered models are made of; gone at the end."""


def run(cfg: EraseConfig) -> Path:
    """Erase people, or verify a receipt; return the path of the receipt.

    Raises:
        RecsysError: Something cannot be read, written or reached, or still names one of them at the end; the receipt
            is written in that last case, too.
    """
    from rich.console import Console

    from recsys.privacy.access_log import verify_log
    from recsys.privacy.receipt import verify_receipt, write_receipt

    console = Console()
    if cfg.verify is not None:
        content = verify_receipt(Path(cfg.verify))
        console.print(f"{cfg.verify}: {len(content['changes'])} changes are as they were left", markup=False)
        if cfg.access_log is not None:
            lines = len(verify_log(cfg.access_log, content["access_log_head"]).entries)
            console.print(f"{cfg.access_log}: {lines} lines, each follows the one before", markup=False)
        return Path(cfg.verify)
    named = named_users(str(cfg.users))
    users = named | pseudonyms_of(named, cfg.pseudonym_key)
    people, missing = len(set(named.values())), len(_in_no_folder(cfg, users))
    receipt, changes = Path(cfg.run_dir, RECEIPT), list["Change"]()
    write_receipt(receipt, people, changes, None, None)
    for change in _changes(cfg, named, users):
        console.print(f"{change.kind:<12}{change.action:<12}{change.place}", markup=False, soft_wrap=True)
        changes.append(change)
        write_receipt(receipt, people, changes, None, None)  # so that a kill leaves no change unsaid
    check = _check(cfg, users, [change.place for change in changes if change.action == "pending"], missing)
    write_receipt(receipt, people, changes, check, _note(cfg, people))
    console.print(f"{people} people, {len(changes)} changes\nreceipt     {receipt}", markup=False, soft_wrap=True)
    if missing:
        console.print(
            f"not found   {missing} of {people} people, in no table of cache_dirs, runs and bundles. If no earlier call"
            " erased them, give their ids as the data have them, and pseudonym_key where these are pseudonyms.",
            markup=False,
            soft_wrap=True,
        )
    if check.left:
        raise DataError(
            f"{len(check.left)} places still name people who were to be erased, or cannot be read:"
            f" {', '.join(check.left[:10])}. Delete or edit these files, name their models in models=[...], and erase"
            " again."
        )
    return receipt


def named_users(users: str) -> dict[str, str]:
    """Return ids as text: of a file (.parquet, .csv) with a ``user_id`` column, or with commas between them.

    Returns:
        How each person may be written in the data -> the person. Blanks around an id of a file may be part of it.

    Raises:
        DataError: The file cannot be used, or nobody is named. No message repeats an id.
    """
    import polars as pl

    from recsys.columns import USER_ID
    from recsys.data.dtypes import plain_id
    from recsys.data.files import read_file

    path = Path(users)
    ending = path.suffix.lower()
    if ending not in (".parquet", ".csv"):
        if path.is_file():
            raise DataError(f"users={users}: a file of people ends in .parquet or .csv and has a column {USER_ID}.")
        named = {piece.strip(): piece.strip() for piece in users.split(",") if piece.strip()}
    else:
        ids = read_file("users", users, (USER_ID,), infer_schema=False)[USER_ID]  # as text: 007 stays what it is
        if ending == ".csv" and ids.str.contains(r"^-?\d+\.0$").all():  # as pandas writes integers with a gap
            ids = ids.cast(pl.Float64)
        written = plain_id(ids, f"users={users}").drop_nulls().cast(pl.String)
        named = {form: user.strip() for user in written for form in (user, user.strip())}
    if not named:
        raise DataError("users: nobody is named; give ids with commas between them, or a file with a user_id column.")
    return named


def checkpoints_of(folder: Path, bundles: Collection[Path], users: Collection[str]) -> list[Path]:
    """Return the checkpoints below a folder that may know one of the users.

    They hold a row of weights for everybody and no names, so bundles answer for them: those below the nearest folder
    around a checkpoint that has one directly in it. Where one of these knows a user, or there is none, it may.

    Args:
        folder: Of a run, or of several.
        bundles: Below it.
        users: Ids as text, and pseudonyms.
    """
    from recsys.export.erase import knows

    runs, knowing = {path.parent for path in bundles}, [path for path in bundles if knows(path, users)]
    found = []
    for checkpoint in sorted(folder.rglob("*.ckpt")):
        run_folder = next((parent for parent in checkpoint.parents if parent in runs), None)
        if run_folder is None or any(path.is_relative_to(run_folder) for path in knowing):
            found.append(checkpoint)
    return found


def pseudonyms_of(named: Mapping[str, str], key: str | None) -> dict[str, str]:
    """Return pseudonym -> person for all of :func:`named_users`; none without a key.

    Raises:
        ConfigError: There is no key where it should be.
    """
    from recsys.privacy.pseudonyms import pseudonym, read_key

    if key is None:
        return {}
    secret = read_key(key, "pseudonym_key")
    return {pseudonym(secret, form): person for form, person in named.items()}


def _in_no_folder(cfg: EraseConfig, users: Mapping[str, str]) -> set[str]:
    """Return the people whom no table of the folders names; nobody where there are no folders."""
    from recsys.data.erase import found_in_tables

    places = _folders([*cfg.cache_dirs, *cfg.runs, *cfg.bundles])
    found = {users[form] for place in places for form in found_in_tables(place, users)}
    return set(users.values()) - found if places else set()


def _changes(cfg: EraseConfig, named: Collection[str], users: Collection[str]) -> "Iterator[Change]":
    for cache_dir in _folders(cfg.cache_dirs):
        yield from _from_cache(cache_dir, named, users)
    for folder in _folders(cfg.runs):
        yield from _from_run(folder, users)
    for bundle in _folders(cfg.bundles):
        yield from _from_bundle(bundle, users)
    if cfg.models:
        yield from _from_registry(cfg, users)


def _from_cache(cache_dir: Path, named: Collection[str], users: Collection[str]) -> "Iterator[Change]":
    """Yield what changes in a folder of prepared data; the list of the erased comes first."""
    from recsys.data.erase import clear_cache, erase_from_prepared, prepared_folders
    from recsys.files import hashes
    from recsys.privacy.erased import FILE, add_erased
    from recsys.privacy.receipt import Change

    if not cache_dir.is_dir():
        raise ConfigError(f"cache_dirs: '{cache_dir}' is no folder; name those of prepared data (data.cache_dir).")
    shutil.rmtree(cache_dir / COPIES, ignore_errors=True)
    before = hashes(cache_dir)
    listed = add_erased(cache_dir, named)
    after = hashes(cache_dir / FILE)
    if after.items() - before.items():
        yield Change("list", str(cache_dir / FILE), "rewritten", _of(before, cache_dir / FILE), after)
    for path in clear_cache(cache_dir, users):
        yield Change("rejects", str(path), "rewritten", _of(before, path), hashes(path))
    for folder in prepared_folders(cache_dir):
        earlier = hashes(folder)
        erase_from_prepared(folder, users, listed.digest)
        if hashes(folder) != earlier:
            yield Change("prepared", str(folder), "rewritten", earlier, hashes(folder))


def _from_run(folder: Path, users: Collection[str]) -> "Iterator[Change]":
    """Yield what changes in a run folder, or a folder of them; checkpoints first, as long as the bundles still know."""
    from recsys.data.erase import erase_from_tables
    from recsys.export.erase import finish
    from recsys.files import hashes
    from recsys.privacy.receipt import Change

    if not folder.is_dir():
        raise ConfigError(f"runs: '{folder}' is no folder; name run folders, such as runs/train/TIME.")
    for left in sorted(folder.rglob(".bundle.*")):
        finish(left.parent / "bundle")
    bundles = _bundles(folder)
    for checkpoint in checkpoints_of(folder, bundles, users):
        before = hashes(checkpoint)
        checkpoint.unlink()
        yield Change("checkpoints", str(checkpoint), "deleted", before)
    for bundle in bundles:
        yield from _from_bundle(bundle, users)
    earlier = hashes(folder)
    for path in erase_from_tables(folder, users, skip=bundles):
        yield Change("table", str(path), "rewritten", {str(path): earlier[str(path)]}, hashes(path))


def _from_bundle(folder: Path, users: Collection[str]) -> "Iterator[Change]":
    from recsys.export.erase import erase_from_bundle
    from recsys.files import hashes
    from recsys.privacy.receipt import Change

    before = hashes(folder)
    if erase_from_bundle(folder, users):
        yield Change("bundle", str(folder), "rewritten", before, hashes(folder))


def _from_registry(cfg: EraseConfig, users: Collection[str]) -> "Iterator[Change]":
    """Yield what changes in registered models, and in the files of runs."""
    from recsys.config.schema import TrackingConfig
    from recsys.tracking.erase import erase_from_model, erase_from_runs
    from recsys.tracking.run import start_run

    tracking = TrackingConfig(uri=cfg.tracking_uri, experiment=cfg.tracking_experiment, run_name="erase", model_name="")
    with start_run(tracking, cfg.run_dir):
        for name in cfg.models:
            yield from erase_from_model(name, users, _scratch(cfg), delete=cfg.old_versions == "delete")
        yield from erase_from_runs(cfg.tracking_experiment, users, _scratch(cfg))
    shutil.rmtree(_scratch(cfg), ignore_errors=True)  # before anything is searched


def _check(cfg: EraseConfig, users: Collection[str], pending: list[str], missing: int) -> "Checked":
    """Search every place, and ask every bundle for the people who should be gone."""
    from recsys.export.erase import prove_gone
    from recsys.privacy.receipt import Checked
    from recsys.privacy.traces import traces
    from recsys.tracking.erase import search_runs

    places = _folders([*cfg.cache_dirs, *cfg.runs, *cfg.bundles])
    bundles = sorted({bundle for place in places for bundle in _bundles(place)})
    for bundle in bundles:
        prove_gone(bundle, users)
    searched, left = search_runs(cfg.tracking_experiment, users, _scratch(cfg), pending) if cfg.models else ([], [])
    shutil.rmtree(_scratch(cfg), ignore_errors=True)
    left += [file for place in places for file in traces(place, users)]
    return Checked([*map(str, places), *searched], left, [str(bundle) for bundle in bundles], missing)


def _bundles(folder: Path) -> list[Path]:
    from recsys.bundle.format import MANIFEST, USERS

    return sorted(path.parent for path in folder.rglob(MANIFEST) if (path.parent / USERS).is_file())


def _folders(paths: list[str]) -> list[Path]:
    """Return absolute paths, so that the receipt can be verified from anywhere."""
    return [Path(path).expanduser().resolve() for path in paths]


def _scratch(cfg: EraseConfig) -> Path:
    return Path(cfg.cache_dirs[0] if cfg.cache_dirs else cfg.run_dir, COPIES)


def _note(cfg: EraseConfig, people: int) -> str | None:
    from recsys.privacy.access_log import log_access

    if cfg.access_log is None:
        return None
    read = {"users": ["user_id"]}
    return log_access(cfg.access_log, "erase", columns=read, users=people, purpose="erasure", run=cfg.run_dir)


def _of(found: dict[str, str], path: Path) -> dict[str, str]:
    return {file: digest for file, digest in found.items() if Path(file) == path}
