"""``recsys add-items``: a registered version gets a successor that knows more products."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
import pytest

from recsys.bundle.reader import Bundle
from recsys.cli import main
from recsys.config.add_items import AddItemsConfig
from recsys.entries.add_items import FROM, run
from recsys.tracking.server import quiet

ROWS = "item_id,category,price\nnew-1,c3,4.5\nnew-2,c9,\n"


@pytest.fixture
def new_file(tmp_path: Path) -> Path:
    path = tmp_path / "new.csv"
    path.write_text(ROWS)
    return path


def test_a_folder(trained: Any, new_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = AddItemsConfig(bundle=str(trained.bundle), items=str(new_file), run_dir=str(tmp_path / "run"))
    assert run(cfg) == str(tmp_path / "run" / "bundle")
    bundle = Bundle.load(tmp_path / "run" / "bundle")
    assert bundle.item_ids.to_list()[-2:] == ["new-1", "new-2"]
    assert bundle.items["price"].to_list()[-2:] == [4.5, None]
    shown = capsys.readouterr().out
    assert "2 products added: 82 in all (" in shown
    assert "version" not in shown


@pytest.mark.usefixtures("outside")
def test_a_registered_version_gets_a_successor(
    trained: Any,
    new_store: Callable[[Path], str],
    new_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri = new_store(tmp_path / "own.db")
    mlflow.set_tracking_uri(uri)
    with quiet():
        experiment = mlflow.create_experiment("own", artifact_location=(tmp_path / "artifacts").as_uri())
        with mlflow.start_run(experiment_id=experiment):
            from recsys.tracking.registry import register_bundle

            assert register_bundle(trained.bundle, "shop") == (1, "models:/shop/1")
    own = [f"tracking_uri={uri}", "tracking_experiment=own"]
    assert main(["add-items", "bundle=models:/shop/1", f"items={new_file}", "output=grown", *own]) == 0
    assert "version     models:/shop/2" in capsys.readouterr().out
    with quiet():
        version = mlflow.MlflowClient().get_model_version("shop", "2")
        old, new = Bundle.load("models:/shop/1"), Bundle.load("models:/shop/2")
    assert version.tags[FROM] == "1"
    assert new.manifest.fingerprint == Bundle.load(tmp_path / "grown").manifest.fingerprint
    assert (old.manifest.n_items, new.manifest.n_items) == (80, 82)
    assert new.check_sample() > 0


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["bundle=b", "items=new.txt"], "items=new.txt: is neither .parquet nor .csv"),
        (["bundle=b", "items=absent.csv"], "items=absent.csv: cannot be read as csv (no such file)."),
        (["bundle=nowhere", "items={new}"], "bundle nowhere: no such folder."),
        (["bundle=models:/shop", "items={new}"], "bundle=models:/shop: give a registered version"),
        (["bundle={bundle}", "items={new}", "output={bundle}"], "is there already; choose another place"),
        (["bundle={bundle}"], "items"),
        (["bundle={bundle}", "itens={new}"], "itens"),
    ],
)
def test_what_is_refused(
    overrides: list[str], message: str, trained: Any, new_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["add-items", *(o.format(bundle=trained.bundle, new=new_file) for o in overrides)]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_csv_columns_are_read_by_the_types_of_the_bundle(trained: Any, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("item_id,category,price\n007,12,3\n")
    cfg = AddItemsConfig(bundle=str(trained.bundle), items=str(tmp_path / "new.csv"), run_dir=str(tmp_path / "run"))
    last = Bundle.load(run(cfg)).items.row(-1, named=True)
    assert (last["item_id"], last["category"], last["price"]) == ("007", "12", 3.0)
    assert pl.read_parquet(trained.bundle / "catalogue.parquet").height == 80
