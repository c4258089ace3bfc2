"""``recsys recommend`` as a function: a bundle in, a parquet file out, or one clear message."""

import signal
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recsys.bundle.format import Manifest
from recsys.bundle.reader import Bundle
from recsys.config.schema import RecommendConfig
from recsys.entries.recommend import asked_users, run
from recsys.errors import BundleError, ConfigError, DataError, RecsysError
from recsys.export.bundle import export_bundle


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
    (tmp_path / "floats.CSV").write_text("user_id\n103.0\n101.0\n5.0\n")
    for users in ("103, 101,5", *(str(tmp_path / name) for name in ("users.parquet", "users.csv", "floats.CSV"))):
        cfg.users = users
        assert pl.read_parquet(run(cfg)).equals(expected)


def test_floats_are_users_where_they_are_whole(cfg: RecommendConfig, bundle: Bundle, tmp_path: Path) -> None:
    cfg.users = str(tmp_path / "users.parquet")
    pl.DataFrame({"user_id": [103.0, 101.0]}).write_parquet(cfg.users)
    assert pl.read_parquet(run(cfg)).equals(bundle.recommend([103, 101], 3))
    pl.DataFrame({"user_id": [103.0, 101.5, float("nan")]}).write_parquet(cfg.users)
    with pytest.raises(ConfigError, match=r"2 values of user_id are not int, as the bundle's are, such as 101\.5"):
        run(cfg)


def test_an_id_with_a_comma_is_one_user(shop_maker: Any, tmp_path: Path) -> None:
    shop = shop_maker(2, str)
    odd = pl.col("user_id").replace("107", " a,b.csv")
    users, events = shop.users.with_columns(odd), shop.events.with_columns(odd)
    export_bundle(tmp_path / "bundle", **replace(shop, users=users, events=events).arguments(index="flat"))
    bundle = Bundle.load(tmp_path / "bundle")
    assert asked_users(" a,b.csv", bundle).to_list() == [" a,b.csv"]
    assert asked_users("a, b", bundle).to_list() == ["a", "b"]


def test_ids_of_a_csv_stay_what_they_are(shop_maker: Any, tmp_path: Path) -> None:
    """A string keeps its zeros, in both files; whole numbers may have become floats; what is not read does no harm."""
    shop = shop_maker(2, str)
    zeros = pl.col("user_id").str.replace("^1", "0")
    users, events = shop.users.with_columns(zeros), shop.events.with_columns(zeros)
    export_bundle(tmp_path / "bundle", **replace(shop, users=users, events=events).arguments(index="flat"))
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle.user_ids[7] == "007"
    (tmp_path / "users.csv").write_text("user_id,note\n" + "007,1\n" * 200 + "7,late\n")
    (tmp_path / "new.csv").write_text("user_id,item_id,timestamp\n007,1003,2024-03-01T05:00:00Z\n")
    cfg = RecommendConfig(str(bundle.folder), str(tmp_path / "recs.parquet"), k=3, users=str(tmp_path / "users.csv"))
    assert pl.read_parquet(run(cfg)).equals(bundle.recommend(["007", "7"], 3))
    cfg.events = str(tmp_path / "new.csv")
    at = datetime.fromisoformat("2024-03-01T05:00:00Z")
    told = bundle.recommend(["007", "7"], 3, [[("1003", at)], None], as_of=at + timedelta(microseconds=1))
    assert pl.read_parquet(run(cfg)).equals(told)


def test_exclude_seen(cfg: RecommendConfig, bundle: Bundle) -> None:
    cfg.exclude_seen = True
    assert pl.read_parquet(run(cfg)).equals(bundle.recommend(k=3, exclude_seen=True))


def test_lists_that_are_shorter_than_asked_for_are_said(
    cfg: RecommendConfig, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg.k = len(bundle.item_ids) + 1
    rows = len(pl.read_parquet(run(cfg)))
    said = f"{rows:,} rows for 40 users, fewer than {cfg.k} where no more items may be shown, ->"
    assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"users": "a,b"}, ConfigError, "2 values of user_id are not int, as the bundle's are, such as 'a'"),
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


def in_parts(cfg: RecommendConfig, tmp_path: Path, **changes: Any) -> RecommendConfig:
    return replace(cfg, output=str(tmp_path / "parts"), users_a_part=15, **changes)


def test_parts_hold_the_same_as_a_file(cfg: RecommendConfig, bundle: Bundle, tmp_path: Path) -> None:
    folder = run(in_parts(cfg, tmp_path))
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["_SUCCESS", "_recommend.json", *(f"part-0000{n}.parquet" for n in range(3))]
    assert pl.read_parquet(folder / "part-*.parquet").equals(bundle.recommend(k=3))


def test_a_killed_run_goes_on_behind_its_parts(
    cfg: RecommendConfig, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = in_parts(cfg, tmp_path)
    code = (
        "import os, signal\n"
        "from recsys.config.schema import RecommendConfig\n"
        "import recsys.entries.recommend as recommend\n"
        "whole = recommend.replacing\n"
        "count = 0\n"
        "def killed(path, what):\n"
        "    global count\n"
        "    count += 1\n"
        "    if count == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return whole(path, what)\n"
        "recommend.replacing = killed\n"
        f"recommend.run(RecommendConfig(**{asdict(chosen)!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder = tmp_path / "parts"
    first = folder / "part-00000.parquet"
    assert sorted(p.name for p in folder.glob("part*")) == [first.name]
    written = first.stat().st_mtime_ns
    assert run(chosen) == folder
    assert "1 of 3 parts are there already" in capsys.readouterr().out
    assert first.stat().st_mtime_ns == written
    assert pl.read_parquet(folder / "part-*.parquet").equals(bundle.recommend(k=3))

    with pytest.raises(ConfigError, match=r"other settings \(k was 3, is 4\)"):
        run(replace(chosen, k=4))
    with pytest.raises(ConfigError, match="users was"):
        run(replace(chosen, users="101,102"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="a folder of something else"):
        run(replace(chosen, output=str(tmp_path / "mine")))


def test_parts_of_the_same_users_in_another_order_are_refused(cfg: RecommendConfig, tmp_path: Path) -> None:
    run(in_parts(cfg, tmp_path, users="101,102,103"))
    with pytest.raises(ConfigError, match="users was 3 rows"):
        run(in_parts(cfg, tmp_path, users="103,101,102"))


def test_as_of_a_later_time_with_what_happened_since(cfg: RecommendConfig, bundle: Bundle, tmp_path: Path) -> None:
    items = bundle.item_ids.to_list()
    cut = datetime.fromisoformat(bundle.manifest.cut)
    at = cut + timedelta(days=2)
    rows = [
        (101, items[3], cut - timedelta(days=1)),  # which the bundle knows
        (101, items[7], cut + timedelta(days=1)),
        (103, items[9], at),  # not before the time that is asked for
        (101, items[8], cut + timedelta(hours=5)),
    ]
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_parquet(tmp_path / "new.parquet")
    chosen = replace(cfg, users="101,103", as_of=at.isoformat(), events=str(tmp_path / "new.parquet"))
    fresh = [(items[8], cut + timedelta(hours=5)), (items[7], cut + timedelta(days=1))]
    assert pl.read_parquet(run(chosen)).equals(bundle.recommend([101, 103], 3, [fresh, None], as_of=at))

    last = bundle.recommend([101, 103], 3, [fresh, [(items[9], at)]], as_of=at + timedelta(microseconds=1))
    assert pl.read_parquet(run(replace(chosen, as_of=None))).equals(last)
    with pytest.raises(BundleError, match="lies before the bundle's cut"):
        run(replace(chosen, as_of=(cut - timedelta(days=1)).isoformat()))
    with pytest.raises(ConfigError, match="is no ISO time"):
        run(replace(chosen, as_of="yesterday"))
    pl.DataFrame({"user_id": ["x"], "item_id": [1], "timestamp": [at]}).write_parquet(tmp_path / "wrong.parquet")
    with pytest.raises(ConfigError, match="1 values of user_id are not int"):
        run(replace(chosen, events=str(tmp_path / "wrong.parquet")))
