"""Who serves, in a registry of versions without files: a decision that comes too late, and the way back."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recsys.errors import TrackingError
from recsys.tracking.aliases import hand_over, holder, judge, restore

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


def test_the_way_back_leads_to_the_version_that_took_the_place_of_another(client: Any) -> None:
    judge("shop", 1, True, "first", ALIAS, None)
    judge("shop", 2, True, "better", ALIAS, 1)
    client.set_registered_model_tag("shop", "1", "the best before it")
    for _ in range(2):  # a second call does no harm
        hand_over(client, "shop", "1", "3")
        hand_over(client, "shop", "2", "4")
    assert client.get_registered_model("shop").tags == {"champion_before": "3", "1": "the best before it"}
    assert restore("shop", ALIAS) == (4, 3)
    assert holder("shop", ALIAS) == 3


def test_who_has_the_alias_already_is_no_way_back(client: Any) -> None:
    judge("shop", 1, True, "first", ALIAS, None)
    judge("shop", 2, True, "better", ALIAS, 1)
    client.set_registered_model_alias("shop", ALIAS, "1")  # by hand
    with pytest.raises(TrackingError, match="before version 1, so there is nothing to go back to"):
        restore("shop", ALIAS)
    assert client.get_model_version("shop", "1").tags["promotion"] == "granted"
    judge("shop", 3, True, "better still", ALIAS, 1)
    assert restore("shop", ALIAS) == (3, 1)
