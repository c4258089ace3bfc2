import errno
import json
import logging
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from recsys.config.data import DataConfig, ImputationConfig, SessionsConfig, SplitConfig
from recsys.data import prepare as module
from recsys.data.prepare import prepare
from recsys.data.prepared import FORMAT_VERSION, load_prepared
from recsys.errors import DataError
from recsys.files import NODE

TABLES = ("events", "items", "users", "impressions", "rejects")
FILES = {*(f"{name}.parquet" for name in TABLES), "features.yaml", "meta.json"}

NONE = dict.fromkeys(("duplicates", "after_end", "impressions", "rejected"), 0)


def test_contract_of_the_prepared_tables(shop):
    data = prepare(shop)
    assert {f.name for f in data.path.iterdir()} == FILES
    assert data.path.name == f"shop-{data.fingerprint[:12]}"
    assert data.events.columns == ["user_id", "item_id", "timestamp", "value", "store"]
    assert data.events.schema["timestamp"] == pl.Datetime("us", "UTC")
    assert data.events.equals(data.events.sort("user_id", "timestamp", "item_id"))
    assert data.items["item_id"].to_list() == sorted(f"sku{i}" for i in range(11))
    assert data.users["user_id"].to_list() == list(range(1, 8))
    assert data.users["gender"].to_list() == ["f", "m", *[None] * 5]
    assert data.windows.val_start == datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=70)
    assert data.windows.test_start == datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=85)
    assert data.has_item_table
    assert [f.name for f in data.spec] == ["user_id", "item_id", "gender", "brand", "price", "store", "time"]


def test_second_run_reuses_and_says_so(shop, caplog, monkeypatch):
    first = prepare(shop)
    monkeypatch.setattr(module, "build_whole", lambda *_: pytest.fail("the tables were read again"))
    with caplog.at_level(logging.INFO):
        second = prepare(shop)
    assert f"reusing prepared data {first.path}" in caplog.text
    assert (second.fingerprint, second.windows, second.spec) == (first.fingerprint, first.windows, first.spec)
    assert_frame_equal(second.events, first.events)


def test_content_and_meaning_make_the_fingerprint_and_places_do_not(shop, shop_events, tmp_path):
    first = prepare(shop).fingerprint
    moved = tmp_path / "moved.parquet"
    moved.write_bytes(Path(shop.events).read_bytes())
    assert prepare(replace(shop, events=str(moved), cache_dir=str(tmp_path / "other"))).fingerprint == first
    assert prepare(replace(shop, sessions=SessionsConfig(gap_minutes=5))).fingerprint == first
    assert prepare(replace(shop, imputation=ImputationConfig(default="auto"))).fingerprint != first
    assert prepare(replace(shop, timezone="Asia/Tokyo")).fingerprint != first
    assert prepare(replace(shop, split=SplitConfig(val=0.2))).fingerprint != first
    shop_events.with_columns(pl.col("value") + 1).write_parquet(moved)
    assert prepare(replace(shop, events=str(moved))).fingerprint != first


def test_order_of_the_input_plays_no_part(shop, shop_events, tmp_path):
    dirty = pl.concat([shop_events, shop_events[:3], shop_events[:2].with_columns(user_id=None)])
    first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
    dirty.write_parquet(first)
    dirty.sample(fraction=1, shuffle=True, seed=3).write_parquet(second)
    a, b = (prepare(replace(shop, events=str(path))) for path in (first, second))
    for name in ("events", "items", "users"):
        assert_frame_equal(getattr(a, name), getattr(b, name))
    assert (a.windows, a.spec, a.report) == (b.windows, b.spec, b.report)
    assert a.report["rows"] == NONE | {"read": 105, "kept": 100, "duplicates": 3, "rejected": 2}


def test_shuffling_the_future_changes_nothing_before_it(config, shop_events):
    """Item attributes ride on the events here; the test window gets other users, items, stores and values."""

    def one(events):
        return prepare(
            config(name="ride", events=events, split=SplitConfig(val_start="2024-01-03", test_start="2024-01-04"))
        )

    late = pl.col("timestamp") >= datetime(2024, 1, 4)
    future = shop_events.with_columns(
        item_id=pl.when(late).then(pl.col("item_id").shuffle(seed=1)).otherwise("item_id"),
        store=pl.when(late).then(pl.lit("east")).otherwise("store"),
        value=pl.when(late).then(-pl.col("value")).otherwise("value"),
    )
    a, b = one(shop_events), one(future)
    known = a.events.filter(pl.col("timestamp") < a.windows.test_start).select("item_id").unique()
    assert not a.has_item_table
    assert a.spec == b.spec
    assert_frame_equal(*(d.items.join(known, on="item_id", how="semi").sort("item_id") for d in (a, b)))
    assert_frame_equal(*(d.events.filter(pl.col("timestamp") < a.windows.test_start) for d in (a, b)))


def test_rejects_are_written_with_reason_and_row(shop, shop_events, tmp_path):
    dirty = shop_events.with_columns(item_id=pl.when(pl.col("value") == 41).then(None).otherwise("item_id"))
    path = tmp_path / "dirty.parquet"
    dirty.write_parquet(path)
    data = prepare(replace(shop, events=str(path)))
    rejects = pl.read_parquet(data.path / "rejects.parquet")
    assert rejects.select("row_number", "reject_reason", "value").rows() == [(42, "item_id_missing", 41.0)]
    assert data.report["rejects"] == {"item_id_missing": 1}
    with pytest.raises(DataError, match="1 of 100 rows") as caught:
        prepare(replace(shop, events=str(path), max_reject_share=0.001))
    (written,) = (tmp_path / "prepared").glob("*.rejects.parquet")
    assert str(written) in str(caught.value)
    assert_frame_equal(pl.read_parquet(written), rejects)


def test_end_of_the_split_is_counted_apart(shop):
    data = prepare(replace(shop, split=SplitConfig(end="2024-01-04")))
    assert data.report["rows"] == NONE | {"read": 100, "kept": 72, "after_end": 28}


def test_declared_features_are_used(shop):
    features = [{"name": "price", "side": "item", "kind": "numeric"}]
    assert [f.name for f in prepare(replace(shop, features=features)).spec] == ["user_id", "item_id", "price"]


def test_a_users_table_of_other_users_is_refused(shop):
    users = pl.DataFrame({"user_id": [101, 102], "gender": ["f", "m"]})
    users.write_parquet(shop.users)
    with pytest.raises(DataError, match=r"data\.users=.*none of its users occurs in the events"):
        prepare(shop)


def test_interrupted_prepare_leaves_nothing_and_the_next_run_starts_clean(shop, monkeypatch):
    cache = Path(shop.cache_dir)
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_features", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(shop)
    assert list(cache.iterdir()) == []
    name = f"shop-{module._fingerprint(shop)[:12]}"
    killed = cache / f".{name}.{NODE}.{2**22 + 1}.abc.tmp"  # above the largest process number of Linux
    running = cache / f".{name}.{NODE}.{os.getppid()}.abc.tmp"
    for left in (killed, running):
        left.mkdir()
        (left / "events.parquet").write_text("half")
    data = prepare(shop)
    assert {f.name for f in cache.iterdir()} == {data.path.name, running.name}


def test_incomplete_folder_is_refused_and_prepared_again(shop, caplog):
    data = prepare(shop)
    (data.path / "items.parquet").unlink()
    with pytest.raises(DataError, match="not a complete prepared data set"):
        load_prepared(data.path)
    again = prepare(shop)
    assert "Preparing it again" in caplog.text
    assert_frame_equal(again.items, data.items)
    data.events[:-1].write_parquet(data.path / "events.parquet")
    with pytest.raises(DataError, match="row counts"):
        load_prepared(data.path)


def test_other_format_and_missing_folder_are_refused(shop, tmp_path):
    data = prepare(shop)
    meta = json.loads((data.path / "meta.json").read_text())
    (data.path / "meta.json").write_text(json.dumps(meta | {"format": 99}))
    with pytest.raises(DataError, match=f"format 99, this version reads {FORMAT_VERSION}"):
        load_prepared(data.path)
    with pytest.raises(DataError, match="not a complete prepared data set"):
        load_prepared(tmp_path / "nowhere")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_output_that_cannot_be_written(shop, monkeypatch, code):
    def full(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(DataError, match=rf"cannot be written: .*{os.strerror(code)}.*data\.cache_dir"):
        prepare(shop)
    assert list(Path(shop.cache_dir).iterdir()) == []


def test_output_folder_under_a_file(shop, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written.*data\.cache_dir"):
        prepare(replace(shop, cache_dir=str(tmp_path / "file" / "prepared")))


def test_bad_input_writes_nothing(shop, shop_events, tmp_path):
    path = tmp_path / "one.parquet"
    shop_events.with_columns(user_id=pl.lit(1)).write_parquet(path)
    with pytest.raises(DataError, match=r"1 user\(s\)"):
        prepare(replace(shop, events=str(path)))
    assert not Path(shop.cache_dir).exists()


def test_complete_journey_cuts(tmp_path):
    data = prepare(DataConfig(name="cj", source="completejourney", context=["store_id"], cache_dir=str(tmp_path)))
    assert data.windows.val_start == datetime(2017, 9, 13, 14, 49, 49, tzinfo=UTC)
    assert data.windows.test_start == datetime(2017, 11, 8, 5, 51, 39, tzinfo=UTC)
    assert len(data.events) == 1_469_307
    assert data.events.filter(pl.col("timestamp") >= data.windows.test_start)["user_id"].n_unique() == 2_219
    assert {f.kind for f in data.spec} == {"id", "timestamp"}
