from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from omegaconf import OmegaConf

from recsys.data.infer import declared_spec, infer_feature, infer_spec, write_features
from recsys.data.split import Windows
from recsys.errors import ConfigError, DataError
from recsys.features import Feature, FeatureSpec

GENRES = ["Action", "Comedy", "Crime", "Drama", "Horror", "War"]
TITLES = [f"The {noun}{i} of the w{i * 7 % 90}" for i in range(60) for noun in ("night", "day")]


def infer(values, name="x", dtype=None):
    return infer_feature(pl.Series(name, values, dtype=dtype), name, "item")


def test_few_values_are_an_id_and_many_pool_the_rare():
    assert infer(["red", "blue", None] * 9) == Feature("x", "item", "id")
    assert infer([f"c{i % 150}" for i in range(900)]) == Feature("x", "item", "id", min_count=2)
    assert infer([i % 5 for i in range(90)]) == Feature("x", "item", "id")


def test_numbers_are_numeric_unless_they_are_keys():
    assert infer([i % 60 for i in range(900)]).kind == "numeric"
    assert infer([0.5, 1.0, None]).kind == "numeric"
    assert infer([i % 60 for i in range(900)], name="brand_id") == Feature("brand_id", "item", "id")


@pytest.mark.parametrize("separator", [" ", "|", ", ", ";", " > "])
def test_lists_are_found_with_their_separator(separator):
    pairs = [f"{a}{separator}{b}" for a in GENRES for b in GENRES if a < b]
    feature = infer([*pairs, *GENRES, separator.join(GENRES[:3])])
    assert feature == Feature("x", "item", "multi_id", slots=3, separator=separator)


def test_titles_are_text_with_slots_for_nearly_all_words():
    feature = infer(TITLES)
    assert (feature.kind, feature.slots) == ("text", 5)
    assert feature.buckets > 0


def test_names_of_several_words_are_no_lists():
    names = ["FROZEN PIZZA", "FROZEN FRUIT", "SOFT DRINKS", "BAG SNACKS", "DOMESTIC WINE", "DRUG GM", "MEAT"]
    assert infer(names * 30).kind == "id"


@pytest.mark.parametrize(
    ("values", "reason"),
    [([None, None], "missing"), (["a", "a"], "same value"), ([f"k{i}" for i in range(99)], "another value")],
)
def test_columns_that_say_nothing_are_left_out_with_the_reason(values, reason):
    assert reason in infer(values, dtype=pl.String)


START = datetime(2024, 1, 1, tzinfo=UTC)
WINDOWS = Windows(START, START + timedelta(hours=10), START + timedelta(hours=15), START + timedelta(hours=20))


def tables(late="x"):
    """Twenty events, one item each; what is at or after hour 10 has the store ``late``."""
    times = pl.Series([START + timedelta(hours=i) for i in range(20)], dtype=pl.Datetime("us", "UTC"))
    events = pl.DataFrame(
        {
            "user_id": [i % 2 for i in range(20)],
            "item_id": list(range(20)),
            "timestamp": times,
            "store": ["n" if i % 2 else "s" if i < 10 else late for i in range(20)],
        }
    )
    items = pl.DataFrame({"item_id": list(range(20)), "brand": ["a" if i < 10 else f"b{i}{late}" for i in range(20)]})
    users = pl.DataFrame({"user_id": [0, 1], "age": [30, 40], "brand": ["p", "q"]})
    return events, items, users


def test_ids_come_first_and_equal_names_get_their_side():
    spec, skipped = infer_spec(*tables(), ["store"], WINDOWS, has_item_table=True)
    assert [(f.name, f.side, f.column) for f in spec] == [
        ("user_id", "user", "user_id"),
        ("item_id", "item", "item_id"),
        ("age", "user", "age"),
        ("brand", "user", "brand"),
        ("item_brand", "item", "brand"),
        ("store", "context", "store"),
        ("time", "context", "timestamp"),
    ]
    assert skipped == {}


def test_names_that_the_towers_use_are_not_taken():
    events, items, users = tables()
    spec, _ = infer_spec(events, items.rename({"brand": "popularity"}), users, [], WINDOWS, has_item_table=True)
    assert [(f.name, f.column) for f in spec.side("item")] == [
        ("item_id", "item_id"),
        ("item_popularity", "popularity"),
    ]


def test_only_the_training_window_is_looked_at():
    first = infer_spec(*tables("x"), ["store"], WINDOWS, has_item_table=False)
    assert first == infer_spec(*tables("1"), ["store"], WINDOWS, has_item_table=False)
    spec, skipped = first
    assert "item_brand" in skipped  # one brand in training
    assert [f.name for f in spec.side("context")] == ["store", "time"]


def test_declared_features_are_checked_against_the_tables():
    rows = [
        {"name": "age", "side": "user", "kind": "numeric"},
        {"name": "shop", "side": "context", "kind": "id", "column": "store"},
    ]
    spec = declared_spec(rows, *tables())
    assert [f.name for f in spec] == ["user_id", "item_id", "age", "shop"]
    with pytest.raises(DataError, match=r"feature 'brnd' \(side item\): no column 'brnd'.*Did you mean 'brand'"):
        declared_spec([{"name": "brnd", "side": "item", "kind": "id"}], *tables())
    with pytest.raises(DataError, match="kind numeric needs numbers, found type String"):
        declared_spec([{"name": "brand", "side": "item", "kind": "numeric"}], *tables())
    with pytest.raises(DataError, match="kind text needs text, found type Int64"):
        declared_spec([{"name": "age", "side": "user", "kind": "text"}], *tables())
    with pytest.raises(DataError, match="the name is taken; call it 'item_age'"):
        declared_spec([{"name": "age", "side": "item", "kind": "id", "column": "brand"}], *tables())
    with pytest.raises(ConfigError, match=r"unknown key 'widht'.*Did you mean 'width'"):
        declared_spec([{"name": "age", "side": "user", "kind": "id", "widht": 3}], *tables())


def test_written_features_can_be_used_as_config(tmp_path):
    spec = FeatureSpec(
        (
            Feature("user_id", "user", "id"),
            Feature("tags", "item", "multi_id", column='Tags: "all"', separator=" > ", slots=5, min_count=2),
            replace(Feature("title", "item", "text"), buckets=100),
        )
    )
    path = tmp_path / "features.yaml"
    write_features(spec, {"odd": "every value is missing"}, path)
    assert FeatureSpec.from_list(OmegaConf.to_container(OmegaConf.load(path))["features"]) == spec
    assert '{name: "user_id", side: "user", kind: "id"}' in path.read_text()
    assert "# Left out: odd: every value is missing." in path.read_text()
