"""``recsys recommend``: the best items for all or given users, from a bundle alone, as parquet."""

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from recsys.bundle.reader import Bundle
from recsys.bundle.requests import DTYPES, Event, Id
from recsys.columns import EVENT_TYPE, ITEM_ID, TIMESTAMP, USER_ID
from recsys.config.schema import RecommendConfig
from recsys.data.files import read_file
from recsys.errors import ConfigError, DataError
from recsys.files import json_bytes, replacing, write_whole

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

PLAN, DONE = "_recommend.json", "_SUCCESS"
"""Files of a folder of parts: what was asked for, and that all of it is there."""
CSV: dict[str, Any] = {"schema_overrides": {USER_ID: pl.String, ITEM_ID: pl.String}, "try_parse_dates": True}
"""How a CSV is read: its ids as text, so that 007 stays what it is."""


def run(cfg: RecommendConfig) -> Path:
    """Write ``user_id, item_id, rank, score`` for every asked user and return the path of the file, or of the folder.

    Users that the bundle does not know get what the model gives to a stranger. A folder gets one part after the other,
    each whole or not at all; started again it goes on behind the parts that are there.

    Raises:
        BundleError: The bundle cannot be used, or ``as_of`` lies before its cut.
        ConfigError: A wrong user id, no time in ``as_of``, or parts of other settings.
        DataError: The file of users or events cannot be used, or the output cannot be written.
        TrackingError: The tracking server cannot be reached.
    """
    from rich.console import Console

    console = Console()
    start = time.perf_counter()
    bundle = load(cfg.bundle, cfg.tracking_uri)
    users = asked_users(cfg.users, bundle)
    known = int(users.is_in(bundle.user_ids.implode()).sum())
    since = fresh_events(cfg, bundle)
    output = Path(cfg.output)
    write = write_file if output.suffix == ".parquet" else write_parts
    try:
        rows = write(cfg, bundle, users, since, output, console)
    except OSError as error:
        raise DataError(
            f"output={output}: cannot be written ({error.strerror or error}); free some space or choose another place."
        ) from error
    strangers = f", {len(users) - known:,} of them unknown to the bundle" if known < len(users) else ""
    short = f", fewer than {cfg.k} where no more items may be shown," if rows < cfg.k * len(users) else ""
    console.print(
        f"{rows:,} rows for {len(users):,} users{strangers}{short} -> {output} ({time.perf_counter() - start:.1f} s, "
        f"bundle {bundle.manifest.fingerprint[:12]})",
        highlight=False,
    )
    return output


@dataclass(frozen=True)
class Since:
    """What users did after the bundle's cut, and when they are answered.

    Attributes:
        events: ``user_id, item_id, timestamp`` and maybe ``event_type``, by user and time; None without a file.
        as_of: Time of all requests; None: the bundle's cut.
    """

    events: pl.DataFrame | None
    as_of: datetime | None

    def histories(self, users: pl.Series) -> list[list[Event] | None] | None:
        """Return the fresh events of users, oldest first; None without a file of events."""
        if self.events is None:
            return None
        found = events_by_user(self.events.filter(pl.col(USER_ID).is_in(users.implode())))
        return [found.get(user) for user in users]


def events_by_user(events: pl.DataFrame) -> dict[Id, list[Event]]:
    """Return what each user did as a bundle is told it: item, time and, where the events have types, the type.

    Args:
        events: ``user_id, item_id, timestamp`` and maybe ``event_type``, in the order of the time.
    """
    kind = pl.col(EVENT_TYPE).cast(pl.String) if EVENT_TYPE in events.columns else pl.lit(None, pl.String)
    told = events.select(USER_ID, ITEM_ID, TIMESTAMP, kind.alias(EVENT_TYPE)).group_by(USER_ID, maintain_order=True)
    return {user: list(zip(*columns, strict=True)) for user, *columns in told.all().iter_rows()}


def write_file(
    cfg: RecommendConfig, bundle: Bundle, users: pl.Series, since: Since, output: Path, console: "Console"
) -> int:
    """Write one file, whole or not at all, in memory that does not grow with the users; returns its rows."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        folder = Path(scratch)
        for number, answer in enumerate(answers(cfg, bundle, users, since, console)):
            answer.write_parquet(folder / f"part-{number:08d}.parquet")
        whole = folder / "whole.parquet"
        pl.scan_parquet(folder / "part-*.parquet").sink_parquet(whole)  # streams: memory stays bounded
        rows = int(pl.scan_parquet(whole).select(pl.len()).collect().item())
        whole.replace(output)
    return rows


def write_parts(
    cfg: RecommendConfig, bundle: Bundle, users: pl.Series, since: Since, output: Path, console: "Console"
) -> int:
    """Write a folder of parts, but for those that are there already; returns the rows of all.

    Raises:
        ConfigError: Those that are there were made with other settings.
    """
    plan = {
        "bundle": bundle.manifest.fingerprint,
        "k": cfg.k,
        "exclude_seen": cfg.exclude_seen,
        "users_a_part": cfg.users_a_part,
        "as_of": since.as_of.isoformat() if since.as_of else bundle.manifest.cut,
        "users": _digest(users.to_frame()),
        "events": None if since.events is None else _digest(since.events),
    }
    if (output / PLAN).is_file():
        before = json.loads((output / PLAN).read_text(encoding="utf-8"))
        other = [f"{key} was {before.get(key)}, is {plan[key]}" for key in plan if before.get(key) != plan[key]]
        if other:
            raise ConfigError(
                f"output={output}: its parts were made with other settings ({'; '.join(other)}); "
                "choose another folder, or delete this one."
            )
    elif output.is_dir() and any(output.iterdir()):
        raise ConfigError(f"output={output}: is a folder of something else; choose another one, or a .parquet file.")
    write_whole(output / PLAN, json_bytes(plan))
    parts = range(0, max(len(users), 1), cfg.users_a_part)
    names = [output / f"part-{number:05d}.parquet" for number in range(len(parts))]
    missing = [place for place, name in enumerate(names) if not name.is_file()]
    if len(missing) < len(names):
        console.print(f"{len(names) - len(missing)} of {len(names)} parts are there already", highlight=False)
    for place in missing:
        some = users.slice(parts[place], cfg.users_a_part)
        answer = pl.concat(answers(cfg, bundle, some, since, console, f"part {place + 1} of {len(names)}"))
        with replacing(names[place], "part") as beside:
            answer.write_parquet(beside)
    write_whole(output / DONE, b"")
    return int(pl.scan_parquet(names).select(pl.len()).collect().item())


def answers(
    cfg: RecommendConfig,
    bundle: Bundle,
    users: pl.Series,
    since: Since,
    console: "Console",
    what: str = "recommending",
) -> Iterator[pl.DataFrame]:
    """Yield the answers to users, one batch after the other, with a progress bar."""
    with progress_of(what, console) as progress:
        bar = progress.add_task("", total=len(users))
        for begin in range(0, max(len(users), 1), cfg.batch_size):
            some = users.slice(begin, cfg.batch_size)
            past = since.histories(some)
            yield bundle.recommend(some, cfg.k, past, cfg.exclude_seen, as_of=since.as_of)
            progress.advance(bar, len(some))


def progress_of(what: str, console: "Console") -> "Progress":
    """Return the bar that says how many users are done, and how long the others will take."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("users"), TimeRemainingColumn()
    return Progress(*columns, console=console)


def fresh_events(cfg: RecommendConfig, bundle: Bundle) -> Since:
    """Read what users did between the bundle's cut and the time that is asked for.

    Raises:
        ConfigError: ``as_of`` is no time with a zone, or ids have the wrong type.
        DataError: The file of events cannot be used.
    """
    as_of = None
    if cfg.as_of is not None:
        try:
            as_of = datetime.fromisoformat(cfg.as_of)
        except ValueError as error:
            raise ConfigError(f"as_of={cfg.as_of}: is no ISO time, such as 2024-05-01T06:00:00+00:00.") from error
        if as_of.tzinfo is None:
            as_of = as_of.replace(tzinfo=UTC)
    if cfg.events is None:
        return Since(None, as_of)
    frame = read_file("events", cfg.events, (USER_ID, ITEM_ID, TIMESTAMP), (EVENT_TYPE,), **CSV)
    ids = {USER_ID: bundle.manifest.user_id_type, ITEM_ID: bundle.manifest.item_id_type}
    frame = frame.with_columns(_typed(frame[name], kind, f"events={cfg.events}") for name, kind in ids.items())
    if not isinstance(frame.schema[TIMESTAMP], pl.Datetime):
        raise DataError(f"events={cfg.events}: column '{TIMESTAMP}' is {frame.schema[TIMESTAMP]}; make it a datetime.")
    time = pl.col(TIMESTAMP).dt.cast_time_unit("us")
    zone = frame.schema[TIMESTAMP].time_zone  # type: ignore[attr-defined]
    utc = time.dt.convert_time_zone("UTC") if zone else time.dt.replace_time_zone("UTC")
    frame = frame.with_columns(utc).filter(pl.col(TIMESTAMP) >= datetime.fromisoformat(bundle.manifest.cut))
    if as_of is None:  # one time for all parts: just after the last event
        last = frame[TIMESTAMP].max()
        as_of = last + timedelta(microseconds=1) if isinstance(last, datetime) else None
    if as_of is not None:
        frame = frame.filter(pl.col(TIMESTAMP) < as_of)
    return Since(frame.sort(USER_ID, TIMESTAMP, ITEM_ID), as_of)


def _digest(frame: pl.DataFrame) -> str:
    """Return what tells one table from another, and from the same rows in another order."""
    return f"{len(frame)} rows, {int(frame.with_row_index().hash_rows(seed=0).sum()):x}"


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
        users: None for every user of the bundle; the id of one that it knows; a file (.parquet or .csv) with a
            ``user_id`` column; or ids with commas between them.
        bundle: Says what type the ids have.
    """
    if users is None:
        return bundle.user_ids
    path = Path(users)
    if (bundle.user_ids.cast(pl.String) == users).any():
        given = pl.Series(USER_ID, [users])  # with a comma or a blank in it, maybe
    elif path.suffix.lower() in (".parquet", ".csv"):
        given = read_file("users", users, (USER_ID,), **CSV)[USER_ID]
    else:
        given = pl.Series(USER_ID, [piece.strip() for piece in str(users).split(",") if piece.strip()], dtype=pl.String)
    if given.is_empty():
        raise DataError(f"users={users}: no user in it; give ids, a file, or users=null for all.")
    return _typed(given, bundle.manifest.user_id_type, f"users={users}").unique(maintain_order=True)


def _typed(ids: pl.Series, kind: str, place: str) -> pl.Series:
    """Return ids in the type of the bundle's.

    Raises:
        ConfigError: Some are missing, or are of another type.
    """
    text = ids.dtype == pl.String and kind == "int"  # in which a column that had gaps may have become floats
    typed = (ids.str.replace(r"\.0+$", "") if text else ids).cast(DTYPES[kind], strict=False)
    cut_off = typed != ids if ids.dtype.is_float() and kind == "int" else False  # 7.5 would become 7, who is another
    wrong = ids.filter(typed.is_null() | cut_off)
    if len(wrong):
        raise ConfigError(
            f"{place}: {len(wrong)} values of {ids.name} are not {kind}, as the bundle's are, such as {wrong[0]!r}."
        )
    return typed
