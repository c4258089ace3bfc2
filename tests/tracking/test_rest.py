"""The registered model behind ``mlflow models serve``: a real process that is asked by HTTP."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
import pytest

from recsys.bundle.reader import Bundle
from recsys.tracking.registry import register_bundle
from recsys.tracking.server import quiet
from tests.tracking.serving import free_port

Ask = Callable[[dict[str, Any]], pl.DataFrame]


@pytest.fixture(scope="module")
def ask(trained: Any, new_store: Callable[[Path], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Ask the served model; its address is the one that the README gives."""
    port, folder = free_port(), tmp_path_factory.mktemp("served")
    before, uri = mlflow.get_tracking_uri(), new_store(folder / "mlflow.db")
    mlflow.set_tracking_uri(uri)
    with quiet():
        experiment = mlflow.create_experiment("served", artifact_location=(folder / "artifacts").as_uri())
        with mlflow.start_run(experiment_id=experiment):
            _, model = register_bundle(trained.bundle, "served")
    mlflow.set_tracking_uri(before)
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    env = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    env["MLFLOW_TRACKING_URI"] = uri
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=folder, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None, (folder / "log").read_text()[-3000:]
            assert time.monotonic() < deadline, (folder / "log").read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)

        def post(content: dict[str, Any]) -> pl.DataFrame:
            url, headers = f"http://127.0.0.1:{port}/invocations", {"Content-Type": "application/json"}
            request = urllib.request.Request(url, json.dumps(content).encode(), headers)
            with urllib.request.urlopen(request, timeout=30) as answer:
                return pl.DataFrame(json.load(answer)["predictions"])

        yield post
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=20)


@pytest.mark.slow
def test_answers_are_those_of_the_bundle(ask: Ask, trained: Any) -> None:
    bundle = Bundle.load(trained.bundle)
    users, fresh = bundle.user_ids.to_list()[:3], bundle.item_ids.to_list()[:2]
    found = ask({"dataframe_split": {"columns": ["user_id", "history"], "data": [[u, fresh] for u in users]},
                 "params": {"k": 4}})  # fmt: skip
    expected = bundle.recommend(users, 4, histories=[fresh] * 3)
    assert found.select("user_id", "item_id", "rank").rows() == expected.select("user_id", "item_id", "rank").rows()
    assert found["score"].to_list() == pytest.approx(expected["score"].to_list(), rel=1e-5)

    unknown = ask({"dataframe_records": [{"user_id": "nobody", "history": fresh, "k": 3}]})
    assert unknown["item_id"].to_list() == bundle.recommend(["nobody"], 3, histories=[fresh])["item_id"].to_list()

    seen = ask({"dataframe_records": [{"user_id": users[0]}], "params": {"k": 5, "exclude_seen": True}})
    assert seen["item_id"].to_list() == bundle.recommend(users[:1], 5, exclude_seen=True)["item_id"].to_list()


@pytest.mark.slow
def test_a_bad_request_is_refused(ask: Ask) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask({"dataframe_records": [{"who": "u1"}]})
    assert refused.value.code == 400
    assert "user_id" in refused.value.read().decode()
