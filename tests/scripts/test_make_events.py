"""Synthetic shops: the same whatever the chunk, with the planted structure, and dirt in exactly the told amounts."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from recsys.config.data import DataConfig
from recsys.data.prepare import prepare

SIZES = ("--events=40000", "--users=3000", "--items=600")
TIME = r"^\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}$"


@dataclass(frozen=True)
class Written:
    """A folder that the script wrote."""

    folder: Path

    @property
    def truth(self) -> dict[str, Any]:
        """What was planted."""
        return json.loads((self.folder / "truth" / "truth.json").read_text())

    def table(self, name: str) -> pl.DataFrame:
        """One of the tables, all parts of it."""
        path = self.folder / name
        return pl.read_parquet(sorted(path.iterdir()) if path.is_dir() else path)

    def bytes(self) -> dict[str, bytes]:
        """Every file."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def make(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Written]:
    """Write a shop into a new folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(repo / "scripts")
        script = import_module("make_events")

    def write(*arguments: str) -> Written:
        folder = tmp_path_factory.mktemp("shops") / "shop"
        assert script.main([f"--out={folder}", *SIZES, *arguments]) == 0
        return Written(folder)

    return write


@pytest.fixture(scope="module")
def clean(make: Callable[..., Written]) -> Written:
    return make()


@pytest.fixture(scope="module")
def dirty(make: Callable[..., Written]) -> Written:
    return make("--dirt=0.05")


def test_the_seed_decides_and_the_chunk_does_not(make: Callable[..., Written], dirty: Written) -> None:
    again, small, other = make("--dirt=0.05"), make("--dirt=0.05", "--chunk-rows=1"), make("--dirt=0.05", "--seed=1")
    assert again.bytes() == dirty.bytes()
    assert len(list((small.folder / "events").iterdir())) == 3  # blocks of 1,024 users
    assert len(list((dirty.folder / "events").iterdir())) == 1
    assert small.truth == dirty.truth
    for name in ("events", "users", "items.parquet", "truth/segments", "truth/items.parquet"):
        assert_frame_equal(small.table(name), dirty.table(name))
        assert not other.table(name).equals(dirty.table(name))


def test_clean_lines_are_the_same_with_and_without_dirt(clean: Written, dirty: Written) -> None:
    kept = dirty.table("events").filter(~pl.col("user_id").is_in(dirty.truth["bots"])).unique()
    plain = clean.table("events").select(
        user_id=pl.format("u{}", "user_id"),
        item_id=pl.format("i{}", "item_id"),
        timestamp=pl.col("timestamp").dt.to_string("%Y-%m-%d %H:%M:%S"),
        event_type="event_type",
    )
    found = plain.join(kept, on=plain.columns, how="semi")
    dirt = dirty.truth["dirt"]
    spoiled = sum(dirt[f"missing_{name}"] for name in ("users", "items", "times"))
    assert len(plain) - len(found) == spoiled + dirt["unreadable_times"] + dirt["shifted_rows"]


def test_sizes_and_types(clean: Written) -> None:
    events, truth = clean.table("events"), clean.truth
    assert truth["rows"]["total"] == truth["rows"]["clean"] == len(events)
    assert truth["dirt"] == {}
    assert len(events) == pytest.approx(40_000, rel=0.03)  # returns are more, equal events within a minute are less
    assert events["timestamp"].dtype == pl.Datetime("us")
    assert dict(events["event_type"].value_counts().iter_rows()) == truth["event_types"]
    assert clean.table("users")["user_id"].to_list() == list(range(1, 3001))
    assert clean.table("items.parquet")["item_id"].to_list() == list(range(1, 601))
    assert events["user_id"].is_in(clean.table("users")["user_id"].implode()).all()
    assert events["item_id"].is_in(clean.table("items.parquet")["item_id"].implode()).all()


def test_baskets_are_paid_at_one_time_and_returns_follow_a_purchase(clean: Written) -> None:
    events = clean.table("events")
    bought, returned = events.filter(event_type="purchase"), events.filter(event_type="return")
    assert events.filter(pl.col("basket_id").is_not_null()).equals(bought)
    assert bought.group_by("basket_id").agg(pl.col("user_id", "timestamp").n_unique()).max().row(0)[1:] == (1, 1)
    assert (bought["quantity"] > 0).all()
    assert (returned["quantity"] < 0).all()
    first = bought.group_by("user_id", "item_id").agg(pl.col("timestamp").min().alias("bought"))
    pairs = returned.join(first, on=["user_id", "item_id"])
    assert len(pairs) == len(returned) > 100
    assert (pairs["timestamp"] > pairs["bought"]).all()


def test_no_clean_events_are_near_duplicates(clean: Written) -> None:
    assert len(close_pairs(clean.table("events"), clean.truth["clean_seconds"])) == 0


def close_pairs(events: pl.DataFrame, seconds: int) -> pl.DataFrame:
    """Lines that follow an equal one (user, item, type) within so many seconds."""
    same = ["user_id", "item_id", "event_type"]
    gap = pl.col("timestamp").diff().over(same)
    return events.sort(*same, "timestamp").filter(gap <= pl.duration(seconds=seconds))


def test_repeat_cycles_are_in_the_data(clean: Written) -> None:
    bought = clean.table("events").filter(event_type="purchase").sort("user_id", "item_id", "timestamp")
    days = pl.col("timestamp").diff().over("user_id", "item_id").dt.total_seconds() / 86_400
    gaps = bought.with_columns(days=days).drop_nulls("days").group_by("item_id").agg(pl.col("days").median(), pl.len())
    found = gaps.filter(pl.col("len") >= 20).join(clean.table("truth/items.parquet"), on="item_id")
    assert found["cycle_days"].null_count() == 0  # nothing else comes back that often
    assert set(found["cycle_days"]) == {7, 14, 28}
    assert (found["days"] / found["cycle_days"] - 1).abs().quantile(0.9) < 0.1


def test_segments_are_in_the_data(clean: Written) -> None:
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    events = clean.table("events").join(clean.table("items.parquet"), on="item_id")
    shares = events.pivot("category", index="user_id", values="item_id", aggregate_function="len").fill_null(0)
    shares = shares.filter(pl.sum_horizontal(pl.exclude("user_id")) >= 5).join(
        clean.table("truth/segments"), on="user_id"
    )
    counts = shares.drop("user_id", "segment").to_numpy().astype(float)
    groups = KMeans(4, n_init=10, random_state=0).fit_predict(counts / counts.sum(1, keepdims=True) @ blocks(shares))
    assert len(shares) > 2000
    assert adjusted_rand_score(shares["segment"].to_list(), groups) > 0.9


def blocks(shares: pl.DataFrame) -> np.ndarray:
    """Categories to what is bought together: those whose shares rise and fall with each other."""
    counts = shares.drop("user_id", "segment").to_numpy().astype(float)
    return (np.corrcoef(counts.T) > 0).astype(float)


def test_popularity_is_a_power_law(clean: Written) -> None:
    counts = clean.table("events").filter(event_type="view")["item_id"].value_counts()["count"].sort(descending=True)
    assert counts.head(60).sum() > 0.4 * counts.sum()  # a tenth of the items
    assert len(counts) > 550


def test_season(clean: Written) -> None:
    views = clean.table("events").filter(event_type="view")
    weekdays = views.group_by(pl.col("timestamp").dt.weekday()).len().sort("timestamp")["len"]
    planted = clean.truth["season"]["weekdays"]
    assert np.corrcoef(weekdays, planted)[0, 1] > 0.95
    holidays = [f"11-{day}" for day in range(25, 31)] + [f"12-{day:02}" for day in range(1, 25)]
    season = views.filter(pl.col("timestamp").dt.strftime("%m-%d").is_in(holidays))
    assert len(season) / 30 > 1.3 * len(views) / 366


def test_cold_items_are_sold_from_their_launch_on(clean: Written) -> None:
    planted = clean.table("truth/items.parquet")
    cold = planted.filter("is_cold")
    assert 30 < len(cold) < 90
    first = clean.table("events").group_by("item_id").agg(pl.col("timestamp").min()).join(cold, on="item_id")
    assert len(first) > 20
    assert (first["timestamp"] >= first["launch"]).all()


def test_dirt_is_found_again(dirty: Written) -> None:
    events, told = dirty.table("events"), dirty.truth["dirt"]
    assert len(events) == dirty.truth["rows"]["total"]
    user, time = pl.col("user_id"), pl.col("timestamp")
    shifted = user.str.contains(TIME).fill_null(False)
    whole = events.filter(~shifted)
    distinct = whole.unique(maintain_order=True)
    is_time = time.str.contains(TIME) & (time != "0000-00-00 00:00:00")
    dated = distinct.filter(is_time).with_columns(pl.col("timestamp").str.to_datetime("%Y-%m-%d %H:%M:%S"))
    is_bot = pl.col("user_id").str.slice(1).cast(pl.Int64, strict=False) > 3000
    found = {
        "shifted_rows": int(events.select(shifted.sum()).item()),
        "exact_duplicates": len(whole) - len(distinct),
        "near_duplicates": len(close_pairs(dated.drop_nulls(["user_id", "item_id"]), dirty.truth["near_seconds"])),
        "missing_users": whole["user_id"].null_count(),
        "missing_items": whole["item_id"].null_count(),
        "missing_times": whole["timestamp"].null_count(),
        "unreadable_times": len(whole.filter(~is_time)),
        "junk_items": len(whole.filter(~pl.col("item_id").str.starts_with("i"))),
        "bot_events": len(whole.filter(is_bot)),
    }
    assert min(found.values()) > 0
    assert found == {name: told[name] for name in found}
    assert sorted(whole.filter(is_bot)["user_id"].unique()) == sorted(dirty.truth["bots"])
    per_user = whole.drop_nulls("user_id").group_by("user_id").len()
    assert per_user.filter(is_bot)["len"].min() == 300


def test_dirt_of_the_side_tables_is_found_again(dirty: Written) -> None:
    items, users, told = dirty.table("items.parquet"), dirty.table("users"), dirty.truth["dirt"]
    contradicted = items.filter(pl.struct("category", "brand", "size", "price").n_unique().over("item_id") > 1)
    current = items.unique("item_id", keep="last", maintain_order=True)
    assert len(contradicted) == 2 * told["conflicting_rows"] > 0
    assert len(items) == 600 + told["conflicting_rows"]
    assert current["brand"].null_count() == told["missing_brands"] > 0
    assert (current["size"] == "ASSORTED").sum() == told["unreadable_sizes"] > 0
    assert users["age"].null_count() == told["missing_ages"] > 0


def test_a_dirty_shop_can_be_prepared(dirty: Written, tmp_path: Path) -> None:
    prepared = prepare(
        DataConfig(
            name="dirty",
            events=str(dirty.folder / "events"),
            items=str(dirty.folder / "items.parquet"),
            users=str(dirty.folder / "users"),
            relevant=["purchase"],
            max_reject_share=0.1,
            cache_dir=str(tmp_path),
        )
    )
    told, rejects = dirty.truth["dirt"], prepared.report["rejects"]
    assert prepared.report["rows"]["read"] == dirty.truth["rows"]["total"]
    assert prepared.report["rows"]["duplicates"] == told["exact_duplicates"]
    unreadable = told["unreadable_times"] + told["shifted_rows"]  # a shifted row has something else for its time
    by_reason = {"user_id": told["missing_users"], "item_id": told["missing_items"], "timestamp": told["missing_times"]}
    expected = {f"{name}_missing": count for name, count in by_reason.items()} | {"timestamp_unreadable": unreadable}
    assert rejects == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--items=5"], "--items must be 12 or more"),
        (["--dirt=0.9"], "--dirt must be a share from 0 to 0.5"),
        (["--days=7"], "--days must be 60 or more"),
        (["--seed=-1"], "--seed must be from 0"),
        (["--users=-5"], "--events and --users must be 1 or more"),
    ],
)
def test_what_cannot_be_made_is_refused(
    arguments: list[str], message: str, repo: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.syspath_prepend(repo / "scripts")
    with pytest.raises(SystemExit) as stop:
        import_module("make_events").main([f"--out={tmp_path}/new", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_there_is_left_alone(repo: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.syspath_prepend(repo / "scripts")
    with pytest.raises(SystemExit):
        import_module("make_events").main([f"--out={tmp_path}"])
    assert "is there already" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_tiny_and_lopsided_shops(make: Callable[..., Written]) -> None:
    for sizes in (("--users=1", "--items=12", "--events=30"), ("--users=2500", "--items=12", "--events=3")):
        written = make(*sizes, "--dirt=0.5")
        assert len(written.table("events")) == written.truth["rows"]["total"]
