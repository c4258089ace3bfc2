"""Who serves, in a registry of versions without files: a decision that comes too late."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recsys.errors import TrackingError
from recsys.tracking.aliases import holder, judge

ALIAS = "champion"


@pytest.fixture
def client(new_store: Callable[[Path], str], tmp_path: Path) -> Iterator[Any]:
    """A registry of its own, where ``shop`` has four versions."""
    import mlflow

    mlflow.set_tracking_uri(new_store(tmp_path / "mlflow.db"))
    client = mlflow.MlflowClient()
    client.create_registered_model("shop")
    for number in range(1, 5):
        client.create_model_version("shop", f"{tmp_path}/{number}")
    yield client
    mlflow.set_tracking_uri(None)


def test_a_decision_about_another_champion_is_not_carried_out(client: Any) -> None:
    assert judge("shop", 1, True, "first", ALIAS, None) is None
    assert judge("shop", 2, True, "better", ALIAS, 1) == 1
    for granted in (True, False):
        with pytest.raises(TrackingError, match=r"'champion' was at version 1 and is at 2 now.* Run it again"):
            judge("shop", 3, granted, "compared with 1", ALIAS, 1)
        with pytest.raises(TrackingError, match="was at version none and is at 2 now"):
            judge("shop", 3, granted, "compared with nobody", ALIAS, None)
    assert holder("shop", ALIAS) == 2
    assert client.get_model_version("shop", "3").tags == {}
    assert judge("shop", 2, True, "compared with itself", ALIAS, 2) == 2
    assert client.get_registered_model("shop").tags == {"champion_before": "1"}
