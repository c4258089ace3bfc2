"""A registered version answers from raw ids, through MLflow's own door and through ours."""

import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from recsys.bundle.format import Manifest, read_manifest, seal
from recsys.bundle.parts import COPY, local_folder
from recsys.bundle.profiles import Profile
from recsys.bundle.reader import Bundle
from recsys.config.schema import RecommendConfig, SyncConfig, TrackingConfig
from recsys.entries.sync import run as sync
from recsys.errors import BundleError, TrackingError
from recsys.export.bundle import export_bundle
from recsys.export.touchpoints import FittedTouchpoints
from recsys.tracking.journal import Journal
from recsys.tracking.registry import _example, _signature, register_bundle
from recsys.tracking.run import start_run
from recsys.tracking.server import connect, quiet


@pytest.fixture(scope="module")
def tracking(new_store: Callable[[Path], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingConfig]:
    """One store for these tests."""
    import mlflow

    yield TrackingConfig(uri=new_store(tmp_path_factory.mktemp("registry") / "mlflow.db"), model_name="shop")
    mlflow.set_tracking_uri(None)


def test_round_trip(
    tracking: TrackingConfig, exported: tuple[Path, Manifest], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import mlflow
    import polars as pl

    from recsys.entries import recommend

    folder, manifest = exported
    with start_run(tracking, tmp_path) as run:
        version, uri = register_bundle(folder, tracking.model_name)
    assert (version, uri) == (1, "models:/shop/1")
    assert "'shop'" not in capfd.readouterr().err  # the job says itself what it registered
    assert mlflow.MlflowClient().get_model_version("shop", "1").run_id == run.run_id
    assert mlflow.get_run(str(run.run_id)).info.status == "FINISHED"

    for door in (uri, f"runs:/{run.run_id}/bundle"):
        loaded = Bundle.load(door)
        assert loaded.manifest == manifest
        assert loaded.check_sample() == 27

    model = mlflow.pyfunc.load_model(uri)
    requests = [r for r in json.loads((folder / "sample.json").read_text())["requests"] if r["user_id"] is not None]
    frame = pd.DataFrame({"user_id": [r["user_id"] for r in requests], "history": [r["history"] for r in requests]})
    answer = model.predict(frame.assign(k=[r["k"] for r in requests]))
    assert answer["item_id"].tolist() == [item for r in requests for item in r["item_ids"]]
    assert model.predict(frame[["user_id"]], params={"k": 2})["rank"].tolist() == [1, 2] * len(requests)
    assert model.metadata.metadata["bundle_fingerprint"] == manifest.fingerprint

    info = mlflow.models.get_model_info(uri)
    assert [(c.name, c.required) for c in info.signature.inputs] == [
        ("user_id", False),
        ("history", False),
        ("history_types", False),
        ("items", False),
        ("k", False),
    ]
    needed = Path(mlflow.artifacts.download_artifacts(f"{uri}/requirements.txt")).read_text().split()
    assert {line.split("==")[0] for line in needed} == {"mlflow", "torch", "numpy", "polars", "faiss-cpu"}

    with start_run(tracking, tmp_path):
        assert register_bundle(folder, tracking.model_name) == (2, "models:/shop/2")

    output = recommend.run(
        RecommendConfig(bundle=uri, tracking_uri=tracking.uri, output=str(tmp_path / "recs.parquet"), k=4)
    )
    assert len(pl.read_parquet(output)) == 4 * manifest.n_users


def test_a_copy_goes_with_the_bundle_and_a_store_on_this_disk_is_read_in_place(
    tracking: TrackingConfig, exported: tuple[Path, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow copies what lies at ``runs:/`` wherever the store is."""
    import mlflow

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with start_run(tracking, tmp_path / "run") as run:
        _, uri = register_bundle(exported[0], "copied")
    door = f"runs:/{run.run_id}/bundle"
    in_place = Bundle.load(uri)
    assert in_place.folder.is_relative_to(Path(mlflow.artifacts.download_artifacts(uri)))
    loaded = Bundle.load(door)
    assert loaded.folder.is_relative_to(tmp_path)
    assert loaded.check_sample() == 27
    (folder,) = (path for path in tmp_path.glob(f"{COPY}*") if any(path.iterdir()))
    del loaded
    gc.collect()
    assert not folder.exists()

    (in_place.folder / "item.index").write_text("spoilt")
    del in_place
    with pytest.raises(BundleError, match=r"item\.index"):
        Bundle.load(door)
    gc.collect()
    assert list(tmp_path.glob(f"{COPY}*")) == []

    with monkeypatch.context() as forked, local_folder(door) as copy:
        forked.setattr(os, "getpid", lambda: 0)
    assert copy.is_dir()  # it is for the process that made it to remove it


@pytest.fixture(scope="module", params=[int, str])
def answers(request: pytest.FixtureRequest, shop_maker: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Ask a registered model as the scoring server does, and its bundle the same; both take ``users, **params``."""
    import mlflow

    folder = tmp_path_factory.mktemp("door")
    touchpoints = FittedTouchpoints({"email": Profile(k=5)}, None)
    manifest = export_bundle(
        folder / "bundle", **shop_maker(2, request.param).arguments(index="flat", touchpoints=touchpoints)
    )
    with quiet():
        from mlflow.pyfunc.scoring_server import invocations

        mlflow.pyfunc.save_model(
            folder / "model",
            loader_module="recsys.bundle.pyfunc",
            data_path=str(folder / "bundle"),
            signature=_signature(manifest),
            input_example=_example(folder / "bundle"),
            pip_requirements=[],
        )
    model, bundle = mlflow.pyfunc.load_model(str(folder / "model")), Bundle.load(folder / "bundle")

    def by_http(rows: list[dict[str, Any]], **params: Any) -> list[tuple[Any, ...]]:
        content = json.dumps({"dataframe_records": rows, "params": params})
        told = invocations(content, "application/json", model, model.metadata.get_input_schema()).response
        assert "NaN" not in told  # which is no JSON
        return [(row["user_id"], row["item_id"]) for row in json.loads(told)["predictions"]]

    def by_bundle(users: list[Any], k: Any = None, **rest: Any) -> list[tuple[Any, ...]]:
        return bundle.recommend(users, k, **rest).select("user_id", "item_id").rows()

    return by_http, by_bundle, [request.param(100), request.param(101)], request.param(1003)


def test_visitors_without_id_by_http(answers: Any) -> None:
    by_http, by_bundle, (one, other), item = answers
    assert by_http([{"user_id": one}, {"user_id": None}], k=2) == by_bundle([one, None], 2)
    assert by_http([{"user_id": None}], k=2) == by_bundle([None], 2)
    assert by_http([{"history": [item]}, {"history": None}], k=2) == by_bundle([None, None], 2, histories=[[item], []])
    assert by_http([{"user_id": one, "k": 3}, {"user_id": other}], k=2) == by_bundle([one, other], [3, 2])
    assert by_http([{"user_id": one, "history": [item]}]) == by_bundle([one], 20, histories=[[item]])
    with pytest.raises(Exception, match="unexpected error while evaluating the model"):
        by_http([{"who": one}])


def test_a_touchpoint_has_its_own_k_by_http(answers: Any) -> None:
    by_http, by_bundle, users, _ = answers
    rows = [{"user_id": user} for user in users]
    assert by_http(rows, touchpoint="email") == by_bundle(users, 5, touchpoint="email")
    assert by_http(rows, touchpoint="email", k=7) == by_bundle(users, 7, touchpoint="email")


def test_nothing_there(tracking: TrackingConfig) -> None:
    connect(tracking.uri)
    with pytest.raises(BundleError, match="models:/nowhere/1: not found at tracking server"):
        Bundle.load("models:/nowhere/1")


def test_a_spoilt_bundle_is_not_registered(tracking: TrackingConfig, exported, tmp_path: Path) -> None:
    folder = shutil.copytree(exported[0], tmp_path / "spoilt")
    (folder / "item.index").unlink()
    with start_run(tracking, tmp_path), pytest.raises(BundleError, match=r"item\.index"):
        register_bundle(folder, "shop")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            {"passed": False, "max_difference": 0.5},
            "the user tower as torchscript differs from the eager one by 5",
        ),
        (None, r"part 'parity\.json' is no certificate"),
    ],
)
def test_a_bundle_that_is_not_proven_is_not_registered(
    tracking: TrackingConfig, exported, tmp_path: Path, edit: dict[str, object] | None, message: str
) -> None:
    """Sealed as it should be, but with a failed case, or without any certificate worth the name."""
    import mlflow

    folder = Path(shutil.copytree(exported[0], tmp_path / "off"))
    parity = json.loads((folder / "parity.json").read_text())
    parity["cases"][0] |= edit or {}
    (folder / "parity.json").write_text(json.dumps(parity if edit else {"says": "all is well"}))
    seal(folder, **read_manifest(folder).content)
    Bundle.load(folder)  # which is whole
    with start_run(tracking, tmp_path):
        with pytest.raises(BundleError, match=f"{message}.* is not registered; export it again"):
            register_bundle(folder, "unproven")
        assert mlflow.MlflowClient().search_model_versions("name='unproven'") == []


def test_a_name_that_the_registry_refuses(tracking: TrackingConfig, exported, tmp_path: Path) -> None:
    with start_run(tracking, tmp_path), pytest.raises(TrackingError, match=r"model 'a/b:c' could not be registered"):
        register_bundle(exported[0], "a/b:c")


def test_a_registration_waits_for_the_server_and_is_done_once(
    tracking: TrackingConfig, exported: tuple[Path, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    away = TrackingConfig(uri=f"http://127.0.0.1:{port}", allow_offline=True, model_name="later")
    bundle = Path(shutil.copytree(exported[0], tmp_path / "run" / "bundle"))
    with start_run(away, tmp_path / "run") as run:
        assert run.register(bundle, "later") is None
    (tmp_path / "run").rename(tmp_path / "moved")

    def dies(self: Journal, end: int | None = None) -> None:
        if self.models:
            raise KeyboardInterrupt
        advance(self, end)

    advance = Journal.advance
    connect(tracking.uri)
    with monkeypatch.context() as killed:  # when the version is there, and nobody has noted it
        killed.setattr(Journal, "advance", dies)
        with pytest.raises(KeyboardInterrupt):
            sync(SyncConfig([str(tmp_path)], tracking.uri))
    (row,) = sync(SyncConfig([str(tmp_path)], tracking.uri))
    assert (row.status, row.waiting, row.models) == ("FINISHED", 0, ("models:/later/1",))
    (version,) = mlflow.MlflowClient().search_model_versions("name='later'")
    assert version.tags == {"bundle_fingerprint": exported[1].fingerprint}
    assert Bundle.load("models:/later/1").check_sample() == 27
    told = mlflow.get_run(version.run_id)
    assert (told.info.status, mlflow.get_experiment(told.info.experiment_id).name) == ("FINISHED", "recsys")
    assert [path.name for path in (tmp_path / "moved").iterdir()] == ["bundle"]


def test_a_registration_that_is_refused_leaves_a_finished_run(
    tracking: TrackingConfig, exported: tuple[Path, Manifest], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import mlflow

    with start_run(tracking, tmp_path) as run:
        assert run.register(exported[0], "a/b:c") is None
    assert mlflow.get_run(str(run.run_id)).info.status == "FINISHED"
    assert "model 'a/b:c' is not registered" in caplog.text
    assert str(exported[0]) in caplog.text


@pytest.mark.slow
def test_through_a_real_server(
    exported: tuple[Path, Manifest], new_store: Callable[[Path], str], tmp_path: Path
) -> None:
    """Registered and loaded over HTTP, the artifacts too; then the server dies and the run goes on."""
    import mlflow

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", new_store(tmp_path / "m.db"), "--artifacts-destination", str(tmp_path / "art")]
    uri = f"http://127.0.0.1:{port}"
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                connect(uri)
                break
            except TrackingError:
                time.sleep(0.5)
        with start_run(TrackingConfig(uri=uri, model_name="shop"), tmp_path) as run:
            run.log_metrics({"val/ndcg_at_20": 0.5})
            assert register_bundle(exported[0], "shop") == (1, "models:/shop/1")
            temporary = tmp_path / "temporary"
            temporary.mkdir()
            said = "from recsys.bundle.reader import Bundle; kept = Bundle.load('models:/shop/1'); print(kept.folder)"
            env = os.environ | {"MLFLOW_TRACKING_URI": uri, "TMPDIR": str(temporary)}
            loaded = subprocess.run([sys.executable, "-c", said], env=env, capture_output=True, text=True)
            assert loaded.stdout.startswith(str(temporary)), loaded.stderr
            assert list(temporary.glob(f"{COPY}*")) == []  # gone with the process
            assert Bundle.load("models:/shop/1").check_sample() == 27
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
            run.log_metrics({"val/ndcg_at_20": 0.6})
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        while mlflow.active_run():
            mlflow.end_run()
        mlflow.set_tracking_uri(None)
