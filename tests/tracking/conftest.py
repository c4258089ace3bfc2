"""An MLflow store in a temporary folder, and a server process that tests stop and start."""

from collections.abc import Iterator

import pytest

from recsys.config.schema import TrackingConfig
from tests.tracking.serving import Server, free_port


@pytest.fixture(scope="session")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingConfig]:
    """The configuration of a run; one store for all tests, since making its tables takes seconds."""
    import mlflow

    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    yield TrackingConfig(uri=uri, experiment="shop", run_name="night", model_name="shop", tags={"team": "blue"})
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that answers when a test begins."""
    import mlflow

    made = Server(tmp_path_factory.mktemp("server"), free_port())
    made.start()
    yield made
    made.stop()
    mlflow.set_tracking_uri(None)
