import json

import pytest

from recsys.errors import ConfigError
from recsys.features import CLOCK_SLOTS, FIRST_ID, KINDS, OOV_ID, PAD_ID, SIDES, Feature, FeatureSpec


def test_reserved_ids_never_change():
    assert (PAD_ID, OOV_ID, FIRST_ID) == (0, 1, 2)
    assert CLOCK_SLOTS == (24, 7, 12)


def test_column_is_the_name_unless_given():
    assert Feature("brand", "item", "id").column == "brand"
    assert Feature("brand", "item", "id", column="BRAND_NM").column == "BRAND_NM"


def test_text_is_always_hashed():
    assert Feature("title", "item", "text").buckets == 2**14
    assert Feature("title", "item", "text", buckets=64).buckets == 64
    assert Feature("brand", "item", "id").buckets == 0


@pytest.mark.parametrize(
    ("kind", "categorical", "several"),
    [
        ("id", True, False),
        ("multi_id", True, True),
        ("text", True, True),
        ("timestamp", True, True),
        ("numeric", False, False),
    ],
)
def test_what_a_kind_becomes(kind, categorical, several):
    feature = Feature("f", "item", kind)
    assert (feature.is_categorical, feature.is_list) == (categorical, several)
    assert kind in KINDS


@pytest.mark.parametrize(
    ("side", "kind", "message"),
    [
        ("items", "id", r"feature 'f': side 'items' is not one of user, item, context\. Did you mean 'item'\?"),
        ("item", "numerical", r"feature 'f': kind 'numerical' is not one of .* Did you mean 'numeric'\?"),
    ],
)
def test_illegal_side_or_kind(side, kind, message):
    with pytest.raises(ConfigError, match=message):
        Feature("f", side, kind)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"name": "f"}, "feature 'f': no side and no kind; each has name, side, kind."),
        ({"side": "item", "kind": "id"}, "feature '?': no name; each has name, side, kind."),
        ({"name": "f", "side": "item", "kind": "id", "buckets": "many"}, "buckets='many' must be a whole number."),
        ({"name": 3, "side": "item", "kind": "id"}, "feature '3': name=3 must be text."),
        ({"name": "f", "side": "item", "kind": "id", "min_count": 0}, "feature 'f': min_count=0 must be 1 or more."),
        ({"name": "f", "side": "item", "kind": "multi_id", "slots": 0}, "slots=0 must be 1 or more."),
        ({"name": "f", "side": "item", "kind": "id", "width": -1}, "width=-1 must be 0 or more."),
        ({"name": "f", "side": "item", "kind": "numeric", "width": 8}, "width=8 is for categorical attributes"),
        ({"name": "user_id", "side": "user", "kind": "id", "width": 8}, "as wide as model.width says"),
    ],
)
def test_a_row_that_is_no_feature(row, message):
    with pytest.raises(ConfigError) as caught:
        FeatureSpec.from_list([row])
    assert message in str(caught.value)


def test_sides_keep_the_declared_order():
    spec = FeatureSpec(
        tuple(Feature(n, s, "id") for n, s in zip("abcd", ("item", "user", "item", "context"), strict=True))
    )
    assert [f.name for f in spec] == ["a", "b", "c", "d"]
    assert [f.name for f in spec.side("item")] == ["a", "c"]
    assert [f.name for f in spec.side("context", "user")] == ["b", "d"]
    assert [f.name for f in spec.side(*SIDES)] == ["a", "b", "c", "d"]


def test_names_are_unique():
    with pytest.raises(ConfigError, match="declared twice: a, b;"):
        FeatureSpec(tuple(Feature(n, "item", "id") for n in ("b", "a", "c", "a", "b")))


def test_list_round_trip_through_json():
    spec = FeatureSpec(
        (
            Feature("tags", "item", "multi_id", column="TAGS", min_count=3, width=8, slots=4, separator="|"),
            Feature("title", "item", "text", buckets=99),
            Feature("price", "item", "numeric"),
        )
    )
    assert FeatureSpec.from_list(json.loads(json.dumps(spec.to_list()))) == spec


def test_unknown_key_of_a_declaration():
    with pytest.raises(ConfigError, match=r"feature 'tags': unknown key 'slot'; legal: .* Did you mean 'slots'\?"):
        FeatureSpec.from_list([{"name": "tags", "side": "item", "kind": "multi_id", "slot": 3}])
