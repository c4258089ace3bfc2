"""People leave MLflow: registered models get versions without them, and files of runs that name them go."""

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from recsys.bundle.format import MANIFEST
from recsys.errors import TrackingError
from recsys.export.erase import erase_from_bundle, prove_gone
from recsys.files import hashes
from recsys.privacy.receipt import Change
from recsys.privacy.traces import traces
from recsys.tracking.aliases import hand_over
from recsys.tracking.registry import register_bundle
from recsys.tracking.server import bounded_http, first_line, quiet

REPLACES = "erased_from"
"""Tag of a version: the number of the one that it replaces, so that a second call does not replace it again."""
TIMEOUT = 120
"""Seconds that one request may take: whole bundles travel."""


def erase_from_model(name: str, users: Collection[str], scratch: Path, *, delete: bool) -> list[Change]:
    """Give every version that knows one of the users a successor without them; aliases move to it. Needs an open run.

    Args:
        name: Of the registered model.
        users: Ids as text, and pseudonyms.
        scratch: Folder for copies; they are removed again.
        delete: Whether the old versions and their files are deleted; else they are pending.

    Raises:
        BundleError: A bundle cannot be taken apart.
        TrackingError: The registry refused or could not be reached.
    """
    from mlflow import MlflowClient

    client = MlflowClient()
    with quiet(), bounded_http(retries=3, timeout=TIMEOUT), _asking(name):
        versions = sorted(client.search_model_versions(f"name='{name}'"), key=lambda v: int(v.version))
        if not versions:
            raise TrackingError(f"models: '{name}' has no version; name registered models.")
        successor = {v.tags[REPLACES]: v.version for v in versions if REPLACES in v.tags}
        return [c for v in versions for c in _replace(client, name, v, successor, users, scratch, delete=delete)]


def erase_from_runs(experiment: str, users: Collection[str], scratch: Path) -> Iterator[Change]:
    """Delete the files of runs that name one of the users, and their models that no registered version needs.

    Deleted runs count: MLflow keeps their files. A place that cannot be read is left for :func:`search_runs` to tell.

    Args:
        experiment: Name; one that does not exist has no runs.
        users: Ids as text, and pseudonyms.
        scratch: Folder for copies; they are removed again.

    Raises:
        TrackingError: The server refused or could not be reached.
    """
    from mlflow import MlflowClient
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    client = MlflowClient()
    with quiet(), bounded_http(retries=3, timeout=TIMEOUT), _asking(experiment):
        for place, model_id in _places(client, experiment):
            try:
                local = _download(place, scratch)
            except TrackingError:
                continue
            files = [] if local is None else traces(local, users)
            if local is None or not files:
                continue
            before = _hashes_below(local)
            if model_id is None:
                for file in (Path(file).relative_to(local).as_posix() for file in files):
                    get_artifact_repository(place).delete_artifacts(file)
                    yield Change("run", f"{place}/{file}", "deleted", {file: before[file]}, on_disk=False)
            elif not _versions_of(client, model_id):
                _delete_model(client, model_id)
                yield Change("model", place, "deleted", before, on_disk=False)


def search_runs(
    experiment: str, users: Collection[str], scratch: Path, pending: Collection[str]
) -> tuple[list[str], list[str]]:
    """Return every place of an experiment, and those that still name one of the users or cannot be read.

    Args:
        experiment: Name; one that does not exist has no runs.
        users: Ids as text, and pseudonyms.
        scratch: Folder for copies; they are removed again.
        pending: URIs of versions that may still know them.

    Raises:
        TrackingError: The server refused or could not be reached.
    """
    from mlflow import MlflowClient

    client, searched, left = MlflowClient(), [], []
    with quiet(), bounded_http(retries=3, timeout=TIMEOUT), _asking(experiment):
        for place, model_id in _places(client, experiment):
            searched.append(place)
            versions = [] if model_id is None else _versions_of(client, model_id)
            if versions and set(versions) <= set(pending):
                continue
            try:
                local = _download(place, scratch)
            except TrackingError as error:
                left.append(str(error))
                continue
            left += [place] * bool(local is not None and traces(local, users))
    return searched, left


def _replace(
    client: Any,
    name: str,
    version: Any,
    successor: dict[str, str],
    users: Collection[str],
    scratch: Path,
    *,
    delete: bool,
) -> Iterator[Change]:
    """Yield what was done about one version; nothing where it knows none of the users."""
    uri, number = f"models:/{name}/{version.version}", str(version.version)
    folder = _bundle_of(uri, scratch)
    if folder is None and number not in successor:
        yield Change("model", uri, "pending", {}, on_disk=False)  # its files cannot be had, so nobody can tell
        return
    if folder is not None:
        before = _hashes_below(folder)
        if not erase_from_bundle(folder, users):
            return
        prove_gone(folder, users)
        if number not in successor:
            tags = {key: value for key, value in version.tags.items() if key != REPLACES}
            new, _ = register_bundle(folder, name, tags | {REPLACES: number})
            successor[number] = str(new)
            if version.description:
                client.update_model_version(name, str(new), version.description)
        replaced = f"replaced by models:/{name}/{successor[number]}"
        yield Change("model", uri, replaced, before, _hashes_below(folder), on_disk=False)
    hand_over(client, name, number, successor[number])
    if not delete:
        yield Change("model", uri, "pending", {}, on_disk=False)
        return
    _delete_model(client, str(version.source).removeprefix("models:/"))
    client.delete_model_version(name, number)
    yield Change("model", uri, "deleted", {}, on_disk=False)


def _download(uri: str, scratch: Path) -> Path | None:
    """Copy what lies at a URI; None where the files are gone, as after a call that was killed.

    Raises:
        TrackingError: It cannot be read, so nobody can tell whom it names.
    """
    import mlflow
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        if not get_artifact_repository(uri).list_artifacts(None):
            return None
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(scratch)))
    except Exception as error:  # MLflow raises whatever its stores raise
        if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise TrackingError(f"{uri} (cannot be read: {first_line(error)})") from error


def _bundle_of(uri: str, scratch: Path) -> Path | None:
    try:
        local = _download(uri, scratch)
    except TrackingError:
        return None
    found = [] if local is None else sorted(local.glob(f"data/*/{MANIFEST}"))
    return found[0].parent if found else None


def _hashes_below(folder: Path) -> dict[str, str]:
    return {Path(file).relative_to(folder).as_posix(): digest for file, digest in hashes(folder).items()}


def _delete_model(client: Any, model_id: str) -> None:
    """Delete the files of a logged model and then its record; one that is gone already does no harm."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        place = str(client.get_logged_model(model_id).artifact_location)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return
    get_artifact_repository(place).delete_artifacts()
    client.delete_logged_model(model_id)


def _versions_of(client: Any, model_id: str) -> list[str]:
    found = client.search_model_versions(f"source_path='models:/{model_id}'")
    return [f"models:/{version.name}/{version.version}" for version in found]


def _places(client: Any, experiment: str) -> Iterator[tuple[str, str | None]]:
    """Yield where the files of the runs lie, deleted ones too, and of the logged models with their ids."""
    from mlflow.entities import ViewType

    found = client.get_experiment_by_name(experiment)
    experiments = [] if found is None else [found.experiment_id]
    for run in _pages(partial(client.search_runs, run_view_type=ViewType.ALL), experiments):
        yield str(run.info.artifact_uri), None
    for model in _pages(client.search_logged_models, experiments):
        yield str(model.artifact_location), str(model.model_id)


def _pages(search: Any, experiments: list[str]) -> Iterator[Any]:
    token = None
    while experiments:
        page = search(experiments, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


@contextmanager
def _asking(what: str) -> Iterator[None]:
    """Turn what MLflow raises into a TrackingError that names what was asked for."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise TrackingError(f"'{what}': {first_line(error)}. Put it right and erase again.") from error
