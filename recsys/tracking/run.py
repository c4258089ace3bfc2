"""One MLflow run around one job: opened within seconds or refused, closed with the status that is true.

What is logged in between is a courtesy to the reader of the run, so an outage there never ends the job:
the first failure is reported, and the server is left alone for a while before it is asked again.
"""

import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from recsys.config.schema import TrackingConfig
from recsys.errors import TrackingError

log = logging.getLogger(__name__)

HTTP_RETRIES = 1
"""How often a request that failed is repeated; MLflow's own 7 take minutes."""
HTTP_TIMEOUT = 10
"""Seconds that one request may take."""
QUIET_SECONDS = 60.0
"""After a failed call nothing is sent for so long, so that an outage does not slow the job down."""
MAX_KEY, MAX_VALUE, MAX_BATCH = 250, 6000, 100
"""MLflow's limits: characters of a name, characters of a parameter's value, entries of one request."""


class Run:
    """What a job may say about itself; without an id (tracking off, or not rank 0) it says nothing.

    No method raises when the server fails.
    """

    def __init__(self, run_id: str | None = None, uri: str = "", experiment_id: str = "") -> None:
        self.run_id = run_id
        self.uri = uri
        self.experiment_id = experiment_id
        self._quiet_until = 0.0

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log a (nested) configuration as flat ``a.b.c`` parameters; long values are cut at 6,000 characters."""
        from mlflow.entities import Param

        rows = [Param(legal_name(k), str(v)[:MAX_VALUE]) for k, v in flatten(params).items()]
        self._in_batches("params", rows)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log numbers at ``step``; characters that MLflow refuses in a name become ``_``."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._in_batches("metrics", [Metric(legal_name(k), float(v), now, step) for k, v in metrics.items()])

    def log_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags, such as the git commit or the fingerprint of the data."""
        from mlflow.entities import RunTag

        self._in_batches("tags", [RunTag(legal_name(k), str(v)[:MAX_VALUE]) for k, v in tags.items()])

    def log_file(self, path: str | Path, folder: str | None = None) -> None:
        """Upload one file, or a folder with everything in it."""
        send = "log_artifacts" if Path(path).is_dir() else "log_artifact"
        self._send(lambda client: getattr(client, send)(self.run_id, str(path), folder))

    def _in_batches(self, kind: str, rows: list[Any]) -> None:
        for start in range(0, len(rows), MAX_BATCH):
            batch = {kind: rows[start : start + MAX_BATCH]}
            self._send(partial(_log_batch, self.run_id, batch))

    def _send(self, call: Callable[[Any], Any]) -> None:
        """Call MLflow; on failure warn and stay quiet for a while."""
        if self.run_id is None or time.monotonic() < self._quiet_until:
            return
        from mlflow import MlflowClient

        try:
            call(MlflowClient(self.uri))
        except Exception as error:  # whatever the server, the network or the disk does, the job goes on
            self._quiet_until = time.monotonic() + QUIET_SECONDS
            log.warning(
                "tracking server %s failed (%s); the run goes on, nothing is logged for %d s.",
                self.uri, first_line(error), int(QUIET_SECONDS),
            )  # fmt: skip


def _log_batch(run_id: str | None, batch: dict[str, list[Any]], client: Any) -> None:
    client.log_batch(run_id, **batch)


def is_first_process() -> bool:
    """Whether this process has rank 0 among those that a launcher (Lightning, torchrun, Slurm) has started."""
    # This import reads the rank from the launcher's variables; that of lightning_utilities alone does not.
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) == 0


@contextmanager
def start_run(tracking: TrackingConfig, run_id: str | None = None) -> Iterator[Run]:
    """Open an MLflow run, and close it as FINISHED, FAILED (any error) or KILLED (interrupt, exit).

    A null ``tracking.uri`` takes MLflow's default store. Only the process of rank 0 opens a run; the
    others, and a job with tracking off, get a silent :class:`Run`.

    Args:
        tracking: Where, and under which name.
        run_id: Of a run to go on with, which other processes may have open as well; None: a new one.

    Raises:
        TrackingError: The server cannot be reached or refuses; known within seconds.
    """
    if not tracking.enabled or not is_first_process():
        yield Run()
        return
    with bounded_http():
        run = _open(tracking, run_id)
        status = "FAILED"
        try:
            yield run
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            status = "KILLED"
            raise
        finally:
            _close(run, status)


def _open(tracking: TrackingConfig, run_id: str | None) -> Run:
    import mlflow

    connect(tracking.uri)
    uri = mlflow.get_tracking_uri()
    try:
        experiment = mlflow.set_experiment(tracking.experiment)
        name = None if run_id else tracking.run_name
        opened = mlflow.start_run(run_id, run_name=name, tags=dict(tracking.tags), log_system_metrics=False)
    except Exception as error:
        raise TrackingError(
            f"tracking.uri '{uri}': no run could be opened in experiment '{tracking.experiment}' ({first_line(error)})."
        ) from error
    return Run(opened.info.run_id, uri, experiment.experiment_id)


@contextmanager
def nested_run(parent: Run, name: str) -> Iterator[Run]:
    """Open a run below another one and close it as :func:`start_run` does; a server that is away makes it silent.

    Args:
        parent: The open run.
        name: That MLflow shows.
    """
    child = Run(None, parent.uri, parent.experiment_id)
    status = "FAILED"

    def create(client: Any) -> None:
        tags = {"mlflow.parentRunId": parent.run_id}
        child.run_id = client.create_run(parent.experiment_id, run_name=name, tags=tags).info.run_id

    parent._send(create)
    try:
        yield child
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        status = "KILLED"
        raise
    finally:
        child._send(lambda client: client.set_terminated(child.run_id, status))


def _close(run: Run, status: str) -> None:
    import mlflow

    try:
        mlflow.end_run(status)
    except Exception as error:  # the work is done; a server that is away must not undo it
        log.warning("tracking server %s failed (%s); run %s is not closed.", run.uri, first_line(error), run.run_id)


def connect(uri: str | None) -> None:
    """Point MLflow at ``uri`` (null: its default store) and ask it one question.

    Raises:
        TrackingError: No answer within seconds, or an answer that is no tracking server's.
    """
    import mlflow
    from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # the console belongs to the job
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
    mlflow.set_tracking_uri(cast("str", uri))  # None takes MLflow's default again
    shown = mlflow.get_tracking_uri()
    try:
        with quiet(), bounded_http(retries=0, timeout=5):
            mlflow.MlflowClient().search_experiments(max_results=1)
    except Exception as error:
        raise TrackingError(
            f"tracking.uri '{shown}': the tracking server cannot be used ({first_line(error)}). "
            "Start it, correct the URI, set tracking.uri=null for a store on this disk, or tracking.enabled=false."
        ) from error


@contextmanager
def bounded_http(retries: int = HTTP_RETRIES, timeout: int = HTTP_TIMEOUT) -> Iterator[None]:
    """Within it, an MLflow request fails after ``(retries + 1) * timeout`` seconds at most."""
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

    bounds = ((MLFLOW_HTTP_REQUEST_MAX_RETRIES, retries), (MLFLOW_HTTP_REQUEST_TIMEOUT, timeout))
    before = [(knob, knob.get_raw()) for knob, _ in bounds]
    for knob, value in bounds:
        knob.set(value)
    try:
        yield
    finally:
        for knob, old in before:
            knob.unset() if old is None else knob.set(old)


@contextmanager
def quiet() -> Iterator[None]:
    """Within it, what MLflow warns about its own insides is not shown; nobody here can act on it."""
    with warnings.catch_warnings():
        for message in (
            r"The ``noload`` loader",
            r"Operation with range is deprecated",
            r".*Any type hint is inferred",
        ):
            warnings.filterwarnings("ignore", message=message)
        yield


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return ``{"a.b": value}`` for nested mappings; lists stay one value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat


def legal_name(name: str) -> str:
    """Return ``name`` as MLflow takes it: letters, digits, ``_ - . : / `` and blanks, 250 characters at most."""
    return re.sub(r"[^\w\-./: ]", "_", name)[:MAX_KEY]


def first_line(error: BaseException) -> str:
    """Return the first line of what went wrong: of the operating system's error in the chain, if there is one."""
    chain = [error]
    while (earlier := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(earlier)
    told = next((e for e in reversed(chain) if isinstance(e, OSError | ImportError)), error)
    return (str(told).strip() or type(told).__name__).splitlines()[0][:300].rstrip(".")
