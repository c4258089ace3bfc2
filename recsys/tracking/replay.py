"""What waits in a journal goes to the tracking server, in order; used while a run goes on, and by ``recsys sync``.

Sent twice is sent once: the server keeps equal metrics (name, time, step, value) once, parameters and tags are set to
what they are, and runs and versions are looked for by a tag of ours before they are made.
"""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recsys.errors import BundleError
from recsys.tracking.journal import Entry, Journal
from recsys.tracking.server import bounded_http, first_line

KEY_TAG, VERSION_TAG = "recsys.run_key", "bundle_fingerprint"
"""Tags by which a run, or a version, is known again that was made without anybody noting it."""
MAX_METRICS = 500
"""In one request; MLflow takes 1,000 of them, but only a million bytes."""
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
"""Codes of MLflow for what is wrong with an entry itself, not with the server."""


def replay(journal: Journal, uri: str, stopped: threading.Event | None = None) -> str | None:
    """Send everything that waits; return why something still does, or None. Raises nothing that the server does.

    An entry that is refused for what it is, such as a parameter that has another value already, is set aside. A file
    or a bundle that cannot be stored while the server takes everything else is put off: metrics do not wait for it.

    Args:
        journal: Locked by this process, and in the hands of nobody else.
        uri: Of the tracking server.
        stopped: Once it is set, no further request begins.
    """
    from mlflow import MlflowClient

    try:
        client, put_off = MlflowClient(uri), None
        for entry in list(journal.later):
            reason = _send(client, journal, [entry])
            put_off = put_off or reason
            if reason is None:
                journal.later.remove(entry)
                journal.advance()
        for group, end in _groups(journal):
            if stopped is not None and stopped.is_set():
                return "the job has ended"
            reason = _send(client, journal, group)
            put_off = put_off or reason
            if reason is not None:
                journal.later += group
            journal.advance(end)
    except Exception as error:  # whatever the server, the network or the disk does, the entries stay
        return first_line(error)
    return put_off


def finish(journal: Journal, uri: str) -> str:
    """Close as KILLED what a process could not close, and return the status that the first run has now.

    Args:
        journal: Of a process that has ended.
        uri: Of the tracking server.

    Raises:
        Exception: Whatever the server does.
    """
    from mlflow import MlflowClient

    client, found = MlflowClient(uri), []
    for run_id in journal.runs.values():
        status = client.get_run(run_id).info.status
        if status == "RUNNING" and not any(journal.waiting()):
            client.set_terminated(run_id, status := "KILLED", journal.last_written())
        found.append(status)
    return found[0] if found else "?"


def _groups(journal: Journal) -> Iterator[tuple[list[Entry], int]]:
    """Yield what one request can take, and where it ends: metrics of a run that follow each other, else one entry."""
    group: list[Entry] = []
    rows = end = 0
    for entry, place in journal.waiting():
        size = len(entry["values"]) if entry["kind"] == "metrics" else MAX_METRICS
        if group and (rows + size > MAX_METRICS or entry["run"] != group[0]["run"]):
            yield group, end
            group, rows = [], 0
        group.append(entry)
        rows, end = rows + size, place
    if group:
        yield group, end


def _send(client: Any, journal: Journal, group: list[Entry]) -> str | None:
    """Send entries of one kind and run; return None when that is settled, else why they have to be put off.

    Raises:
        Exception: The server cannot be reached, or takes nothing.
    """
    kind, run = group[0]["kind"], group[0]["run"]
    try:
        _SENDERS[kind](client, journal, group)
    except Exception as error:
        if kind == "open" or not _is_active(client, journal.runs.get(run)):
            raise
        if not _is_refusal(error):
            if kind in ("file", "model"):
                return first_line(error)
            raise
        singles = [{**e, "values": {k: v}} for e in group for k, v in e.get("values", {}).items()]
        if len(singles) < 2:
            journal.refuse(group[0], first_line(error))
            return None
        for single in singles:  # one of them is at fault
            _send(client, journal, [single])
    return None


def _is_active(client: Any, run_id: str | None) -> bool:
    """Ask for the run: an answer shows that the server is there, and that the run has not been deleted."""
    return run_id is not None and client.get_run(run_id).info.lifecycle_stage == "active"


def _is_refusal(error: BaseException | None) -> bool:
    """Tell whether sending it again cannot help."""
    from mlflow.exceptions import MlflowException

    if error is None or isinstance(error, MlflowException):
        return error is not None and error.error_code in REFUSALS
    return isinstance(error, BundleError | FileNotFoundError) or _is_refusal(error.__cause__)


def _open(client: Any, journal: Journal, group: list[Entry]) -> None:
    """Give a run its id: the one it has, that of an earlier attempt, or a new one."""
    (entry,) = group
    if entry["run_id"] is None:
        experiment = _experiment(client, entry["experiment"])
        found = client.search_runs([experiment], f"tags.`{KEY_TAG}` = '{entry['run']}'", max_results=1)
        tags = {**entry["tags"], KEY_TAG: entry["run"]}
        if entry["parent"]:
            tags["mlflow.parentRunId"] = journal.runs[entry["parent"]]
        if not found:
            found = [client.create_run(experiment, entry["time"], tags, entry["name"])]
        entry["run_id"] = found[0].info.run_id
    journal.runs[entry["run"]] = entry["run_id"]


def _experiment(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    return str(client.create_experiment(name) if found is None else found.experiment_id)


def _metrics(client: Any, journal: Journal, group: list[Entry]) -> None:
    from mlflow.entities import Metric

    rows = [Metric(k, v, entry["time"], entry["step"]) for entry in group for k, v in entry["values"].items()]
    client.log_batch(journal.runs[group[0]["run"]], metrics=rows)


def _params(client: Any, journal: Journal, group: list[Entry]) -> None:
    from mlflow.entities import Param

    (entry,) = group
    client.log_batch(journal.runs[entry["run"]], params=[Param(k, v) for k, v in entry["values"].items()])


def _tags(client: Any, journal: Journal, group: list[Entry]) -> None:
    from mlflow.entities import RunTag

    (entry,) = group
    client.log_batch(journal.runs[entry["run"]], tags=[RunTag(k, v) for k, v in entry["values"].items()])


def _file(client: Any, journal: Journal, group: list[Entry]) -> None:
    (entry,) = group
    path = journal.folder / entry["path"]
    if not path.exists():
        raise FileNotFoundError(f"{path} is gone")
    send = client.log_artifacts if path.is_dir() else client.log_artifact
    send(journal.runs[entry["run"]], str(path), entry["folder"])


def _model(client: Any, journal: Journal, group: list[Entry]) -> None:
    """Register a bundle as a version, or find the one that an earlier attempt has made of it."""
    from recsys.bundle.format import read_manifest
    from recsys.tracking.registry import register_bundle

    (entry,) = group
    folder, name, run_id = journal.folder / entry["path"], entry["name"], journal.runs[entry["run"]]
    fingerprint = read_manifest(Path(folder)).fingerprint
    with bounded_http(timeout=5):
        versions = client.search_model_versions(f"name = '{name}'")
    made = [v.version for v in versions if v.run_id == run_id and v.tags.get(VERSION_TAG) == fingerprint]
    if made:
        journal.models[entry["key"]] = f"models:/{name}/{made[0]}"
    else:
        journal.models[entry["key"]] = register_bundle(folder, name, {VERSION_TAG: fingerprint}, run_id)[1]


def _status(client: Any, journal: Journal, group: list[Entry]) -> None:
    (entry,) = group
    client.set_terminated(journal.runs[entry["run"]], entry["status"], entry["time"])


_SENDERS = {
    "open": _open,
    "metrics": _metrics,
    "params": _params,
    "tags": _tags,
    "file": _file,
    "model": _model,
    "status": _status,
}
"""What to do with the entries of a kind."""
