"""A tracking store in a real PostgreSQL, which takes less than SQLite does, and is the study's as well."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recsys.config.schema import SyncConfig, TrackingConfig
from recsys.entries.sync import run as sync
from recsys.tracking.journal import Journal
from recsys.tracking.replay import replay
from recsys.tracking.run import start_run
from recsys.tracking.server import connect
from tests.tracking.serving import free_port


@pytest.fixture
def store(postgres: Callable[[str], str]) -> Iterator[str]:
    """The URI of a store in an empty database."""
    import mlflow

    yield postgres("tracking").replace("postgresql://", "postgresql+psycopg://")
    mlflow.set_tracking_uri(None)


@pytest.mark.slow
def test_a_journal_reaches_postgresql_whole_and_once(store: str, tmp_path: Path) -> None:
    import mlflow

    away = TrackingConfig(uri=f"http://127.0.0.1:{free_port()}", allow_offline=True, experiment="shop")
    with start_run(away, tmp_path) as run:
        run.log_params({"nul": "a\0b", "half": "\ud800", "long": "ü" * 10_000, "many": {str(i): i for i in range(230)}})
        for step in range(600):
            run.log_metrics({"loss": step / 2, "nan": math.nan, "inf": -math.inf}, step)
    (place,) = tmp_path.rglob("journal.jsonl")
    connect(store)
    journal = Journal(place.parent)
    assert replay(journal, store) is None
    (place.parent / "sent.json").unlink()  # killed before anything was noted
    journal.close()
    (row,) = sync(SyncConfig([str(tmp_path)], store))
    assert (row.status, row.waiting, row.refused) == ("FINISHED", 0, 0)
    client = mlflow.MlflowClient()
    (found,) = mlflow.search_runs(experiment_names=["shop"], output_format="list")
    history = {key: client.get_metric_history(found.info.run_id, key) for key in ("loss", "nan", "inf")}
    assert sorted((m.step, m.value) for m in history["loss"]) == [(step, step / 2) for step in range(600)]
    assert len(history["nan"]) == len(history["inf"]) == 600
    assert found.data.params["nul"] == "a\ufffdb"
    assert (found.data.params["half"], found.data.params["long"]) == ("?", "ü" * 6000)
    assert len(found.data.params) == 233
