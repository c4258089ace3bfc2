"""Folders, disks, packages and services, none of which is changed by being asked."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
from lightning_fabric.connector import _PRECISION_INPUT_STR, _PRECISION_INPUT_STR_ALIAS

from recsys.config.compose import compose
from recsys.config.schema import TrackingConfig
from recsys.errors import TrackingError
from recsys.planning import places
from recsys.planning.places import (
    PRECISIONS,
    checkpoint_problem,
    disk_problems,
    folder_problem,
    free_memory,
    package_problems,
)
from recsys.planning.services import storage_problems, store_place, tracking_problem


def test_a_folder_that_can_be_made_is_not_made(tmp_path: Path) -> None:
    assert folder_problem("data.cache_dir", str(tmp_path / "a" / "b")) is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(places.tempfile, "TemporaryFile", refuse)
    problem = folder_problem("data.cache_dir", str(tmp_path / "new"))
    assert problem is not None
    assert "cannot be written to (Read-only file system); choose another place." in problem


def test_a_disk_that_is_too_small_for_all_that_goes_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would fit, both do not."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10 * 2**30))
    needed = {("hydra.run.dir", str(tmp_path / "run")): 6.0 * 2**30, ("data.cache_dir", str(tmp_path)): 6.0 * 2**30}
    (problem,) = disk_problems(needed)
    assert "about 12.0 GiB would be written to a disk with 10.0 GiB left" in problem
    assert list(disk_problems({("hydra.run.dir", str(tmp_path)): 6.0 * 2**30})) == []


def test_packages_that_the_configuration_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_is_there", lambda _: False)
    cfg = compose("tune", ["sampler.name=cmaes", "storage=postgresql://me@db/tuning"])
    found = list(package_problems(cfg))
    assert [text.partition(":")[0] for text in found] == ["sampler.name=cmaes", "storage=postgresql"]
    assert all("pip install 'recsys[tuning]'" in text for text in found)
    assert list(package_problems(compose("tune"))) == []


def test_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").touch()
    assert [checkpoint_problem(path) for path in (None, "last", str(tmp_path / "last.ckpt"))] == [None] * 3
    assert all(checkpoint_problem(path) for path in ("best", "hpc", "s3://runs/last.ckpt"))  # as training does
    assert "Did you mean 'last.ckpt'?" in str(checkpoint_problem(str(tmp_path / "lst.ckpt")))


def test_precisions_are_those_that_lightning_takes() -> None:
    """The list stands here a second time, since importing Lightning takes longer than a whole plan."""
    assert set(PRECISIONS) == {*get_args(_PRECISION_INPUT_STR), *get_args(_PRECISION_INPUT_STR_ALIAS)}


def test_there_is_memory() -> None:
    assert 2**20 < free_memory() < 2**50


@pytest.mark.usefixtures("outside")
def test_stores_that_are_not_there_are_not_made(tmp_path: Path) -> None:
    assert tracking_problem(TrackingConfig()) is None
    assert tracking_problem(TrackingConfig(uri="sqlite:///new/mlflow.db")) is None
    assert list(storage_problems("sqlite:///tune.db", "shop", {"seed": 1})) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("outside")
def test_a_server_that_may_be_away() -> None:
    away = TrackingConfig(uri="http://127.0.0.1:9", allow_offline=True)
    assert tracking_problem(away) is None
    with pytest.raises(TrackingError, match="allow_offline"):
        tracking_problem(replace(away, allow_offline=False))


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:///mlflow.db", Path("mlflow.db")),
        ("sqlite:////srv/mlflow.db", Path("/srv/mlflow.db")),
        ("file:///srv/mlruns", Path("/srv/mlruns")),
        ("http://127.0.0.1:5000", None),
    ],
)
def test_where_a_store_lies(uri: str, expected: Path | None) -> None:
    assert store_place(TrackingConfig(uri=uri)) == expected


@pytest.mark.usefixtures("outside")
def test_an_experiment_that_has_been_deleted(tmp_path: Path) -> None:
    import mlflow

    from recsys.tracking.server import quiet

    uri = f"sqlite:///{tmp_path}/mlflow.db"  # MLflow keeps a store by its URI: a relative one would be another test's
    with quiet():
        client = mlflow.MlflowClient(uri)
        client.delete_experiment(client.create_experiment("gone"))
        problem = tracking_problem(TrackingConfig(uri=uri, experiment="gone"))
    assert problem == ("tracking.experiment=gone: this experiment has been deleted; restore it, or give another name.")
