"""``recsys recommend``: the best items for all or given users, from a bundle alone, as parquet."""

import tempfile
import time
from pathlib import Path

import polars as pl

from recsys.bundle.reader import Bundle
from recsys.columns import USER_ID
from recsys.config.schema import RecommendConfig
from recsys.errors import ConfigError, DataError, did_you_mean


def run(cfg: RecommendConfig) -> Path:
    """Write ``user_id, item_id, rank, score`` for every asked user and return the file's path.

    Users that the bundle does not know get what the model gives to a stranger.

    Raises:
        BundleError: The bundle cannot be used.
        ConfigError: ``k`` or ``batch_size`` below 1, or a user id of the wrong type.
        DataError: The file of users cannot be used, or the output cannot be written.
        TrackingError: The tracking server cannot be reached.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    for key in ("k", "batch_size"):
        if getattr(cfg, key) < 1:
            raise ConfigError(f"{key}={getattr(cfg, key)} is below 1; give a whole number of at least 1.")
    console = Console()
    start = time.perf_counter()
    bundle = load(cfg.bundle, cfg.tracking_uri)
    users = asked_users(cfg.users, bundle)
    known = int(users.is_in(bundle.user_ids.implode()).sum())
    output = Path(cfg.output)
    columns = TextColumn("recommending"), BarColumn(), MofNCompleteColumn(), TextColumn("users"), TimeRemainingColumn()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
            folder = Path(scratch)
            with Progress(*columns, console=console) as progress:
                bar = progress.add_task("", total=len(users))
                for number, begin in enumerate(range(0, max(len(users), 1), cfg.batch_size)):
                    some = users.slice(begin, cfg.batch_size)
                    answer = bundle.recommend(some, cfg.k, exclude_seen=cfg.exclude_seen)
                    answer.write_parquet(folder / f"part-{number:08d}.parquet")
                    progress.advance(bar, len(some))
            whole = folder / "whole.parquet"
            pl.scan_parquet(folder / "part-*.parquet").sink_parquet(whole)  # streams: memory stays bounded
            rows = int(pl.scan_parquet(whole).select(pl.len()).collect().item())
            whole.replace(output)
    except OSError as error:
        raise DataError(
            f"output={output}: cannot be written ({error.strerror or error}); free some space or choose another place."
        ) from error
    strangers = f", {len(users) - known:,} of them unknown to the bundle" if known < len(users) else ""
    console.print(
        f"{rows:,} rows for {len(users):,} users{strangers} -> {output} ({time.perf_counter() - start:.1f} s, "
        f"bundle {bundle.manifest.fingerprint[:12]})",
        highlight=False,
    )
    return output


def load(uri: str, tracking_uri: str | None) -> Bundle:
    """Load a bundle from a folder or, asking the tracking server first whether it is there, from the registry."""
    if uri.startswith(("models:/", "runs:/")):
        from recsys.tracking.server import bounded_http, connect

        connect(tracking_uri)
        with bounded_http(timeout=120):
            return Bundle.load(uri)
    return Bundle.load(uri)


def asked_users(users: str | None, bundle: Bundle) -> pl.Series:
    """Return the users to answer, each once, in the order given.

    Args:
        users: None for every user of the bundle; a file (.parquet or .csv) with a ``user_id`` column; or ids
            with commas between them.
        bundle: Says what type the ids have.
    """
    dtype = pl.Int64 if bundle.manifest.user_id_type == "int" else pl.String
    if users is None:
        return bundle.user_ids
    path = Path(users)
    if path.suffix in (".parquet", ".csv"):
        given = _user_column(path)
    else:
        given = pl.Series(USER_ID, [piece.strip() for piece in str(users).split(",") if piece.strip()], dtype=pl.String)
    if given.is_empty():
        raise DataError(f"users={users}: no user in it; give ids, a file, or users=null for all.")
    typed = given.cast(dtype, strict=False)
    wrong = given.filter(typed.is_null())
    if len(wrong):
        raise ConfigError(
            f"users={users}: {len(wrong)} ids are not {bundle.manifest.user_id_type}, as the bundle's are, "
            f"such as {wrong[0]!r}."
        )
    return typed.unique(maintain_order=True)


def _user_column(path: Path) -> pl.Series:
    if not path.is_file():
        raise DataError(f"users={path}: no such file.")
    try:
        frame = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"users={path}: cannot be read as {path.suffix[1:]} ({str(error).splitlines()[0]}).") from error
    if USER_ID not in frame.columns:
        raise DataError(
            f"users={path}: no column '{USER_ID}'; columns: {', '.join(frame.columns)}."
            + did_you_mean(USER_ID, frame.columns)
        )
    return frame[USER_ID]
