"""An MLflow store in a temporary folder, and a server process that tests stop and start."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recsys.config.schema import TrackingConfig
from tests.tracking.serving import Server, free_port


@pytest.fixture(scope="session")
def tracking(new_store: Callable[[Path], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingConfig]:
    """The configuration of a run, with one store for all tests."""
    import mlflow

    uri = new_store(tmp_path_factory.mktemp("tracking") / "mlflow.db")
    yield TrackingConfig(uri=uri, experiment="shop", run_name="night", model_name="shop", tags={"team": "blue"})
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def server(new_store: Callable[[Path], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that answers when a test begins."""
    import mlflow

    folder = tmp_path_factory.mktemp("server")
    made = Server(folder, free_port(), new_store(folder / "m.db"))
    made.start()
    yield made
    made.stop()
    mlflow.set_tracking_uri(None)
