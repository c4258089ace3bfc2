import math
import zlib
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.encode import Encoder, NumericScale, Vocabulary, hash_ids
from recsys.errors import DataError
from recsys.features import FIRST_ID, OOV_ID, PAD_ID, Feature, FeatureSpec

NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)  # a Thursday


@pytest.mark.parametrize("values", [["b", "a", "b", None, "c"], [20, 10, 20, None, 30]], ids=["text", "numbers"])
def test_vocabulary_ids(values):
    vocabulary = Vocabulary.fit(pl.Series(values))
    assert vocabulary.size == 5
    ids = vocabulary.encode(pl.Series("x", [values[1], values[0], values[4], None], dtype=vocabulary.values.dtype))
    assert ids.to_list() == [2, 3, 4, PAD_ID]
    assert (ids.name, ids.dtype) == ("x", pl.Int64)
    nothing = vocabulary.encode(pl.Series("x", [None, None]))
    assert (nothing.name, nothing.dtype, nothing.to_list()) == ("x", pl.Int64, [PAD_ID, PAD_ID])


def test_rare_and_unseen_values_are_unseen():
    vocabulary = Vocabulary.fit(pl.Series(["b", "a", "b", None, None, "c", "c"]), min_count=2)
    assert vocabulary.values.to_list() == ["b", "c"]
    assert vocabulary.encode(pl.Series(["a", "c", "z", None, "b"])).to_list() == [OOV_ID, 3, OOV_ID, PAD_ID, 2]


def test_values_of_another_type_are_read_as_the_vocabularys():
    numbers = Vocabulary.fit(pl.Series([7, 5]))
    assert numbers.encode(pl.Series(["7", "five", None])).to_list() == [3, OOV_ID, PAD_ID]
    words = Vocabulary.fit(pl.Series(["7", "5"]))
    assert words.encode(pl.Series([7, 6])).to_list() == [3, OOV_ID]


def test_vocabulary_of_nothing():
    vocabulary = Vocabulary.fit(pl.Series([None, None], dtype=pl.String))
    assert vocabulary.size == FIRST_ID
    assert vocabulary.encode(pl.Series(["a", None])).to_list() == [OOV_ID, PAD_ID]
    assert vocabulary.encode(pl.Series([], dtype=pl.String)).to_list() == []


@given(st.lists(st.one_of(st.none(), st.integers(-3, 3)), max_size=30), st.randoms())
def test_vocabulary_does_not_depend_on_the_order_of_rows(values, random):
    one = Vocabulary.fit(pl.Series(values, dtype=pl.Int64), min_count=2)
    shuffled = list(values)
    random.shuffle(shuffled)
    assert Vocabulary.fit(pl.Series(shuffled, dtype=pl.Int64), min_count=2).values.to_list() == one.values.to_list()
    assert set(one.values) == {v for v in values if v is not None and values.count(v) >= 2}


def test_hash_is_crc32_of_the_text():
    # The check value of CRC-32 for "123456789" is 0xCBF43926 = 3421780262.
    values = pl.Series("x", ["123456789", None, "a", "123456789"])
    assert hash_ids(values, 1000).to_list() == [2 + 262, PAD_ID, 2 + 0xE8B7BE43 % 1000, 2 + 262]
    assert hash_ids(pl.Series([123456789]), 1000).to_list() == [264]
    assert hash_ids(pl.Series([123456789.0, 0.5, None]), 1000).to_list() == [264, 2 + zlib.crc32(b"0.5") % 1000, PAD_ID]
    assert hash_ids(pl.Series(["é"]), 10**9).to_list() == [2 + zlib.crc32(b"\xc3\xa9") % 10**9]
    assert hash_ids(pl.Series([], dtype=pl.String), 10).to_list() == []


def test_scale_is_median_and_half_the_ten_to_ninety_range():
    scale = NumericScale.fit(pl.Series([float(i) for i in range(101)]))
    assert (scale.center, scale.spread) == (50.0, 40.0)
    with_noise = NumericScale.fit(pl.Series([*range(101), None, math.nan, math.inf, -math.inf], strict=False))
    assert with_noise == scale


@pytest.mark.parametrize(
    ("values", "center", "spread"),
    [
        ([], 0.0, 1.0),
        ([None, None], 0.0, 1.0),
        ([3.0] * 20, 3.0, 1.0),  # constant: nothing to divide by
        ([0.0] * 99 + [10.0], 0.0, 10 * math.sqrt(0.01 * 0.99)),  # the middle is constant: standard deviation
    ],
)
def test_scale_is_never_zero(values, center, spread):
    scale = NumericScale.fit(pl.Series(values, dtype=pl.Float64))
    assert scale.center == center
    assert scale.spread == pytest.approx(spread)


SPEC = FeatureSpec(
    (
        Feature("user_id", "user", "id"),
        Feature("city", "user", "id", buckets=10),
        Feature("item_id", "item", "id", min_count=2),
        Feature("brand", "item", "id"),
        Feature("tags", "item", "multi_id", slots=3, separator="|"),
        Feature("title", "item", "text", slots=3, buckets=1000),
        Feature("price", "item", "numeric"),
        Feature("when", "context", "timestamp", column="timestamp"),
        Feature("store", "context", "id", min_count=2),
    )
)


def tables(id_of=lambda n: n):
    events = pl.DataFrame(
        {
            "user_id": [id_of(u) for u in (1, 1, 2, 2)],
            "item_id": [id_of(i) for i in (10, 10, 11, 10)],
            "timestamp": [NOON + timedelta(days=d) for d in range(4)],
            "store": ["n", "n", "s", None],
        }
    )
    items = pl.DataFrame(
        {
            "item_id": [id_of(i) for i in (10, 11, 12)],
            "brand": ["x", None, "future"],
            "tags": ["red|big||red", None, "new"],
            "title": ["Ground COFFEE, 500g dark", "", None],
            "price": [2.0, None, 1e6],
        }
    )
    users = pl.DataFrame({"user_id": [id_of(u) for u in (1, 2, 3)], "city": ["123456789", None, "a"]})
    return events, items, users


@pytest.fixture(params=[lambda n: n, lambda n: f"id{n}"], ids=["integers", "strings"])
def shop(request):
    return tables(request.param)


@pytest.fixture
def encoder(shop):
    return Encoder.fit(SPEC, *shop)


def test_encode_items_by_hand(encoder, shop):
    item = encoder.encode(shop[1], "item")
    assert list(item) == ["item_id", "brand", "tags", "title", "price"]
    assert item["item_id"].tolist() == [2, OOV_ID, OOV_ID]  # item 11 was sold once, item 12 never
    assert item["brand"].tolist() == [2, PAD_ID, OOV_ID]  # the brand of an item without events is not known
    assert item["tags"].tolist() == [[3, 2, 3], [0, 0, 0], [OOV_ID, 0, 0]]  # big 2, red 3
    words = [2 + zlib.crc32(w) % 1000 for w in (b"ground", b"coffee", b"500g")]
    assert item["title"].tolist() == [words, [0, 0, 0], [0, 0, 0]]
    assert item["price"][[0, 2]].tolist() == [2.0, 1e6]
    assert item["price"][1].isnan()
    assert [v.dtype for v in item.values()] == [torch.int64] * 4 + [torch.float32]
    assert encoder.scales["price"].center == 2.0  # the future item's price is no part of it


def test_an_id_of_another_side_is_an_attribute():
    events, items, users = tables()
    spec = FeatureSpec((Feature("item_user_id", "item", "id", "user_id"), Feature("liked", "user", "id", "item_id")))
    items, users = (
        items.with_columns(user_id=pl.Series([70, 71, 72])),
        users.with_columns(item_id=pl.Series([12, 8, 9])),
    )
    encoder = Encoder.fit(spec, events, items, users)
    assert encoder.encode(items, "item")["item_user_id"].tolist() == [2, 3, OOV_ID]  # the last sold nothing
    assert encoder.encode(users, "user")["liked"].tolist() == [3, 2, OOV_ID]


def test_encode_users_and_context_by_hand(encoder, shop):
    user = encoder.encode(shop[2], "user")
    assert user["user_id"].tolist() == [2, 3, OOV_ID]
    assert user["city"].tolist() == [2 + 3421780262 % 10, PAD_ID, 2 + 0xE8B7BE43 % 10]
    context = encoder.encode(shop[0], "context")
    assert context["store"].tolist() == [2, 2, OOV_ID, PAD_ID]
    # Hours take 2..25, weekdays from Monday 26..32, months from January 33..44.
    assert context["when"].tolist() == [[14, 29, 34], [14, 30, 35], [14, 31, 35], [14, 32, 35]]


def test_clock_ids_stay_in_their_ranges_and_read_utc(encoder):
    feature = SPEC.side("context")[0]
    times = pl.Series([datetime(2024, 1, 1, 0), datetime(2023, 12, 31, 23), None], dtype=pl.Datetime("us"))
    ids = encoder.encode_column(feature, times.dt.replace_time_zone("UTC"))
    assert ids.tolist() == [[2, 26, 33], [25, 32, 44], [0, 0, 0]]
    assert encoder.size(feature) == 45
    berlin = times.dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Berlin")
    assert torch.equal(encoder.encode_column(feature, berlin), ids)


def test_sizes_are_what_the_ids_need(encoder, shop):
    sizes = {f.name: encoder.size(f) for f in SPEC if f.is_categorical}
    assert sizes == {
        "user_id": 4,
        "city": 12,
        "item_id": 3,
        "brand": 3,
        "tags": 4,
        "title": 1002,
        "when": 45,
        "store": 3,
    }
    for frame, side in zip(shop, ("context", "item", "user"), strict=True):
        for name, values in encoder.encode(frame, side).items():
            assert name == "price" or int(values.max()) < sizes[name]


def test_lists_are_taken_as_they_are(encoder):
    ids = encoder.encode_column(SPEC.side("item")[2], pl.Series([["red", "blue"], None, [], ["big"]]))
    assert ids.tolist() == [[3, OOV_ID, 0], [0, 0, 0], [0, 0, 0], [2, 0, 0]]


def test_no_rows(encoder, shop):
    for frame, side in zip(shop, ("context", "item", "user"), strict=True):
        for name, values in encoder.encode(frame.clear(), side).items():
            assert values.shape == (0, *encoder.encode(frame, side)[name].shape[1:])


def test_missing_column(encoder, shop):
    with pytest.raises(DataError, match=r"feature 'brand' \(item\) reads column 'brand'.*Did you mean 'brands'\?"):
        encoder.encode(shop[1].rename({"brand": "brands"}), "item")


def test_save_and_load(encoder, shop, tmp_path):
    encoder.save(tmp_path / "vocabularies")
    loaded = Encoder.load(tmp_path / "vocabularies")
    assert (loaded.spec, loaded.scales) == (encoder.spec, encoder.scales)
    assert set(loaded.vocabularies) == set(encoder.vocabularies) == {"user_id", "item_id", "brand", "tags", "store"}
    for frame, side in zip(shop, ("context", "item", "user"), strict=True):
        for name, values in encoder.encode(frame, side).items():
            assert torch.equal(loaded.encode(frame, side)[name].nan_to_num(-1), values.nan_to_num(-1))


def test_a_column_may_have_any_name(tmp_path):
    name = "price/kg: class"
    spec = FeatureSpec((Feature(name, "context", "id"),))
    events = tables()[0].rename({"store": name})
    Encoder.fit(spec, events, *tables()[1:]).save(tmp_path)
    assert Encoder.load(tmp_path).encode(events, "context")[name].tolist() == [2, 2, 3, 0]


@given(st.permutations(range(4)))
def test_fit_does_not_depend_on_the_order_of_rows(order):
    events, items, users = tables()
    one, other = Encoder.fit(SPEC, events, items, users), Encoder.fit(SPEC, events[list(order)], items, users)
    assert one.scales == other.scales
    for name, vocabulary in one.vocabularies.items():
        assert vocabulary.values.to_list() == other.vocabularies[name].values.to_list()


def test_ids_in_the_vocabularies_of_another_window():
    spec = FeatureSpec((Feature("item_id", "item", "id"), Feature("tag", "item", "multi_id"),
                        Feature("word", "item", "id", buckets=3)))  # fmt: skip
    items = pl.DataFrame({"item_id": [5, 7, 9], "tag": ["b a", "c", "a d"], "word": ["x", "y", "z"]})

    def fitted(*sold):
        events = pl.DataFrame({"item_id": sold}, schema={"item_id": pl.Int64}).with_columns(user_id=1)
        return Encoder.fit(spec, events, items, pl.DataFrame({"user_id": [1]}))

    early, late = fitted(7, 9), fitted(5, 7)
    item_id, tag, word = spec
    assert early.ids_in(item_id, late).tolist() == [PAD_ID, OOV_ID, 3, OOV_ID]  # 7 was the first, 9 is not known
    assert early.ids_in(tag, late).tolist() == [PAD_ID, OOV_ID, 2, 4, OOV_ID]  # a, c, d
    for feature in spec:
        assert early.ids_in(feature, early).tolist() == list(range(early.size(feature)))
    assert early.ids_in(word, late).tolist() == [PAD_ID, OOV_ID, 2, 3, 4]
    assert fitted().ids_in(item_id, late).tolist() == [PAD_ID, OOV_ID]
