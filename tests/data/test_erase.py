"""People leave prepared data: their rows go, the counts follow, and a kill on the way is made good by a second call."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from recsys.config.data import DataConfig, ImputationConfig
from recsys.data import erase, imputation_store
from recsys.data.dataset import fit_data, interaction_log
from recsys.data.erase import clear_cache, erase_from_prepared, erase_from_tables, found_in_tables, prepared_folders
from recsys.data.imputation import impute
from recsys.data.prepare import prepare
from recsys.data.prepared import load_prepared
from recsys.errors import DataError
from recsys.files import hashes
from recsys.privacy.erased import add_erased

GONE = {"3", "a pseudonym"}


def test_rows_go_and_the_counts_follow(shop) -> None:
    """Event i is of user i % 7 + 1: 14 of the 100 are of user 3."""
    before = prepare(shop)
    listed = add_erased(Path(shop.cache_dir), ["3"])
    assert prepared_folders(Path(shop.cache_dir)) == [before.path]
    assert erase_from_prepared(before.path, GONE, listed.digest) == 14
    after = load_prepared(before.path)
    assert_frame_equal(after.events, before.events.filter(pl.col("user_id") != 3))
    assert_frame_equal(after.users, before.users.filter(pl.col("user_id") != 3))
    assert_frame_equal(after.items, before.items)
    assert (after.windows, after.spec, after.fingerprint) == (before.windows, before.spec, before.fingerprint)
    rows = {"read": 100, "kept": 86, "duplicates": 0, "after_end": 0, "impressions": 0, "rejected": 14}
    assert after.report["rows"] == rows
    assert after.report["rejects"] == {"erased_user": 14}
    assert after.report["users_left_out"] == {"erased_user": 1}


def test_impressions_go_and_accounts_over_a_limit_are_no_longer_named(shop, shop_events, tmp_path) -> None:
    kind = pl.when(pl.int_range(pl.len()) % 10 == 0).then(pl.lit("shown")).otherwise(pl.lit("sale"))
    shop_events.with_columns(event_type=kind).write_parquet(tmp_path / "typed.parquet")
    cfg = replace(shop, events=str(tmp_path / "typed.parquet"), impressions=["shown"])
    cfg.cleaning.accounts.lines = 1
    before = prepare(cfg)
    theirs = before.impressions.filter(pl.col("user_id") == 3)
    assert len(theirs)
    assert "lines of 3 (" in str(before.report["cleaning"])
    erase_from_prepared(before.path, GONE, add_erased(Path(cfg.cache_dir), ["3"]).digest)
    after = load_prepared(before.path)
    assert_frame_equal(after.impressions, before.impressions.filter(pl.col("user_id") != 3))
    assert "lines of 3 (" not in str(after.report["cleaning"])
    assert "lines of 4 (" in str(after.report["cleaning"])
    rows = after.report["rows"]
    assert rows["read"] == sum(rows.values()) - rows["read"]


def test_the_purged_folder_is_used_again_and_can_be_trained_on(shop) -> None:
    before = prepare(shop)
    listed = add_erased(Path(shop.cache_dir), ["3"])
    erase_from_prepared(before.path, GONE, listed.digest)
    files = hashes(before.path)
    again = prepare(shop)
    assert hashes(before.path) == files
    data = fit_data(again, interaction_log(again), again.windows.test_start)
    assert data.log.n_users == 6


def test_the_same_as_preparing_without_them(shop, shop_events, tmp_path) -> None:
    """Where the windows are given, purging and preparing anew end with the same tables."""
    cfg = replace(shop, split=replace(shop.split, val_start="2024-01-03", test_start="2024-01-04"))
    purged = prepare(cfg)
    listed = add_erased(Path(shop.cache_dir), ["3"])
    erase_from_prepared(purged.path, GONE, listed.digest)
    fresh_dir = tmp_path / "fresh"
    fresh_dir.mkdir()
    (fresh_dir / "erased.json").write_bytes((Path(shop.cache_dir) / "erased.json").read_bytes())
    fresh = prepare(replace(cfg, cache_dir=str(fresh_dir)))
    old = load_prepared(purged.path)
    for name in ("events", "users", "items"):
        assert_frame_equal(getattr(old, name), getattr(fresh, name))
    assert old.report["rows"] == fresh.report["rows"]
    assert old.report["rejects"] == fresh.report["rejects"]
    assert old.fingerprint == fresh.fingerprint


def test_items_known_from_their_events_alone_go_too(config, shop_events) -> None:
    only = shop_events.with_columns(
        item_id=pl.when(pl.col("user_id") == 3).then(pl.lit("made for 3")).otherwise("item_id")
    )
    data = prepare(config(events=only, context=["store"]))
    assert "made for 3" in data.items["item_id"].to_list()
    erase_from_prepared(data.path, GONE, "digest")
    assert "made for 3" not in load_prepared(data.path).items["item_id"].to_list()


@pytest.fixture
def filled(config, shop_events) -> Callable[..., DataConfig]:
    """Config of a shop of 7 users whose towns were filled; user 3 lives where nobody else does, in a group of one."""
    users = pl.DataFrame(
        {
            "user_id": range(1, 8),
            "district": ["n", "n", "solitude", "s", "s", "n", "s"],
            "age": [30, 31, 99, 50, 51, None, 52],
            "town": ["Ulm", "Ulm", "Nowhere", "Bern", None, None, "Bern"],
        }
    )
    items = pl.DataFrame({"item_id": [f"sku{i}" for i in range(11)], "brand": "a"})

    def make(method: str, **keys: object) -> DataConfig:
        filling = ImputationConfig(users={"town": method}, user_groups=["district"])
        return config(events=shop_events, items=items, users=users, imputation=filling, **keys)

    return make


@pytest.mark.parametrize("method", ["missing", "most_frequent", "knn", "iterative"])
def test_what_fills_attributes_forgets_them(filled, method) -> None:
    data = prepare(filled(method))
    stored = data.path / "imputation" / "users"
    asked = data.users.head(4).with_columns(pl.lit(None, pl.String).alias("town"), user_id=pl.lit(100, pl.Int64))
    before = impute(data.imputers["users"], asked)
    if method in ("most_frequent", "knn"):
        assert "Nowhere" in before["town"]
    erase_from_prepared(data.path, GONE, add_erased(data.path.parent, ["3"]).digest)
    after = load_prepared(data.path)
    for file in stored.rglob("*.parquet"):
        cells = {str(cell) for row in pl.read_parquet(file).rows() for cell in row}
        assert not {"Nowhere", "solitude", "99"} & cells
    assert "Nowhere" not in (stored / "imputer.json").read_text()
    assert "Nowhere" not in impute(after.imputers["users"], asked)["town"]
    (filler,) = after.imputers["users"].fillers
    assert (filler.method, filler.gaps) == (method, 2)
    files = hashes(data.path)
    assert prepare(filled(method)).path == data.path
    assert hashes(data.path) == files


@pytest.mark.parametrize("stop", [0, 1, 2, 3, 4])
def test_killed_on_the_way_and_called_again(filled, monkeypatch, tmp_path, stop) -> None:
    """Whatever was written by then, the end is the same; and what lies there on the way is never taken for whole."""
    shop = filled("most_frequent")
    other = replace(shop, cache_dir=str(tmp_path / "other"))
    straight, killed = prepare(shop).path, prepare(other).path
    erase_from_prepared(straight, GONE, "digest")
    writes = []

    def dying(path: Path, *rest: object) -> object:
        if len(writes) == stop:
            raise KeyboardInterrupt
        writes.append(path)
        return real(path, *rest)

    for module, name in ((erase, "_rewrite"), (imputation_store, "_write"), (erase, "write_whole")):
        with monkeypatch.context() as patch:
            real = getattr(module, name)
            patch.setattr(module, name, dying)
            with suppress(KeyboardInterrupt):  # it may have fewer steps
                erase_from_prepared(killed, GONE, "digest")
    erase_from_prepared(killed, GONE, "digest")
    assert {Path(f).name: h for f, h in hashes(killed).items()} == {
        Path(f).name: h for f, h in hashes(straight).items()
    }
    load_prepared(killed)
    before = hashes(killed)
    assert erase_from_prepared(killed, GONE, "digest") == 0
    assert hashes(killed) == before


def test_rejects_name_nobody_who_left(shop, shop_events) -> None:
    """Also where a shifted row has the user in another column, as a number that came as a float."""
    shifted = pl.DataFrame({"user_id": [None, 3, 4], "item_id": ["x", None, None], "value": [3.0, 1.0, 2.0]})
    pl.concat([shop_events, shifted], how="diagonal").write_parquet(shop.events)
    data = prepare(shop)
    with pytest.raises(DataError):
        prepare(replace(shop, max_reject_share=0.0))
    cache = Path(shop.cache_dir)
    (refused,) = cache.glob("*.rejects.parquet")
    assert clear_cache(cache, GONE) == [refused]
    erase_from_prepared(data.path, GONE, "digest")
    for path in (refused, data.path / "rejects.parquet"):
        assert pl.read_parquet(path)["row_number"].to_list() == [103]
    assert clear_cache(cache, GONE) == []
    assert load_prepared(data.path).report["rejects"] == {"item_id_missing": 2, "user_id_missing": 1, "erased_user": 14}


def test_what_an_interrupted_run_left_goes_and_one_that_runs_stops(tmp_path) -> None:
    from recsys.files import NODE

    dead = tmp_path / f".shop-abc.{NODE}.999999999.x.tmp"
    dead.mkdir()
    assert clear_cache(tmp_path, GONE) == []
    assert not dead.exists()
    (tmp_path / f".shop-abc.{NODE}.{os.getppid()}.x.tmp").mkdir()
    with pytest.raises(DataError, match="another process is preparing data"):
        clear_cache(tmp_path, GONE)


def test_a_broken_folder_is_named(shop) -> None:
    data = prepare(shop)
    (data.path / "users.parquet").unlink()
    with pytest.raises(DataError, match="delete the folder"):
        erase_from_prepared(data.path, GONE, "digest")


def test_tables_of_a_run(tmp_path) -> None:
    frame = pl.DataFrame({"user_id": [3, 4], "score": [0.1, 0.2]})
    for name in ("recs.parquet", "deep/other.parquet", "bundle/users.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        frame.write_parquet(tmp_path / name)
    pl.DataFrame({"id": [3]}).write_parquet(tmp_path / "numbers.parquet")
    changed = erase_from_tables(tmp_path, GONE, skip=[tmp_path / "bundle"])
    assert changed == [tmp_path / "deep" / "other.parquet", tmp_path / "recs.parquet"]
    assert pl.read_parquet(tmp_path / "recs.parquet")["user_id"].to_list() == [4]
    assert len(pl.read_parquet(tmp_path / "bundle" / "users.parquet")) == 2
    assert erase_from_tables(tmp_path, GONE, skip=[tmp_path / "bundle"]) == []


def test_only_a_number_that_came_as_a_float_loses_its_point(tmp_path) -> None:
    for name, ids in (("text", ["acme", "acme.0", None]), ("gap", [3.0, 4.0, None])):
        pl.DataFrame({"user_id": ids}).write_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    assert found_in_tables(tmp_path, {"acme.0", "3", "nobody"}) == {"acme.0", "3"}
    assert found_in_tables(tmp_path / "nowhere", {"3"}) == set()
    (tmp_path / "broken.parquet").unlink()
    assert len(erase_from_tables(tmp_path, {"acme", "3"})) == 2
    assert pl.read_parquet(tmp_path / "text.parquet")["user_id"].to_list() == ["acme.0", None]
    assert pl.read_parquet(tmp_path / "gap.parquet")["user_id"].to_list() == [4.0, None]
    assert erase_from_tables(tmp_path, {"acme.0"}) == [tmp_path / "text.parquet"]


def test_people_leave_every_partition_and_the_slices(shop) -> None:
    at_once = prepare(shop)
    cfg = replace(shop, partitions=3, cache_dir=f"{shop.cache_dir} in parts")
    before = prepare(cfg)
    cache = Path(cfg.cache_dir)
    assert list(cache.glob("*.parts/slices/*"))
    listed = add_erased(cache, ["3"])
    assert clear_cache(cache, GONE) == []
    assert not list(cache.glob("*.parts"))
    assert erase_from_prepared(before.path, GONE, listed.digest) == 14
    after = load_prepared(before.path)
    assert_frame_equal(after.events, at_once.events.filter(pl.col("user_id") != 3))
    assert after.report["rows"]["kept"] == 86
    assert prepare(cfg).report == after.report
