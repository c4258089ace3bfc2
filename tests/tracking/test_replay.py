"""Sent twice is sent once; what is refused, or cannot be stored, does not hold up the rest."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from recsys.config.schema import SyncConfig, TrackingConfig
from recsys.entries.sync import run as sync
from recsys.errors import ConfigError, TrackingError
from recsys.tracking.journal import SENT, Journal
from recsys.tracking.replay import replay
from recsys.tracking.run import nested_run, start_run
from recsys.tracking.server import bounded_http, connect
from tests.tracking.serving import free_port


@pytest.fixture
def away(tracking: TrackingConfig) -> TrackingConfig:
    """A server that is not there, which is no reason not to begin."""
    return replace(tracking, uri=f"http://127.0.0.1:{free_port()}", allow_offline=True)


def sync_to(tracking: TrackingConfig, folder: Path) -> Any:
    """Send what one run left behind to another store."""
    (row,) = sync(SyncConfig([str(folder)], tracking.uri))
    return row


def only_journal(folder: Path) -> Path:
    (place,) = folder.rglob("journal.jsonl")
    return place.parent


def history(run_id: str, key: str) -> list[tuple[int, float]]:
    import mlflow

    return [(m.step, m.value) for m in mlflow.MlflowClient().get_metric_history(run_id, key)]


def test_a_replay_that_dies_anywhere_is_repeated_without_harm(
    tracking: TrackingConfig, away: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after each request in turn, before it is noted: the second time everything is sent again."""
    import mlflow

    name = "dies"
    with start_run(replace(away, experiment=name), tmp_path) as run:
        run.log_params({"seed": 1})
        for step in range(4):
            run.log_metrics({"loss": 1.0, "nan": float("nan")}, step)
            run.log_tags({"last": step})  # so that metrics do not travel together
        with nested_run(run, "below") as child:
            child.log_metrics({"loss": 2.0})

    class Killed(BaseException):
        pass

    place, kept = only_journal(tmp_path), Journal.advance
    connect(tracking.uri)
    for allowed in (0, 1, 3, 6):
        left = iter(range(allowed))

        def dies_later(self: Journal, end: int | None = None, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise Killed
            kept(self, end)

        monkeypatch.setattr(Journal, "advance", dies_later)
        journal = Journal(place)
        with pytest.raises(Killed):
            replay(journal, str(tracking.uri))
        journal.close()
        (place / SENT).unlink(missing_ok=True)  # nothing was noted at all
    monkeypatch.setattr(Journal, "advance", kept)
    row = sync_to(tracking, tmp_path)
    assert (row.waiting, row.refused, row.status) == (0, 0, "FINISHED")
    found = mlflow.search_runs(experiment_names=[name], output_format="list")
    assert sorted(run.info.run_name for run in found) == ["below", "night"]
    (main,) = [run for run in found if run.info.run_name == "night"]
    assert history(main.info.run_id, "loss") == [(step, 1.0) for step in range(4)]
    assert len(history(main.info.run_id, "nan")) == 4
    assert main.data.tags["last"] == "3"
    assert main.data.tags["team"] == "blue"


def test_what_is_refused_is_set_aside_alone(
    tracking: TrackingConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import mlflow

    with start_run(tracking, tmp_path) as run:
        run.log_params({"seed": 1})
        run.log_params({"seed": 2, "width": 64})  # a parameter has one value for ever
        run.log_metrics({"loss": 0.5})
    told = mlflow.get_run(str(run.run_id))
    assert (told.info.status, told.data.params) == ("FINISHED", {"seed": "1", "width": "64"})
    assert told.data.metrics == {"loss": 0.5}
    (line,) = (only_journal(tmp_path) / "refused.jsonl").read_text().splitlines()
    assert json.loads(line)["values"] == {"seed": "2"}
    assert "refuses an entry for good" in caplog.text
    row = sync_to(tracking, tmp_path)
    assert (row.before, row.refused, row.status) == (0, 1, "FINISHED")


def test_metrics_do_not_wait_for_a_file_that_cannot_be_stored(
    tracking: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    def no_bucket(*args: Any) -> None:
        raise PermissionError("the bucket is closed")

    (tmp_path / "a.txt").write_text("kept")
    with monkeypatch.context() as closed:
        closed.setattr(mlflow.MlflowClient, "log_artifact", no_bucket)
        with start_run(tracking, tmp_path / "run") as run:
            run.log_file(tmp_path / "a.txt")
            run.log_metrics({"loss": 0.5}, 3)
            reason = run.flush()
        run_id = str(run.run_id)
        assert reason == "the bucket is closed"
        assert history(run_id, "loss") == [(3, 0.5)]
        assert mlflow.get_run(run_id).info.status == "FINISHED"
        with pytest.raises(TrackingError, match=r"1 entries of 1 runs still wait \(the bucket is closed\)"):
            sync(SyncConfig([str(tmp_path)]))
    (tmp_path / "a.txt").unlink()
    (row,) = sync(SyncConfig([str(tmp_path)]))
    assert (row.before, row.waiting) == (1, 0)
    assert mlflow.artifacts.load_text(f"runs:/{run_id}/a.txt") == "kept"
    assert list((tmp_path / "run").iterdir()) == []


def test_a_run_that_goes_on_is_left_to_its_own_process(
    tracking: TrackingConfig, away: TrackingConfig, tmp_path: Path
) -> None:
    with start_run(away, tmp_path) as run:
        run.log_metrics({"loss": 0.5})
        row = sync_to(tracking, tmp_path)
        assert (row.status, row.before, row.waiting) == ("RUNNING", 2, 2)
    row = sync_to(tracking, tmp_path)
    assert (row.status, row.before, row.waiting) == ("FINISHED", 3, 0)


def test_a_run_folder_may_have_been_moved(tracking: TrackingConfig, away: TrackingConfig, tmp_path: Path) -> None:
    import mlflow

    (tmp_path / "a.txt").write_text("kept")
    with start_run(replace(away, experiment="moved"), tmp_path / "here") as run:
        run.log_file(tmp_path / "a.txt", "out")
    (tmp_path / "here").rename(tmp_path / "there")
    assert sync_to(tracking, tmp_path / "there").status == "FINISHED"
    (found,) = mlflow.search_runs(experiment_names=["moved"], output_format="list")
    assert mlflow.artifacts.load_text(f"runs:/{found.info.run_id}/out/a.txt") == "kept"


def test_a_deleted_run_takes_nothing_and_loses_nothing(tracking: TrackingConfig, tmp_path: Path) -> None:
    import mlflow

    with start_run(tracking, tmp_path) as run:
        run.flush()
        client = mlflow.MlflowClient()
        client.delete_run(str(run.run_id))
        run.log_metrics({"loss": 0.5})
    with pytest.raises(TrackingError, match="2 entries of 1 runs still wait"):
        sync(SyncConfig([str(tmp_path)]))
    client.restore_run(str(run.run_id))
    sync(SyncConfig([str(tmp_path)]))
    assert history(str(run.run_id), "loss") == [(0, 0.5)]


@pytest.mark.parametrize("code", [400, 401, 403, 429, 500, 503])
def test_a_server_that_refuses_everything_gets_nothing_and_nothing_is_lost(
    code: int, tracking: TrackingConfig, away: TrackingConfig, tmp_path: Path
) -> None:
    """A proxy, or rights that are missing: not one entry is taken for the one at fault."""

    class Refusing(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(code)
            self.end_headers()
            self.wfile.write(b"no")

        do_GET = do_POST = do_PATCH = answer  # noqa: N815

        def log_message(self, *args: Any) -> None:
            pass

    with start_run(away, tmp_path) as run:
        run.log_metrics({"loss": 0.5})
    place = only_journal(tmp_path)
    journal = Journal(place)
    journal.runs[run.key] = "0123456789abcdef0123456789abcdef"
    journal.advance(next(end for entry, end in journal.waiting() if entry["kind"] == "open"))
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with bounded_http():
            reason = replay(journal, f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    journal.close()
    assert reason is not None
    assert (journal.count(), journal.refused()) == (2, 0)


def test_folders_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="'nowhere' is no folder"):
        sync(SyncConfig(["nowhere"]))
    assert sync(SyncConfig([str(tmp_path)])) == []
    assert capsys.readouterr().out == f"nothing waits below {tmp_path}\n"
