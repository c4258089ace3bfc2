"""Registered versions are replaced by ones without the people; old ones are deleted, or pending until they are."""

import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from recsys.bundle.reader import Bundle
from recsys.config.schema import TrackingConfig
from recsys.errors import TrackingError
from recsys.tracking.erase import REPLACES, erase_from_model, erase_from_runs, search_runs
from recsys.tracking.registry import register_bundle
from recsys.tracking.run import start_run

GONE = {"u17", "customer-17"}


@pytest.mark.slow
def test_versions_aliases_and_files_of_runs(
    trained_script: Path, new_store: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)  # where the files of runs go
    tracking = TrackingConfig(uri=new_store(tmp_path / "mlflow.db"), experiment="shop")
    bundle, scratch = Path(shutil.copytree(trained_script, tmp_path / "bundle")), tmp_path / "scratch"
    pl.DataFrame({"user_id": ["customer-17"]}).write_parquet(tmp_path / "recs.parquet")
    (tmp_path / "notes.txt").write_text("customer-177 is somebody else")
    try:
        with start_run(tracking, tmp_path) as run:
            register_bundle(bundle, "shop", {"stage": "live"})
            run.log_file(tmp_path / "recs.parquet", "out")
            run.log_file(tmp_path / "notes.txt")
            run.flush()
            client = mlflow.MlflowClient()
            client.set_registered_model_alias("shop", "champion", "1")
            client.set_registered_model_tag("shop", "challenger_before", "1")
            client.update_model_version("shop", "1", "the first")
            source = Path(client.get_logged_model(client.get_model_version("shop", "1").source[8:]).artifact_location)

            found = list(erase_from_model("shop", GONE, scratch, delete=False))
            assert [(c.place, c.action) for c in found] == [
                ("models:/shop/1", "replaced by models:/shop/2"),
                ("models:/shop/1", "pending"),
            ]
            second = client.get_model_version("shop", "2")
            assert second.tags == {"stage": "live", REPLACES: "1"}
            assert second.description == "the first"
            assert str(client.get_registered_model("shop").aliases["champion"]) == "2"
            assert client.get_registered_model("shop").tags == {"challenger_before": "2"}
            assert "u17" not in Bundle.load("models:/shop/2").user_ids
            assert "u17" in Bundle.load("models:/shop/1").user_ids

            # again: no third version, still pending; then the files of the run, and the old version itself
            again = list(erase_from_model("shop", GONE, scratch, delete=False))
            assert again[-1].action == "pending"
            assert len(client.search_model_versions("name='shop'")) == 2
            assert search_runs("shop", GONE, scratch, ["models:/shop/1"])[1] == [
                str(client.get_run(run.run_id).info.artifact_uri)
            ]
            (deleted,) = erase_from_runs("shop", GONE, scratch)
            assert deleted.place.endswith("out/recs.parquet")
            assert client.list_artifacts(run.run_id, "out") == []
            assert "notes.txt" in {file.path for file in client.list_artifacts(run.run_id)}
            assert search_runs("shop", GONE, scratch, ["models:/shop/1"])[1] == []
            assert source.is_dir()
            assert list(erase_from_model("shop", GONE, scratch, delete=True))[-1].action == "deleted"
            assert [v.version for v in client.search_model_versions("name='shop'")] == [second.version]
            assert not source.exists()
            assert list(erase_from_model("shop", GONE, scratch, delete=True)) == []
            with pytest.raises(TrackingError, match="'nowhere' has no version"):
                list(erase_from_model("nowhere", GONE, scratch, delete=True))
            assert search_runs("no such experiment", GONE, scratch, []) == ([], [])

            # killed after the files of a version went, before its record did
            register_bundle(bundle, "shop")
            list(erase_from_model("shop", GONE, scratch, delete=False))
            third = client.get_model_version("shop", "3").source[8:]
            shutil.rmtree(client.get_logged_model(third).artifact_location)
            assert [c.action for c in erase_from_model("shop", GONE, scratch, delete=True)] == ["deleted"]
            assert sorted(str(v.version) for v in client.search_model_versions("name='shop'")) == ["2", "4"]
    finally:
        mlflow.set_tracking_uri(None)


def test_deleted_runs_are_searched_and_places_that_cannot_be_read_are_told(
    new_store: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)  # where the files of runs go
    tracking = TrackingConfig(uri=new_store(tmp_path / "mlflow.db"), experiment="shop")
    (tmp_path / "notes.txt").write_text("customer-17")
    scratch = tmp_path / "scratch"
    try:
        with start_run(tracking, tmp_path) as run:
            run.log_file(tmp_path / "notes.txt")
            run.flush()
        client = mlflow.MlflowClient()
        client.delete_run(run.run_id)
        place = str(client.get_run(run.run_id).info.artifact_uri)
        assert search_runs("shop", GONE, scratch, []) == ([place], [place])
        with monkeypatch.context() as patch:
            patch.setattr(mlflow.artifacts, "download_artifacts", refuse)
            assert list(erase_from_runs("shop", GONE, scratch)) == []
            assert search_runs("shop", GONE, scratch, [])[1] == [f"{place} (cannot be read: the store is away)"]
        assert [change.action for change in erase_from_runs("shop", GONE, scratch)] == ["deleted"]
        assert search_runs("shop", GONE, scratch, [])[1] == []
    finally:
        mlflow.set_tracking_uri(None)


def refuse(**_: str) -> str:
    raise OSError("the store is away")
