from dataclasses import replace

import polars as pl
import pytest
from omegaconf import OmegaConf

from recsys.data.infer import count_values, declared_spec, disguised, infer_feature, infer_spec, write_features
from recsys.data.pair_plan import possible_names
from recsys.errors import ConfigError, DataError
from recsys.features import Feature, FeatureSpec

GENRES = ["Action", "Comedy", "Crime", "Drama", "Horror", "War"]
TITLES = [f"The {noun}{i} of the w{i * 7 % 90}" for i in range(60) for noun in ("night", "day")]


def infer(values, name="x", dtype=None):
    column = pl.DataFrame({name: pl.Series(values, dtype=dtype)})
    return infer_feature(count_values(column.lazy(), name), name, name, "item")


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


def tables():
    """Values of a context column, items and users."""
    store = pl.DataFrame({"value": ["n", "s"], "rows": [10, 10]})
    items = pl.DataFrame({"item_id": list(range(20)), "brand": ["a" if i < 10 else f"b{i}" for i in range(20)]})
    users = pl.DataFrame({"user_id": [0, 1], "age": [30, 40], "brand": ["p", "q"]})
    return {"store": store}, items, users


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["$1,299.00", "$3.50", ".5", "12"], "numbers, such as '$1,299.00'"),
        (["3,50", "12,-", "7", "8,00 EUR", "5%"], "numbers, such as '3,50'"),
        (["1.5", "N/A", "-", "2"], None),  # half of the rows
        (["2018-12-01", "2018-12-02 11:40", None], "dates, such as '2018-12-01'"),
        (["007", "012", "199"], None),
        (["red", "500 ml", "", "6x12", "3-4"], None),
        ([1, 2], None),
        ([None, None], None),
    ],
)
def test_text_that_means_numbers_or_dates_is_pointed_out(values, said):
    found = disguised(pl.Series(values), pl.Series([2] * len(values)))
    assert found == (said and f"the text looks like {said}; write {said.split(',')[0]} to have it read as such")


def test_ids_come_first_and_equal_names_get_their_side():
    spec, skipped = infer_spec(*tables())
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
    _, items, users = tables()
    spec, _ = infer_spec({}, items.rename({"brand": "popularity"}), users)
    assert [(f.name, f.column) for f in spec.side("item")] == [
        ("item_id", "item_id"),
        ("item_popularity", "popularity"),
    ]


def test_names_that_the_ranker_uses_are_not_taken():
    kinds = {"request": ["x", "y"] * 30, "history/item_id": ["x", "y"] * 30, "history": ["x", "y"] * 30}
    users = pl.DataFrame({"user_id": range(60), "request": ["phone", "mail"] * 30})
    spec, _ = infer_spec({}, pl.DataFrame({"item_id": range(60), **kinds}), users)
    assert [f.name for f in spec.side("user")] == ["user_id", "user_request"]
    assert [f.name for f in spec.side("item")] == ["item_id", "item_request", "item_history/item_id", "history"]


def test_categories_get_no_name_that_a_number_of_pairs_has():
    kinds = {
        "age": [f"from {i % 5}" for i in range(60)],
        "item_trend": ["up", "down"] * 30,
        "color": ["red", "blue"] * 30,
    }
    numbers = {"color_count": [i % 4 for i in range(60)], "item_price": [1.5 * i for i in range(60)]}
    items = pl.DataFrame({"item_id": range(60), **kinds, **numbers})
    spec, _ = infer_spec({}, items, pl.DataFrame({"user_id": range(3), "user_tenure": ["a", "b", "a"]}))
    assert [(f.name, f.column) for f in spec.side("item") if f.column in items.columns[1:]] == [
        ("item_item_age", "age"),
        ("item_item_trend", "item_trend"),
        ("color", "color"),
        ("item_color_count", "color_count"),  # codes from 0 to 3, which the ranker would read as how often
        ("item_price", "item_price"),  # read by the towers alone
    ]
    assert [f.name for f in spec.side("user")] == ["user_id", "user_user_tenure"]
    assert not {f.name for f in spec if f.kind != "numeric"} & possible_names(
        ["age", "item_trend", "color", "color_count"]
    )


def test_a_name_with_its_side_in_front_may_be_taken_too():
    store, items, users = tables()
    columns = ("item_age", "age", "item_item_age", "brand", "context_time", "time")
    spec, _ = infer_spec(
        {"time": store["store"]}, items.select("item_id", *(pl.col("brand").alias(name) for name in columns)), users
    )
    assert {f.name: f.column for f in (*spec.side("item"), *spec.side("context"))} == {
        "item_id": "item_id",
        "item_item_age": "item_age",
        "item_item_item_age": "age",
        "item_item_item_item_age": "item_item_age",
        "item_brand": "brand",
        "context_time": "context_time",
        "time": "time",
        "context_context_time": "time",
        "context_context_context_time": "timestamp",
    }


def test_declared_features_are_checked_against_the_tables():
    rows = [
        {"name": "age", "side": "user", "kind": "numeric"},
        {"name": "shop", "side": "context", "kind": "id", "column": "store"},
    ]
    _, items, users = tables()
    frames = pl.DataFrame(schema={"user_id": pl.Int64, "store": pl.String}), items, users
    spec = declared_spec(rows, *frames)
    assert [f.name for f in spec] == ["user_id", "item_id", "age", "shop"]
    with pytest.raises(DataError, match=r"feature 'brnd' \(side item\): no column 'brnd'.*Did you mean 'brand'"):
        declared_spec([{"name": "brnd", "side": "item", "kind": "id"}], *frames)
    with pytest.raises(DataError, match="kind numeric needs numbers, found type String"):
        declared_spec([{"name": "brand", "side": "item", "kind": "numeric"}], *frames)
    with pytest.raises(DataError, match="kind text needs text, found type Int64"):
        declared_spec([{"name": "age", "side": "user", "kind": "text"}], *frames)
    with pytest.raises(DataError, match="the name is taken; call it 'item_age'"):
        declared_spec([{"name": "age", "side": "item", "kind": "id", "column": "brand"}], *frames)
    with pytest.raises(DataError, match="the name is taken; call it 'item_request'"):
        declared_spec([{"name": "request", "side": "item", "kind": "id", "column": "brand"}], *frames)
    for odd in ({"side": "item"}, {"kind": "numeric"}, {"buckets": 64}):
        with pytest.raises(DataError, match="tells who is who; it has side user, kind id and, for users, no buckets"):
            declared_spec([{"name": "user_id", "side": "user", "kind": "id", "column": "user_id"} | odd], *frames)
    hashed = {"name": "item_id", "side": "item", "kind": "id", "buckets": 64}
    assert [f.name for f in declared_spec([hashed], *frames)] == ["user_id", "item_id"]
    with pytest.raises(ConfigError, match=r"unknown key 'widht'.*Did you mean 'width'"):
        declared_spec([{"name": "age", "side": "user", "kind": "id", "widht": 3}], *frames)


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
