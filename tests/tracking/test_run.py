"""Runs end with the status that is true, and a server that is away costs seconds, not the job."""

import math
import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from recsys.config.schema import TrackingConfig
from recsys.errors import TrackingError
from recsys.tracking.environment import environment, git_state
from recsys.tracking.run import Run, nested_run, start_run
from recsys.tracking.server import bounded_http


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def default_store(tracking: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrackingConfig:
    """No URI, in an empty folder."""
    import mlflow

    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return replace(tracking, uri=None)


def test_what_is_logged_is_in_the_default_store(default_store: TrackingConfig, tmp_path: Path) -> None:
    import mlflow

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inner.txt").write_text("inner")
    (tmp_path / "config.json").write_text("{}")
    with start_run(default_store, tmp_path) as run:
        run.log_params({"model": {"width": 64, "hidden": [128]}, "long": "x" * 10_000, "empty": {}})
        run.log_params({f"key_{i}": i for i in range(250)})
        run.log_metrics({"val/ndcg_at_20": 0.25, "val/recall@20": math.nan}, step=3)
        run.log_tags({"git.commit": "abc"})
        run.log_file(tmp_path / "config.json")
        run.log_file(tmp_path / "folder", "plots")
    told = mlflow.get_run(str(run.run_id))
    assert told.info.status == "FINISHED"
    assert told.info.run_name == "night"
    assert told.data.params["model.width"] == "64"
    assert told.data.params["model.hidden"] == "[128]"
    assert len(told.data.params["long"]) == 6000
    assert sum(name.startswith("key_") for name in told.data.params) == 250
    assert told.data.metrics["val/ndcg_at_20"] == 0.25
    assert "val/recall_20" in told.data.metrics
    assert told.data.tags["git.commit"] == "abc"
    assert told.data.tags["team"] == "blue"
    names = {f.path for f in mlflow.artifacts.list_artifacts(run_id=run.run_id)}
    assert names == {"config.json", "plots"}
    assert (tmp_path / "mlflow.db").is_file()


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_a_run_ends_as_it_ended(
    tracking: TrackingConfig, error: type[BaseException], status: str, tmp_path: Path
) -> None:
    import mlflow

    def job() -> None:
        with start_run(tracking, tmp_path) as run:
            ids.append(str(run.run_id))
            raise error

    ids: list[str] = []
    with pytest.raises(error):
        job()
    assert mlflow.get_run(ids[0]).info.status == status
    assert mlflow.active_run() is None


def test_sigterm_ends_a_run_as_killed(tracking: TrackingConfig, tmp_path: Path) -> None:
    import mlflow

    def job() -> None:
        with start_run(tracking, tmp_path) as run:
            ids.append(str(run.run_id))
            run.log_metrics({"loss": 0.5})
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the process goes on")

    ids: list[str] = []
    with pytest.raises(SystemExit, match="143"):
        job()
    told = mlflow.get_run(ids[0])
    assert (told.info.status, told.data.metrics) == ("KILLED", {"loss": 0.5})
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_tracking_off_says_nothing(default_store: TrackingConfig, tmp_path: Path) -> None:
    with start_run(replace(default_store, enabled=False), tmp_path) as run:
        run.log_params({"a": 1})
        run.log_metrics({"b": 2.0})
    assert run.run_id is None
    assert not (tmp_path / "mlflow.db").exists()


def test_only_rank_0_opens_a_run(
    default_store: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_utilities.core.rank_zero import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    with start_run(default_store, tmp_path) as run:
        assert run.run_id is None
    assert not (tmp_path / "mlflow.db").exists()


def test_an_unreachable_server_is_known_within_seconds(tracking: TrackingConfig, tmp_path: Path) -> None:
    uri = f"http://127.0.0.1:{closed_port()}"
    start = time.monotonic()
    with (
        pytest.raises(TrackingError, match=rf"tracking\.uri '{uri}'.*[Rr]efused.*tracking\.uri=null"),
        start_run(replace(tracking, uri=uri), tmp_path),
    ):
        pass
    assert time.monotonic() - start < 10


def test_a_uri_of_no_known_kind(tracking: TrackingConfig, tmp_path: Path) -> None:
    with (
        pytest.raises(TrackingError, match="bogus://nowhere"),
        start_run(replace(tracking, uri="bogus://nowhere"), tmp_path),
    ):
        pass


def test_bounds_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    with bounded_http(retries=2, timeout=3):
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "2"
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "3"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "5"
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ


def test_environment_and_git(tmp_path: Path) -> None:
    import subprocess

    import torch

    told = environment()
    assert told["torch"] == torch.__version__
    assert told["packages"]["polars"]
    assert git_state(tmp_path) == {}
    for words in (["init", "-q", "-b", "main"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True)
    state = git_state(tmp_path)
    assert len(state["commit"]) == 40
    assert (state["branch"], state["dirty"]) == ("main", False)
    (tmp_path / "new.txt").write_text("x")
    assert git_state(tmp_path)["dirty"] is True


def test_runs_below_a_run(tracking: TrackingConfig, tmp_path: Path) -> None:
    import mlflow

    def below(parent: Run, error: BaseException | None) -> str:
        with nested_run(parent, "trial") as child:
            child.log_metrics({"val/ndcg_at_20": 0.5}, step=1)
            if error:
                raise error
        return str(child.run_id)

    with start_run(tracking, tmp_path) as parent:
        below(parent, None)
        with pytest.raises(ValueError, match="too wide"):
            below(parent, ValueError("too wide"))
        with pytest.raises(SystemExit):
            below(parent, SystemExit(143))
    own = f"tags.mlflow.parentRunId = '{parent.run_id}'"
    found = mlflow.search_runs(
        search_all_experiments=True, filter_string=own, output_format="list", order_by=["start_time"]
    )
    assert sorted(run.info.status for run in found) == ["FAILED", "FINISHED", "KILLED"]
    assert [run.data.metrics for run in found] == [{"val/ndcg_at_20": 0.5}] * 3


def test_a_run_goes_on(tracking: TrackingConfig, tmp_path: Path) -> None:
    import mlflow

    with start_run(tracking, tmp_path) as first:
        first.log_params({"seed": 1})
    with start_run(tracking, tmp_path, first.run_id) as again:
        assert mlflow.get_run(str(again.run_id)).info.status == "RUNNING"
        again.log_metrics({"best": 0.5})
    told = mlflow.get_run(str(first.run_id))
    assert (told.info.status, told.info.run_name, told.data.metrics) == ("FINISHED", "night", {"best": 0.5})


def test_below_a_silent_run_there_is_silence() -> None:
    with nested_run(Run(), "trial") as child:
        child.log_metrics({"loss": 1.0})
    assert child.run_id is None
