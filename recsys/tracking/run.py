"""One MLflow run around one job: opened within seconds or refused, closed with the status that is true.

What is logged in between goes to a journal on this disk, and from there to the server, in a thread of its own. So a
server that is slow, away, or refuses, costs the job nothing: what waits when the job ends is for ``recsys sync``.
"""

import logging
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import uuid4

from recsys.config.schema import TrackingConfig
from recsys.errors import TrackingError
from recsys.tracking.journal import FOLDER, Journal
from recsys.tracking.names import Names, flatten, in_batches, legal_value
from recsys.tracking.sender import Sender
from recsys.tracking.server import bounded_http, connect, first_line

log = logging.getLogger(__name__)

CLOSE_SECONDS = 30.0
"""That the end of a job waits for what has not been sent yet."""
REGISTER_SECONDS = 900.0
"""That it waits for a bundle to be registered: many gigabytes may travel. A server that is away is known earlier."""


class Run:
    """What a job may say about itself; without a sender (tracking off, or not rank 0) it says nothing.

    No method waits for the server but :meth:`flush` and :meth:`register`, and none raises when it fails.

    Attributes:
        key: Its name in the journal.
        experiment: That it is in.
        goes_on: Whether an earlier process has opened it, and has logged its parameters, which MLflow never changes.
    """

    def __init__(self, sender: Sender | None = None, experiment: str = "", goes_on: bool = False) -> None:
        self.key = uuid4().hex
        self.experiment = experiment
        self.goes_on = goes_on
        self._sender = sender
        self._names = {kind: Names() for kind in ("params", "metrics", "tags")}

    @property
    def run_id(self) -> str | None:
        """The id that the server has given; None where it has not yet, or tracking is off."""
        return self._sender.journal.runs.get(self.key) if self._sender else None

    @property
    def uri(self) -> str:
        """The tracking server; empty where tracking is off."""
        return self._sender.uri if self._sender else ""

    @property
    def place(self) -> str:
        """Where the run is to be found, for people."""
        if self._sender is None:
            return "tracking is off"
        return (
            f"{self.run_id} at {self.uri}"
            if self.run_id
            else f"waits for `recsys sync` in {self._sender.journal.folder.parent}"
        )

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log a (nested) configuration as flat ``a.b.c`` parameters; long values are cut at 6,000 characters."""
        self._rows("params", {k: legal_value(v) for k, v in flatten(params).items()})

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log numbers at ``step``; characters that MLflow refuses in a name become ``_``."""
        self._rows("metrics", {k: float(v) for k, v in metrics.items()}, step=int(step))

    def log_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags, such as the git commit or the fingerprint of the data."""
        self._rows("tags", {k: legal_value(v) for k, v in tags.items()})

    def log_file(self, path: str | Path, folder: str | None = None) -> None:
        """Upload one file, or a folder with everything in it, as it is now."""
        if self._sender is None:
            return
        try:
            copied = self._sender.journal.copy(Path(path))
        except OSError as error:
            log.warning("%s: cannot be kept for the tracking server (%s); the job goes on without.", path, error)
            return
        self._say("file", path=copied, folder=folder)

    def register(self, bundle: Path, model_name: str) -> str | None:
        """Register a bundle as a version; return ``models:/NAME/VERSION``, or None where that waits, or is off.

        Args:
            bundle: Its folder, which stays where it is: it is not copied.
            model_name: To register it under.
        """
        if self._sender is None:
            return None
        journal = self._sender.journal
        place = bundle.absolute()
        if place.is_relative_to(journal.folder.parents[1].absolute()):  # so that a run folder can be moved as a whole
            place = Path("..", "..", place.relative_to(journal.folder.parents[1].absolute()))
        key = self._say("model", path=str(place), name=model_name)
        reason = self.flush(REGISTER_SECONDS)
        if key not in journal.models:
            why = f"{reason}; `recsys sync` does it later" if reason else "refused for good, see above"
            log.warning("model '%s' is not registered (%s); the bundle is whole: %s.", model_name, why, bundle)
        return journal.models.get(key)

    def flush(self, seconds: float = CLOSE_SECONDS) -> str | None:
        """Wait until the server has everything, or for so long; return why something still waits, or None."""
        return self._sender.flush(seconds) if self._sender else None

    def close(self, status: str) -> None:
        """Say how the run ended: FINISHED, FAILED or KILLED."""
        self._say("status", status=status)

    def _below(self, name: str) -> "Run":
        """Return a run below this one; it is opened when its turn comes."""
        child = Run(self._sender, self.experiment)
        child._say("open", run_id=None, parent=self.key, experiment=self.experiment, name=name, tags={})
        return child

    def _rows(self, kind: str, rows: Mapping[str, Any], **content: Any) -> None:
        legal = {self._names[kind](name): value for name, value in rows.items()}
        for values in in_batches(legal):
            self._say(kind, values=values, **content)

    def _say(self, kind: str, **content: Any) -> str:
        if self._sender is None:
            return ""
        key = self._sender.journal.append(kind, self.key, **content)
        self._sender.wake()
        return key


def is_first_process() -> bool:
    """Whether this process has rank 0 among those that a launcher (Lightning, torchrun, Slurm) has started."""
    # This import reads the rank from the launcher's variables; that of lightning_utilities alone does not.
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) == 0


@contextmanager
def start_run(tracking: TrackingConfig, folder: str | Path, run_id: str | None = None) -> Iterator[Run]:
    """Open an MLflow run, and close it as FINISHED, FAILED (any error) or KILLED (interrupt, SIGTERM, exit).

    A null ``tracking.uri`` takes MLflow's default store. Only the process of rank 0 opens a run; the
    others, and a job with tracking off, get a silent :class:`Run`.

    Args:
        tracking: Where, and under which name.
        folder: Of the job; what waits for the server waits below it.
        run_id: Of a run to go on with, which other processes may have open as well; None: a new one.

    Raises:
        TrackingError: The server cannot be reached or refuses; known within seconds. With
            ``tracking.allow_offline`` the job begins nevertheless.
    """
    if not tracking.enabled or not is_first_process():
        yield Run()
        return
    with bounded_http(), _sigterm_as_exit():
        run = _open(tracking, Path(folder) / FOLDER, run_id)
        with _closing(partial(_close, run)):
            yield run


@contextmanager
def nested_run(parent: Run, name: str) -> Iterator[Run]:
    """Open a run below another one and close it as :func:`start_run` does.

    Args:
        parent: The open run.
        name: That MLflow shows.
    """
    child = parent._below(name)
    with _closing(child.close):
        yield child


@contextmanager
def _closing(close: Callable[[str], object]) -> Iterator[None]:
    """Call ``close`` at the end of the block with the status that the block has earned."""
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        status = "KILLED"
        raise
    finally:
        close(status)


def _open(tracking: TrackingConfig, folder: Path, run_id: str | None) -> Run:
    import mlflow
    from mlflow.tracking.context.registry import resolve_tags

    journal = Journal.begin(folder)
    try:
        is_there = connect(tracking.uri, may_be_away=tracking.allow_offline)
        opened = _begin(tracking, run_id) if is_there else None
    except TrackingError:
        journal.discard()
        journal.close()
        raise
    uri = mlflow.get_tracking_uri()
    run = Run(Sender(journal, uri), tracking.experiment, goes_on=run_id is not None)
    tags = resolve_tags(dict(tracking.tags))
    found, name = opened or run_id, tracking.run_name
    run._say("open", run_id=found, parent=None, experiment=run.experiment, name=name, tags=tags, uri=_absolute(uri))
    if opened:
        run.flush()
    return run


def _begin(tracking: TrackingConfig, run_id: str | None) -> str:
    """Open the run at the server, and as MLflow's own active run, for callbacks that use it."""
    import mlflow

    uri = mlflow.get_tracking_uri()
    try:
        mlflow.set_experiment(tracking.experiment)
        name = None if run_id else tracking.run_name
        opened = mlflow.start_run(run_id, run_name=name, tags=dict(tracking.tags), log_system_metrics=False)
    except Exception as error:
        raise TrackingError(
            f"tracking.uri '{uri}': no run could be opened in experiment '{tracking.experiment}' ({first_line(error)})."
        ) from error
    return str(opened.info.run_id)


def _close(run: Run, status: str) -> None:
    import mlflow

    sender = run._sender
    assert sender is not None
    run.close(status)
    sender.journal.force()
    reason = run.flush()
    waiting, folder = sender.journal.count(), sender.journal.folder
    sender.stop()
    with suppress(Exception), bounded_http(timeout=2):
        mlflow.end_run(status)  # forgets that the run is active; that it has ended is in the journal
    if reason:
        log.warning(
            "tracking server %s: %s. %d entries wait in %s; once it is back: recsys sync runs=[%s]",
            run.uri, reason, waiting, folder, folder.parents[1],
        )  # fmt: skip


def _absolute(uri: str) -> str:
    """Return the address of a store so that it can be found from any folder."""
    relative = re.fullmatch(r"(sqlite(?:\+\w+)?:///)([^/].*)", uri)
    return f"{relative[1]}{Path(relative[2]).absolute()}" if relative and relative[2] != ":memory:" else uri


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Within it, SIGTERM ends the process by an exit that closes the run, where nothing else takes it already."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
