"""An MLflow store in a temporary folder."""

from collections.abc import Iterator

import pytest

from recsys.config.schema import TrackingConfig


@pytest.fixture(scope="session")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingConfig]:
    """The configuration of a run; one store for all tests, since making its tables takes seconds."""
    import mlflow

    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    yield TrackingConfig(uri=uri, experiment="shop", run_name="night", model_name="shop", tags={"team": "blue"})
    mlflow.set_tracking_uri(None)
