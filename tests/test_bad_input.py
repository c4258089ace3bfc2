"""Bad input through the console: one clear message, an exit code that is not 0, and nothing half-written."""

import errno
import os
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import polars as pl
import pytest
import torch

from recsys.cli import main
from recsys.data.prepared import load_prepared

pytestmark = pytest.mark.usefixtures("outside")

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must fail; returns its message after looking for what it may have left behind."""

    def run(*arguments: str, left: Sequence[str] = ()) -> str:
        before = {path for path in tmp_path.rglob("*") if path.is_file()}
        assert main(list(arguments)) == 2
        message = capsys.readouterr().err
        assert sum(line.startswith("error: ") for line in message.splitlines()) == 1
        assert "Traceback" not in message
        written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
        written -= {path.relative_to(tmp_path).as_posix() for path in before}
        unexpected = {name for name in written if not name.startswith(("runs/", "run/", *left))}
        in_run = {name for name in written if name.startswith(("runs/", "run/"))}
        assert not unexpected
        assert all(name.endswith((".log", ".yaml")) for name in in_run), in_run  # Hydra's own notes, no result
        return message

    return run


def shop(**changes: object) -> pl.DataFrame:
    """200 good events of 10 users and 20 items an hour apart, with columns replaced; None drops one."""
    columns: dict[str, object] = {
        "user_id": [i % 10 for i in range(200)],
        "item_id": [(i * i + i) % 20 for i in range(200)],
        "timestamp": [datetime(2024, 1, 1) + timedelta(hours=i) for i in range(200)],
    }
    return pl.DataFrame({name: column for name, column in (columns | changes).items() if column is not None})


def prepare_of(frame: pl.DataFrame) -> list[str]:
    frame.write_parquet("events.parquet")
    return ["prepare", "data=tables", "data.events=events.parquet"]


def test_missing_file(refused: Refused) -> None:
    shop().write_parquet("events.parquet")
    for verb in (["prepare"], ["train"], ["evaluate", "bundle_uri=models:/shop/1"]):  # with tracking on
        message = refused(*verb, "data=tables", "data.events=event.parquet")
        assert "data.events=event.parquet: no such file or directory. Did you mean 'events.parquet'?" in message


def test_missing_required_column(refused: Refused) -> None:
    message = refused(*prepare_of(shop(item_id=None, itemid=[1, 2] * 100)))
    assert "no column 'item_id', asked for by data.columns.item_id; columns: user_id, timestamp, itemid" in message
    assert "Did you mean 'itemid'? Map it with data.columns.item_id." in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"user_id": [True, False] * 100}, "column 'user_id': found type Boolean; legal for an id: integer or text"),
        ({"item_id": [0.5] * 200}, "column 'item_id': found type Float64 with fractions such as 0.5"),
        ({"timestamp": [True] * 200}, "column 'timestamp': found type Boolean; legal for a time: text, integer"),
        ({"value": ["dear"] * 200}, "column 'value': found type String; legal: integer, float or decimal"),
    ],
)
def test_wrong_column_type(changes: dict[str, object], expected: str, refused: Refused) -> None:
    message = refused(*prepare_of(shop(**changes)))
    assert "data.events=events.parquet" in message
    assert expected in message


def test_unparseable_timestamps(refused: Refused) -> None:
    times = [f"2024-01-{1 + i // 24:02d} {i % 24:02d}:00" if i % 4 else f"week {i}" for i in range(200)]
    message = refused(*prepare_of(shop(timestamp=times)), left=["prepared/tables-"])
    assert "50 of 200 rows (25.0%) cannot be used, and data.max_reject_share=0.05 allows 5.0%" in message
    assert "timestamp_unreadable 50" in message
    assert "row 1 (timestamp_unreadable): user_id=0, item_id=0, timestamp='week 0'" in message
    assert "row 5 (timestamp_unreadable)" in message
    (rejects,) = Path("prepared").iterdir()
    assert pl.read_parquet(rejects)["row_number"].to_list() == list(range(1, 200, 4))


def test_null_ids(refused: Refused) -> None:
    few = [None if i == 7 else i % 10 for i in range(200)]
    many = [None if i % 5 == 0 else i % 10 for i in range(200)]
    assert main(prepare_of(shop(user_id=few))) == 0
    (folder,) = Path("prepared").iterdir()
    assert load_prepared(folder).report["rejects"] == {"user_id_missing": 1}
    message = refused(*prepare_of(shop(user_id=many)), left=["prepared/tables-"])
    assert "40 of 200 rows (20.0%) cannot be used" in message
    assert "user_id_missing 40" in message


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.split.val_start=2024-01-02", "data.split.test_start=2030-01-01"], "has 0 events"),
        (["data.split.end=2020-01-01"], "0 usable events"),
    ],
)
def test_empty_window(overrides: list[str], expected: str, refused: Refused) -> None:
    if "test_start" in overrides[-1]:
        overrides = [*overrides, "data.split.end=2031-01-01"]
    assert expected in refused(*prepare_of(shop()), *overrides)


def test_one_single_time_cannot_be_split(refused: Refused) -> None:
    message = refused(*prepare_of(shop(timestamp=[datetime(2024, 1, 1)] * 200)))
    assert "empty window after the split: train" in message
    assert "1 distinct times" in message


@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_fewer_than_two_users_or_items(column: str, refused: Refused) -> None:
    message = refused(*prepare_of(shop(**{column: [1] * 200})))
    assert f"1 {column.removesuffix('_id')}(s)" in message
    assert "at least 2 users and 2 items are needed" in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("trainig.max_epochs=2", "trainig: no such key. Did you mean 'training'?"),
        ("training.max_epoch=2", "Did you mean 'training.max_epochs'?"),
        ("data=completejurney", "data=completejurney: no such option. Did you mean 'completejourney'?"),
        ("evaluation.baselines=[ppular]", "evaluation.baselines: 'ppular' is not one of"),
        ("evaluation.baselines=[ppular]", "Did you mean 'popular'?"),
        ("model.width=wide", "model.width: Value 'wide' of type 'str' could not be converted to Integer"),
        ("objective.metric=test/ndcg_at_20", "use a validation metric, such as val/ndcg_at_20"),
    ],
)
def test_configuration(override: str, expected: str, refused: Refused) -> None:
    assert expected in refused("train", override)
    assert not list(Path().iterdir())


@pytest.fixture
def nobody_there() -> str:
    """An address where no server listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_tracking_server_unreachable(nobody_there: str, refused: Refused) -> None:
    shop().write_parquet("events.parquet")
    data = ["data=tables", "data.events=events.parquet"]
    model = "models:/recsys-tables/1"
    for command in (
        ["train", *data, f"tracking.uri={nobody_there}"],
        ["evaluate", *data, f"tracking.uri={nobody_there}", f"bundle_uri={model}"],
        ["recommend", f"bundle={model}", f"tracking_uri={nobody_there}"],
    ):
        start = time.perf_counter()
        message = refused(*command)
        assert time.perf_counter() - start < 20
        assert f"tracking.uri '{nobody_there}': the tracking server cannot be used" in message
    assert not Path("prepared").exists()


def full_disk(*arguments: Any, **keywords: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk_of_polars(*arguments: Any, **keywords: Any) -> None:
    raise pl.exceptions.ComputeError("parquet: underlying IO error: No space left on device (os error 28)")


@pytest.mark.parametrize("disk", [full_disk, full_disk_of_polars])
def test_no_space_for_the_prepared_data(
    disk: Callable[..., None], monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    command = prepare_of(shop())
    with monkeypatch.context() as patch:
        patch.setattr(pl.DataFrame, "write_parquet", disk)
        message = refused(*command)
    assert "prepared data cannot be written" in message
    assert "No space left on device" in message
    assert not list(Path("prepared").iterdir())
    assert main(command) == 0


def test_places_that_cannot_be_written(refused: Refused, trained: Any) -> None:
    """A folder below a file cannot be made, whoever asks; root too."""
    Path("taken").write_text("")
    command = prepare_of(shop())
    assert "prepared data cannot be written" in refused(*command, "data.cache_dir=taken/prepared")
    assert "'taken/run': Not a directory" in refused(*command, "hydra.run.dir=taken/run")
    message = refused("recommend", f"bundle={trained.bundle}", "output=taken/recs.parquet", "hydra.run.dir=run")
    assert "output=taken/recs.parquet: cannot be written" in message


def test_no_space_for_the_answer(refused: Refused, trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("recs.parquet").write_text("an older answer")
    for disk in (full_disk, full_disk_of_polars):
        with monkeypatch.context() as patch:
            patch.setattr(pl.DataFrame, "write_parquet", disk)
            message = refused("recommend", f"bundle={trained.bundle}", "k=3")
        assert "No space left on device" in message
        assert Path("recs.parquet").read_text() == "an older answer"


def test_interrupted_prepare(python: Callable[..., CompletedProcess[str]]) -> None:
    """The process is killed when some of the files are written; the next run starts clean."""
    command = prepare_of(shop())
    killed = (
        "import os, signal, recsys.data.prepare as prepare\n"
        "prepare.write_features = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from recsys.cli import main\n"
        f"main({command})\n"
    )
    assert python(Path.cwd(), "-c", killed).returncode == -9
    (left,) = Path("prepared").iterdir()
    assert left.name.startswith(".")
    assert (left / "events.parquet").exists()

    assert main(command) == 0
    (folder,) = Path("prepared").iterdir()
    assert not folder.name.startswith(".")
    assert len(load_prepared(folder).events) == 200


@pytest.fixture
def bundle(trained: Any, tmp_path: Path) -> Path:
    """A copy to be broken."""
    return shutil.copytree(trained.bundle, tmp_path / "bundle")


@pytest.mark.parametrize("part", ["user_tower.pt", "item_embeddings.parquet", "item.index", "manifest.json"])
def test_bundle_with_a_changed_byte(part: str, bundle: Path, refused: Refused) -> None:
    content = bytearray((bundle / part).read_bytes())
    middle = len(content) // 2
    if part == "manifest.json":  # a digit, so that it is still JSON
        middle = next(i for i in range(middle, len(content)) if content[i : i + 1].isdigit())
    content[middle] = ord("7") if content[middle] != ord("7") else ord("3")
    (bundle / part).write_bytes(content)
    message = refused("recommend", f"bundle={bundle}")
    assert part in message
    assert "was changed" in message
    assert not Path("recs.parquet").exists()


def test_bundle_of_mixed_halves(bundle: Path, refused: Refused) -> None:
    """A tower that is whole and loads, but is that of another bundle."""
    other = torch.jit.load(bundle / "user_tower.pt")
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(0.5)
    torch.jit.save(other, bundle / "user_tower.pt")
    for command in (["recommend", f"bundle={bundle}"], ["evaluate", f"bundle_uri={bundle}", "logger=none"]):
        message = refused(*command)
        assert "user_tower.pt" in message
        assert "mixed" in message or "changed" in message


def test_bundle_without_a_part(bundle: Path, refused: Refused) -> None:
    (bundle / "item.index").unlink()
    assert "part 'item.index' is missing" in refused("recommend", f"bundle={bundle}")
