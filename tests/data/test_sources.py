from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from recsys.config.data import DataConfig
from recsys.data.content import content_digest
from recsys.data.files import locate
from recsys.data.sources import read_tables, resolve
from recsys.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("ending", "write"), [("parquet", "write_parquet"), ("csv", "write_csv"), ("arrow", "write_ipc")]
)
def test_reads_every_format_to_the_same_table(tmp_path, shop_events, config, ending, write):
    path = tmp_path / f"e.{ending}"
    getattr(shop_events, write)(path)
    events = read_tables(config(events=str(path), item_attributes=[], context=["store"])).events
    assert events.columns == ["row_number", "user_id", "item_id", "timestamp", "value", "store"]
    assert events["row_number"].to_list() == list(range(1, 101))
    for name in ("user_id", "item_id", "value", "store"):
        assert events[name].to_list() == shop_events[name].to_list()


def test_directory_and_glob_read_all_files_in_the_order_of_names(tmp_path, shop_events, config):
    folder = tmp_path / "parts"
    folder.mkdir()
    shop_events[60:].write_parquet(folder / "b.parquet")
    shop_events[:60].write_parquet(folder / "a.parquet")
    (folder / "_SUCCESS").touch()
    for path in (folder, folder / "*.parquet"):
        assert read_tables(config(events=str(path))).events["value"].to_list() == shop_events["value"].to_list()
    shop_events.write_csv(folder / "c.csv")
    with pytest.raises(DataError, match="several formats"):
        locate("events", str(folder))


def test_what_is_hidden_in_a_directory_is_no_part_of_the_table(tmp_path, shop_events, config):
    for name in ("a", "_day=7/b", ".hidden", "_temporary", ".ipynb_checkpoints/a", "_delta_log/1.checkpoint", "x/.y/c"):
        path = tmp_path / "events" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        shop_events[:1].write_parquet(path)
    files, _ = locate("events", str(tmp_path / "events"))
    assert [Path(file).name for file in files] == ["b.parquet", "a.parquet"]


def test_partition_folders_are_columns_below_the_named_directory_only(tmp_path, shop_events, config):
    day = tmp_path / "run=7" / "events" / "shop=2"
    day.mkdir(parents=True)
    shop_events.write_parquet(day / "a.parquet")
    cfg = config(events=str(day.parent))
    assert read_tables(cfg).attributes == ("store", "shop")
    assert read_tables(config(events=str(day / "a.parquet"))).attributes == ("store",)
    before = content_digest(cfg)
    day.rename(day.with_name("shop=3"))
    assert content_digest(cfg) != before


def test_a_file_name_may_look_like_a_glob(tmp_path, shop_events, config):
    shop_events.write_parquet(tmp_path / "e[1].parquet")
    assert len(read_tables(config(events=str(tmp_path / "e[1].parquet"))).events) == 100


def test_csv_types_are_decided_over_all_rows_and_lose_nothing(tmp_path, config):
    path = tmp_path / "e.csv"
    path.write_text("user_id,item_id,timestamp,zip,price,basket_id\n1,007,5,01234,1,1.0\n2,8,6,99999,2.5,\n")
    events = read_tables(config(events=str(path))).events
    assert events["user_id"].to_list() == [1, 2]
    assert events["item_id"].to_list() == ["007", "8"]
    assert events["zip"].to_list() == ["01234", "99999"]
    assert events["price"].to_list() == [1.0, 2.5]
    assert events["basket_id"].to_list() == [1.0, None]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["1.0", "", "12.00"], [1, None, 12]),
        (["1", "2.0"], [1, 2]),
        (["1E5", "100000"], ["1E5", "100000"]),
        (["1", "2.5"], ["1", "2.5"]),
        (["7", "12345678901234567890"], ["7", "12345678901234567890"]),
        (["9007199254740993", "1.0"], [9007199254740993, 1]),
        (["1.0", "NaN", "NA", "12"], [1, None, None, 12]),
        (["u1", "NA"], ["u1", "NA"]),
    ],
)
def test_ids_of_a_csv_are_integers_or_text_and_stay_apart(tmp_path, config, ids, expected):
    rows = "\n".join(f"{one},{one},{one},1,5" for one in ids)
    (tmp_path / "e.csv").write_text(f"user_id,item_id,basket_id,value,timestamp\n{rows}\n")
    events = read_tables(config(events=str(tmp_path / "e.csv"))).events
    assert [events[name].to_list() for name in ("user_id", "item_id", "basket_id")] == [expected] * 3


def test_words_for_nothing_are_missing_among_numbers_alone(tmp_path, config):
    rows = "1,7,5,2,DE,NA\n2,8,NaN,NA,NA,NA\n3,9,6,1.5,None,NA\n"
    (tmp_path / "e.csv").write_text(f"user_id,item_id,timestamp,value,country,note\n{rows}")
    events = read_tables(config(events=str(tmp_path / "e.csv"))).events
    assert events["timestamp"].to_list() == [5, None, 6]
    assert events["value"].to_list() == [2.0, None, 1.5]
    assert events["country"].to_list() == ["DE", "NA", "None"]  # Namibia, and a surname
    assert events["note"].to_list() == ["NA", "NA", "NA"]


def test_a_quoted_blank_of_a_csv_is_a_missing_value(tmp_path, config):
    for name, text in (
        ("events", 'user_id,item_id,timestamp,value,store\n1,7,"5","2",n\n"2","8","","",""\n"3","9","6","1.5"," "\n'),
        ("items", 'item_id,price\n"7","2.5"\n"8",""\n'),
        ("users", 'user_id,age\n"1","30"\n"2"," "\n'),
    ):
        (tmp_path / f"{name}.csv").write_text(text)
    paths = {name: str(tmp_path / f"{name}.csv") for name in ("events", "items", "users")}
    tables = read_tables(config(**paths, context=["store"]))
    assert tables.events.drop("row_number").to_dict(as_series=False) == {
        "user_id": [1, 2, 3],
        "item_id": [7, 8, 9],
        "timestamp": [5, None, 6],
        "value": [2.0, None, 1.5],
        "store": ["n", None, None],
    }
    assert tables.items["price"].to_list() == [2.5, None]
    assert tables.users["age"].to_list() == [30, None]


def test_mapping_renames_and_only_needed_columns_are_read(config, shop_events, shop):
    renamed = shop_events.rename({"user_id": "customer", "timestamp": "ts", "value": "amount"})
    columns = {"user_id": "customer", "timestamp": "ts", "value": "amount"}
    cfg = replace(config(events=renamed, columns=columns), items=shop.items)
    tables = read_tables(cfg)
    assert tables.events.columns == ["row_number", "user_id", "item_id", "timestamp", "value"]
    assert tables.attributes == ()
    without_items = read_tables(replace(cfg, items=None))
    assert without_items.attributes == ("store",)
    assert read_tables(replace(cfg, items=None, context=["store"])).attributes == ()


def test_attribute_types_become_plain(config):
    events = pl.DataFrame(
        {
            "user_id": [1, 2],
            "item_id": [1, 2],
            "timestamp": [1, 2],
            "flag": [True, None],
            "kind": pl.Series(["x", " "], dtype=pl.Categorical),
            "tags": [["a", "b"], ["c"]],
            "day": pl.Series([0, 365], dtype=pl.Int32).cast(pl.Date),
            "score": [float("nan"), 1.0],
            "small": pl.Series([1, 2], dtype=pl.UInt8),
            "nested": [{"a": 1}, {"a": 2}],
        }
    )
    tables = read_tables(config(events=events))
    plain = tables.events.drop("row_number", "user_id", "item_id", "timestamp")
    assert plain.to_dict(as_series=False) == {
        "flag": ["true", None],
        "kind": ["x", None],
        "tags": ["a|b", "c"],
        "day": [0.0, 365.0],
        "score": [None, 1.0],
        "small": [1, 2],
    }
    assert list(tables.skipped) == ["nested"]
    with pytest.raises(DataError, match=r"column 'nested': type Struct.*is not legal"):
        read_tables(config(events=events, item_attributes=["nested"]))


def test_missing_file_names_the_nearest(tmp_path, config, shop):
    with pytest.raises(
        DataError, match=r"data\.events=.*event\.parquet: no such file.*Did you mean 'events\.parquet'\?"
    ):
        read_tables(config(events=str(tmp_path / "event.parquet")))
    with pytest.raises(DataError, match="no file matches this glob"):
        read_tables(config(events=str(tmp_path / "x*.parquet")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no file that can be read"):
        read_tables(config(events=str(tmp_path / "empty")))


def test_unreadable_format_and_content(tmp_path, config):
    (tmp_path / "e.xlsx").write_text("x")
    with pytest.raises(DataError, match=r"ending of 'e\.xlsx' is not one of parquet"):
        read_tables(config(events=str(tmp_path / "e.xlsx")))
    (tmp_path / "e.parquet").write_text("this is no parquet file")
    with pytest.raises(DataError, match=r"data\.events=.*e\.parquet: cannot be read"):
        read_tables(config(events=str(tmp_path / "e.parquet")))
    (tmp_path / "e.csv").write_text("user_id,item_id,timestamp\n")
    with pytest.raises(DataError, match="the table has no rows"):
        read_tables(config(events=str(tmp_path / "e.csv")))


def test_missing_columns_name_the_nearest(config, shop_events, shop):
    renamed = shop_events.rename({"user_id": "userid"})
    with pytest.raises(
        DataError, match=r"no column 'user_id'.*Did you mean 'userid'\? Map it with data\.columns\.user_id"
    ):
        read_tables(config(events=renamed))
    with pytest.raises(
        DataError, match=r"no column 'usrid', asked for by data\.columns\.user_id.*Did you mean 'userid'"
    ):
        read_tables(config(events=renamed, columns={"user_id": "usrid"}))
    with pytest.raises(ConfigError, match=r"data\.columns\.basketid: not a column.*Did you mean 'basket_id'"):
        read_tables(config(events=shop_events, columns={"basketid": "value"}))
    with pytest.raises(DataError, match=r"no column 'stor', asked for by data\.context.*Did you mean 'store'"):
        read_tables(config(events=shop_events, context=["stor"]))
    with pytest.raises(DataError, match=r"data\.relevant needs it"):
        read_tables(config(events=shop_events, relevant=["buy"]))
    with pytest.raises(DataError, match=r"data\.items=.*no column 'brnd'.*data\.item_attributes.*Did you mean 'brand'"):
        read_tables(replace(shop, item_attributes=["brnd"]))
    with pytest.raises(DataError, match=r"data\.users=.*asked for by data\.user_columns\.user_id"):
        read_tables(replace(shop, user_columns={"user_id": "uid"}))


@pytest.mark.parametrize("key", ["context", "item_attributes"])
@pytest.mark.parametrize("name", ["row_number", "reject_reason", "_timezone", "_copies", "_repaired"])
def test_columns_of_our_own_names_can_be_read_under_others(config, shop_events, key, name):
    events = shop_events.rename({"store": name})
    with pytest.raises(ConfigError, match=rf"names '{name}', which is a column of our own.*data\.columns\.my_{name}="):
        read_tables(config(events=events, **{key: [name]}))
    tables = read_tables(config(events=events, columns={f"my_{name}": name}, **{key: [f"my_{name}"]}))
    assert tables.events[f"my_{name}"].to_list() == shop_events["store"].to_list()


@pytest.mark.parametrize("name", ["user_id", "item_id", "timestamp"])
def test_what_every_event_has_is_no_attribute_of_the_item(config, shop_events, name):
    with pytest.raises(ConfigError, match=rf"data\.item_attributes names '{name}', which every event has of its own"):
        read_tables(config(events=shop_events, item_attributes=[name]))


def test_side_tables_take_the_named_columns(shop):
    assert read_tables(shop).items.columns == ["item_id", "brand", "price"]
    mapped = replace(shop, item_columns={"cost": "price"}, item_attributes=["cost"])
    assert read_tables(mapped).items.columns == ["item_id", "cost"]


def test_digest_follows_content_not_place(tmp_path, shop_events, config):
    first, second = tmp_path / "a.parquet", tmp_path / "b.parquet"
    shop_events.write_parquet(first)
    second.write_bytes(first.read_bytes())
    assert content_digest(config(events=str(first))) == content_digest(config(events=f"file://{second}"))
    shop_events.with_columns(pl.col("value") + 1).write_parquet(second)
    assert content_digest(config(events=str(first))) != content_digest(config(events=str(second)))


def test_completejourney_is_a_preset_of_tables(config):
    cfg = resolve(DataConfig(name="cj", source="completejourney", context=["store_id"]))
    assert Path(cfg.events).name == "transactions.parquet"
    tables = read_tables(replace(cfg, events=cfg.events))
    assert tables.events.columns[1:4] == ["user_id", "item_id", "timestamp"]
    assert set(tables.events.columns[4:]) == {"basket_id", "quantity", "value", "store_id"}
    assert tables.items.columns[0] == "item_id"
    assert tables.users.columns[0] == "user_id"


def test_sources_are_closed(config):
    with pytest.raises(ConfigError, match=r"data\.source='tabels' is not one of .* Did you mean 'tables'"):
        resolve(config(source="tabels"))
    with pytest.raises(ConfigError, match=r"data\.events is not set"):
        resolve(config())
