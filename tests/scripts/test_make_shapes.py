"""Logs of other shapes: what each is made for is in them, and the same seed gives the same rows."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal


@pytest.fixture(scope="module")
def run(repo: Path) -> Callable[..., int]:
    """The script's main function."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(repo / "scripts")
        return import_module("make_shapes").main


@pytest.fixture(scope="module")
def made(run: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> dict[str, pl.DataFrame]:
    """A small log of each shape."""
    folder = tmp_path_factory.mktemp("shapes")
    for shape, users in (("news", 300), ("music", 60), ("sparse", 3000)):
        assert run([shape, "--out", str(folder / shape), "--users", str(users)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["music", "news", "sparse"]  # and no half of a file
    return {path.name: pl.read_parquet(path) for path in folder.iterdir()}


def repeats(log: pl.DataFrame) -> float:
    return 1.0 - log.select("user_id", "item_id").n_unique() / len(log)


def test_events_are_in_order_and_of_the_users_asked_for(made: dict[str, pl.DataFrame]) -> None:
    for shape, users in (("news", 300), ("music", 60), ("sparse", 3000)):
        log = made[shape]
        assert log["timestamp"].is_sorted()
        assert log.null_count().sum_horizontal().item() == 0
        assert 0.8 * users < log["user_id"].n_unique() <= users
        assert log["user_id"].max() < users


def test_news_are_read_once_and_die(made: dict[str, pl.DataFrame]) -> None:
    log = made["news"]
    assert repeats(log) == 0.0
    end, begin = log["timestamp"].max(), log["timestamp"].min()
    late = pl.col("timestamp") > begin + 0.85 * (end - begin)
    known = log.filter(~late)["item_id"].unique()
    unknown = log.filter(late).select(~pl.col("item_id").is_in(known.implode()))
    assert 0.3 < unknown.to_series().mean() < 0.95
    lived = log.group_by("item_id").agg(pl.col("timestamp").median() - pl.col("timestamp").min())
    assert lived["timestamp"].dt.total_hours().median() < 4 * 24


def test_music_is_heard_again(made: dict[str, pl.DataFrame]) -> None:
    log = made["music"]
    assert 0.75 < repeats(log) < 0.95
    one_back = log.select((pl.col("item_id") == pl.col("item_id").shift(1)).over("user_id")).to_series()
    assert 0.1 < one_back.mean() < 0.5  # of what was heard lately, the last most often


def test_sparse_users_stay_in_their_category(made: dict[str, pl.DataFrame]) -> None:
    log = made["sparse"]
    assert 1.2 < len(log) / log["user_id"].n_unique() < 2.2
    assert log.group_by("item_id").agg(pl.col("category").n_unique())["category"].max() == 1
    several = log.filter(pl.len().over("user_id") > 2)
    main = several.group_by("user_id").agg(
        pl.col("category").value_counts(sort=True).first().struct.field("count") / pl.len()
    )
    assert main["count"].mean() > 0.6


def test_the_seed_makes_the_rows(run: Callable[..., int], tmp_path: Path, made: dict[str, pl.DataFrame]) -> None:
    for name, seed in (("same", 0), ("other", 1)):
        assert run(["music", "--out", str(tmp_path / name), "--users", "60", "--seed", str(seed)]) == 0
    assert_frame_equal(pl.read_parquet(tmp_path / "same"), made["music"])
    assert not pl.read_parquet(tmp_path / "other").equals(made["music"])


def test_a_file_is_not_overwritten(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "kept.parquet"
    kept.write_text("mine")
    with pytest.raises(SystemExit) as stopped:
        run(["news", "--out", str(kept)])
    assert stopped.value.code == 2
    assert kept.read_text() == "mine"
    assert "is there already" in capsys.readouterr().err
