"""A real ``mlflow server`` is stopped under runs, started again, and made to hang; ``recsys sync`` does the rest."""

import math
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from recsys.config.schema import SyncConfig, TrackingConfig
from recsys.entries.sync import Synced
from recsys.entries.sync import run as sync
from recsys.errors import TrackingError
from recsys.tracking.run import Run, nested_run, start_run
from recsys.tracking.server import bounded_http
from tests.tracking.serving import Server

STEPS = 12
KILLED = """
import os, signal, sys
from recsys.config.schema import TrackingConfig
from recsys.tracking.run import start_run
with start_run(TrackingConfig(uri=sys.argv[1], allow_offline=True), sys.argv[2]) as run:
    run.log_metrics({"train/loss": 0.5}, 7)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def job(run: Run, folder: Path, at_step: Callable[[int], None] = lambda step: None) -> None:
    """What a fit and its evaluation say, with something that happens at each step."""
    run.log_params({"model": {"width": 64}, "many": {f"key {i}": i for i in range(230)}})
    for step in range(STEPS):
        at_step(step)
        run.log_metrics({"train/loss": 1 / (step + 1), "val/ndcg@20": step / 10}, step)
    with nested_run(run, "trial 0") as child:
        child.log_metrics({"val/ndcg_at_20": 0.25}, 1)
    run.log_tags({"git.commit": "abc"})
    report = folder / "report.txt"
    report.write_text("all of it")
    run.log_file(report, "evaluation")
    report.write_text("changed afterwards")


def told(run_id: str) -> dict[str, Any]:
    """What the server knows of a run, but for its name, its times and what MLflow adds by itself."""
    import mlflow

    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    history = {key: client.get_metric_history(run_id, key) for key in run.data.metrics}
    below = f"tags.mlflow.parentRunId = '{run_id}'"
    children = client.search_runs([run.info.experiment_id], below)
    return {
        "status": run.info.status,
        "params": run.data.params,
        "tags": {key: value for key, value in run.data.tags.items() if not key.startswith(("mlflow.", "recsys."))},
        "metrics": {key: sorted((m.step, m.value) for m in rows) for key, rows in history.items()},
        "report": client.list_artifacts(run_id, "evaluation")
        and mlflow.artifacts.load_text(f"runs:/{run_id}/evaluation/report.txt"),
        "children": [(child.info.run_name, child.info.status, child.data.metrics) for child in children],
    }


@dataclass
class Aftermath:
    """What is to be seen after an outage.

    Attributes:
        tracking: The server.
        undisturbed, disturbed: Ids of a run that had the server all the time, and one that lost it half way.
        begun_without: Folder of a run that began, and failed, while the server was away.
        while_away: What ``recsys sync`` said then.
        rows: What it said once the server was back, by name of the folder.
        left: Journals that are still there.
    """

    tracking: TrackingConfig
    undisturbed: str
    disturbed: str
    while_away: str
    rows: dict[str, Synced]
    left: list[Path]


@pytest.fixture(scope="module")
def aftermath(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Aftermath:
    """Two runs with the same job, the server stopped in the middle of the second; two more while it is away."""
    runs = tmp_path_factory.mktemp("runs")
    tracking = TrackingConfig(uri=server.uri, experiment="shop", model_name="shop")
    with start_run(tracking, runs / "undisturbed") as undisturbed:
        job(undisturbed, runs)
    assert list(runs.rglob("journal.jsonl")) == []

    def stop_half_way(step: int) -> None:
        if step == STEPS // 2:
            assert disturbed.flush() is None
            server.stop()

    with start_run(tracking, runs / "disturbed") as disturbed:
        job(disturbed, runs, stop_half_way)
    ids = [str(undisturbed.run_id), str(disturbed.run_id)]

    def fails() -> None:
        with start_run(replace(tracking, allow_offline=True), runs / "failed") as run:
            assert run.run_id is None
            job(run, runs)
            raise ValueError("too wide")

    with pytest.raises(ValueError, match="too wide"):
        fails()
    killed = subprocess.run([sys.executable, "-c", KILLED, server.uri, str(runs / "killed")], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    with pytest.raises(TrackingError) as error:
        sync(SyncConfig([str(runs)]))
    server.start()
    rows = {row.folder.name: row for row in sync(SyncConfig([str(runs)]))}
    return Aftermath(tracking, *ids, str(error.value), rows, list(runs.rglob("journal.jsonl")))


@pytest.mark.slow
def test_after_an_outage_the_server_knows_the_same(aftermath: Aftermath) -> None:
    expected = told(aftermath.undisturbed)
    assert expected["status"] == "FINISHED"
    assert expected["report"] == "all of it"
    assert expected["children"] == [("trial 0", "FINISHED", {"val/ndcg_at_20": 0.25})]
    assert expected["metrics"]["val/ndcg_20"] == [(step, step / 10) for step in range(STEPS)]
    assert len(expected["params"]) == 231
    assert told(aftermath.disturbed) == expected
    row = aftermath.rows["disturbed"]
    assert (row.status, row.waiting, row.refused) == ("FINISHED", 0, 0)
    assert 0 < row.before < STEPS + 10  # the first half had been sent
    assert aftermath.left == []


def test_sync_says_what_waits_while_the_server_is_away(aftermath: Aftermath) -> None:
    assert "of 3 runs still wait" in aftermath.while_away
    assert "refused" in aftermath.while_away


def test_a_run_that_began_without_the_server_gets_there(aftermath: Aftermath, server: Server) -> None:
    import mlflow

    found = mlflow.MlflowClient(server.uri).search_runs(["1"], "attributes.status = 'FAILED'")
    (failed,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    expected = told(aftermath.undisturbed) | {"status": "FAILED"}
    assert told(failed.info.run_id) == expected
    assert failed.info.start_time < failed.info.end_time
    assert aftermath.rows["failed"].status == "FAILED"


def test_a_run_whose_process_was_killed_is_closed(aftermath: Aftermath, server: Server) -> None:
    import mlflow

    assert aftermath.rows["killed"].status == "KILLED"
    client = mlflow.MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("recsys")
    assert experiment is not None
    (killed,) = client.search_runs([experiment.experiment_id])
    assert killed.info.status == "KILLED"
    assert killed.data.metrics == {"train/loss": 0.5}
    assert killed.info.end_time - killed.info.start_time < 60_000  # when it ended, not when that was found


def test_a_server_that_hangs_is_waited_for_by_nobody(aftermath: Aftermath, server: Server, tmp_path: Path) -> None:
    """What it took in while it hung, and what was sent again because it did not answer, is there once."""
    with start_run(aftermath.tracking, tmp_path) as run, bounded_http(timeout=1):
        assert run.flush() is None
        server.send(signal.SIGSTOP)
        try:
            for step in range(500):  # minutes, if each waited for the server
                run.log_metrics({"train/loss": step / 2}, step)
            reason = run.flush()
        finally:
            server.send(signal.SIGCONT)
        assert reason is not None
        assert "timed out" in reason
        assert run.flush() is None
    assert told(str(run.run_id))["metrics"] == {"train/loss": [(step, step / 2) for step in range(500)]}
    assert told(str(run.run_id))["status"] == "FINISHED"
    assert list(tmp_path.iterdir()) == []


def test_names_and_values_that_a_server_would_refuse(aftermath: Aftermath, tmp_path: Path) -> None:
    with start_run(aftermath.tracking, tmp_path) as run:
        run.log_params({"long": "ü" * 10_000, "nul": "a\0b", "half": "\ud800", "a//b@": 1, "": 2})
        run.log_params({"wide": {f"k{i}": "日" * 6000 for i in range(60)}})
        run.log_metrics({"recall@20": 0.1, "recall_20": 0.2, "recall#20": 0.3, "x" * 300: 0.4}, 3)
        run.log_metrics({"recall@20": 0.5}, 4)
        run.log_metrics({"nan": math.nan, "inf": math.inf}, 1)
        run.log_tags({"why?": "y" * 10_000})
    found = told(str(run.run_id))
    assert found["params"]["long"] == "ü" * 6000
    assert (found["params"]["a/b_"], found["params"]["_"], found["params"]["half"]) == ("1", "2", "?")
    assert sum(key.startswith("wide.") for key in found["params"]) == 60
    assert found["metrics"]["recall_20"] == [(3, 0.1), (4, 0.5)]
    assert sorted(rows[0][1] for key, rows in found["metrics"].items() if key.startswith("recall_20_")) == [0.2, 0.3]
    assert found["metrics"]["x" * 250] == [(3, 0.4)]
    assert math.isnan(found["metrics"]["nan"][0][1])
    assert found["metrics"]["inf"][0][1] > 1e308
    assert found["tags"]["why_"] == "y" * 6000
    assert list(tmp_path.iterdir()) == []
