"""The door to MLflow: one question before a job begins, requests that end within seconds, errors in one line."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from recsys.errors import TrackingError

log = logging.getLogger(__name__)

HTTP_RETRIES = 0
"""How often a request that failed is repeated at once; MLflow's own 7 take minutes. The journal repeats it later."""
HTTP_TIMEOUT = 10
"""Seconds that one request may take."""


def connect(uri: str | None, *, may_be_away: bool = False) -> bool:
    """Point MLflow at ``uri`` (null: its default store), ask it one question, and return whether it answers.

    Args:
        uri: Of the tracking server.
        may_be_away: Then the failure is only told.

    Raises:
        TrackingError: No answer within seconds, or an answer that is no tracking server's.
    """
    import mlflow
    from mlflow.environment_variables import (
        MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR,
        MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT,
    )

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # the console belongs to the job
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)  # the job says itself where its run is
    mlflow.set_tracking_uri(cast("str", uri))  # None takes MLflow's default again
    shown = mlflow.get_tracking_uri()
    try:
        with quiet(), bounded_http(retries=0, timeout=5):
            mlflow.MlflowClient().search_experiments(max_results=1)
    except Exception as error:
        told = f"tracking.uri '{shown}': the tracking server cannot be used ({first_line(error)})."
        if may_be_away:
            log.warning("%s The job begins; `recsys sync` sends what it logs.", told)
            return False
        raise TrackingError(
            f"{told} Start it, correct the URI, set tracking.uri=null for a store on this disk, "
            "tracking.allow_offline=true to send everything later, or tracking.enabled=false."
        ) from error
    return True


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


def first_line(error: BaseException) -> str:
    """Return the first line of what went wrong: of the operating system's error in the chain, if there is one."""
    chain = [error]
    while (earlier := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(earlier)
    told = next((e for e in reversed(chain) if isinstance(e, OSError | ImportError)), error)
    return (str(told).strip() or type(told).__name__).splitlines()[0][:300].rstrip(".")
