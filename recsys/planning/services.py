"""Whether tracking and the storage of studies answer; nothing is made there."""

import re
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recsys.config.schema import TrackingConfig
from recsys.errors import TrackingError
from recsys.planning.places import folder_problem


def tracking_problem(tracking: TrackingConfig) -> str | None:
    """Return why a run could not be tracked, if it could not; a store on the disk that is not there yet is not made.

    Raises:
        TrackingError: The server does not answer, although it has to, or is none.
    """
    if not tracking.enabled:
        return None
    import mlflow

    from recsys.tracking.server import connect

    place = store_place(tracking)
    if place is not None and not place.exists():
        return folder_problem("tracking.uri", str(place), of_file=True)
    if not connect(tracking.uri, may_be_away=tracking.allow_offline):
        return None
    experiment = mlflow.MlflowClient().get_experiment_by_name(tracking.experiment)
    if experiment is not None and experiment.lifecycle_stage == "deleted":
        return (
            f"tracking.experiment={tracking.experiment}: this experiment has been deleted; restore it, or give another "
            "name."
        )
    return None


def store_place(tracking: TrackingConfig) -> Path | None:
    """Return the file or folder of a store on this disk; None for a server."""
    import mlflow

    uri = tracking.uri
    if uri is None:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # MLflow's own default again
        uri = mlflow.get_tracking_uri()
    scheme, _, rest = uri.partition("://")
    if not rest:
        return Path(uri)
    if scheme == "sqlite":
        return Path(rest.removeprefix("/"))
    return Path(rest) if scheme == "file" else None


def storage_problems(url: str, study: str, settings: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield why studies could not be kept in a storage, or the study not be gone on with.

    Args:
        url: ``sqlite:///FILE``, ``journal:///FILE`` or ``postgresql://USER@HOST/DATABASE``.
        study: Name.
        settings: What all its trials will have in common; None where that is not known.

    Raises:
        TrackingError: The storage does not answer, or is none.
        ConfigError: The study has been made with other settings.
    """
    place = storage_place(url)
    if place is None:
        _ask(url)
        return
    problem = folder_problem("storage", str(place), of_file=True)
    if problem is not None:
        yield problem
        return
    if not place.exists():
        return
    if url.startswith("sqlite"):
        _refuse_no_database(url, place)
    if settings is not None:
        _refuse_other_study(url, study, settings)


def storage_place(url: str) -> Path | None:
    """Return the file of a storage on this disk; None for a server."""
    return None if url.startswith("postgresql") else Path(url.partition(":///")[2])


def _refuse_no_database(url: str, place: Path) -> None:
    try:
        base = sqlite3.connect(f"{place.absolute().as_uri()}?mode=ro", uri=True)
        try:
            base.execute("SELECT name FROM sqlite_master").fetchall()
        finally:
            base.close()
    except sqlite3.Error as error:
        raise TrackingError(
            f"storage={url}: the file is no SQLite database ({error}); remove it, or take storage=sqlite:///FILE with "
            "another file."
        ) from error


def _refuse_other_study(url: str, study: str, settings: Mapping[str, Any]) -> None:
    import optuna

    from recsys.tuning.study import quiet, refuse_other_settings, storage_at

    with quiet(), storage_at(url) as storage:
        try:
            known = optuna.load_study(study_name=study, storage=storage)
        except KeyError:  # a new one
            return
        refuse_other_settings(known, settings)


def _ask(url: str) -> None:
    """Ask a database one question, once."""
    import sqlalchemy as sql

    try:
        engine = sql.create_engine(url, connect_args={"connect_timeout": 3})
        try:
            with engine.connect() as connection:
                connection.execute(sql.text("SELECT 1"))
        finally:
            engine.dispose()
    except (sql.exc.SQLAlchemyError, ImportError, OSError) as error:
        text = re.sub(r"\s+", " ", str(error.__cause__ or error))[:200]
        raise TrackingError(
            f"storage={url}: the database does not answer ({text}). Start the server, correct the URL, or take "
            "storage=sqlite:///tune.db."
        ) from error
