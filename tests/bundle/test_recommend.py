"""``recsys recommend`` as a function: a bundle in, a parquet file out, or one clear message."""

from pathlib import Path

import polars as pl
import pytest

from recsys.bundle.format import Manifest
from recsys.bundle.reader import Bundle
from recsys.config.schema import RecommendConfig
from recsys.entries.recommend import run
from recsys.errors import BundleError, ConfigError, DataError, RecsysError


@pytest.fixture
def cfg(exported: tuple[Path, Manifest], tmp_path: Path) -> RecommendConfig:
    return RecommendConfig(bundle=str(exported[0]), output=str(tmp_path / "out" / "recs.parquet"), k=3, batch_size=7)


def test_all_users_in_batches(cfg: RecommendConfig, bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    output = run(cfg)
    assert pl.read_parquet(output).equals(bundle.recommend(k=3))
    assert [p.name for p in output.parent.iterdir()] == ["recs.parquet"]
    assert "120 rows for 40 users" in " ".join(capsys.readouterr().out.split())


def test_users_from_a_list_and_from_files(cfg: RecommendConfig, bundle: Bundle, tmp_path: Path) -> None:
    expected = bundle.recommend([103, 101, 5], 3)
    pl.DataFrame({"user_id": [103, 101, 5, 103]}).write_parquet(tmp_path / "users.parquet")
    (tmp_path / "users.csv").write_text("user_id\n103\n101\n5\n")
    for users in ("103, 101,5", str(tmp_path / "users.parquet"), str(tmp_path / "users.csv")):
        cfg.users = users
        assert pl.read_parquet(run(cfg)).equals(expected)


def test_exclude_seen(cfg: RecommendConfig, bundle: Bundle) -> None:
    cfg.exclude_seen = True
    assert pl.read_parquet(run(cfg)).equals(bundle.recommend(k=3, exclude_seen=True))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"k": 0}, ConfigError, "k=0 is below 1"),
        ({"batch_size": 0}, ConfigError, "batch_size=0 is below 1"),
        ({"users": "a,b"}, ConfigError, "2 ids are not int, as the bundle's are, such as 'a'"),
        ({"users": " , "}, DataError, "no user in it"),
        ({"users": "nowhere.csv"}, DataError, "no such file"),
        ({"bundle": "nowhere"}, BundleError, "no such folder"),
        ({"output": "/dev/null/recs.parquet"}, DataError, "cannot be written"),
    ],
)
def test_what_is_refused(cfg: RecommendConfig, changes: dict, error: type[RecsysError], message: str) -> None:
    for key, value in changes.items():
        setattr(cfg, key, value)
    with pytest.raises(error, match=message):
        run(cfg)
    assert not Path(cfg.output).exists()


def test_a_file_without_the_column(cfg: RecommendConfig, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("userid\n1\n")
    cfg.users = str(tmp_path / "users.csv")
    with pytest.raises(DataError, match=r"no column 'user_id'; columns: userid\. Did you mean 'userid'"):
        run(cfg)


def test_a_failure_leaves_the_old_file(cfg: RecommendConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    output = run(cfg)
    before = output.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(DataError, match="No space left on device"):
        run(cfg)
    assert output.read_bytes() == before
    assert [p.name for p in output.parent.iterdir()] == ["recs.parquet"]
