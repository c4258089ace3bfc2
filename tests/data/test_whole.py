"""What is known of all rows is the sum of what is known of any parts of them."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.config.data import DataConfig
from recsys.data.sources import Tables
from recsys.data.timestamps import Numbers
from recsys.data.whole import Whole

TIMES = st.lists(
    st.none()
    | st.sampled_from(["1700000000", "1700000000000", "20240101", "soon", " 17 ", ""])
    | st.just("2024-01-01"),
    max_size=12,
)


@given(times=TIMES, cut=st.integers(0, 12), numbers=st.booleans())
def test_parts_add_up(times, cut, numbers) -> None:
    column = pl.Series("timestamp", times, dtype=pl.String)
    column = column.cast(pl.Int64, strict=False) if numbers else column
    whole = Numbers.of(column)
    assert Numbers.of(column[:cut]) + Numbers.of(column[cut:]) == whole
    assert whole.given == len([value for value in column if value not in (None, "")])


def test_the_unit_is_that_of_the_middle_value() -> None:
    seconds, milliseconds = pl.Series([1_700_000_000] * 3), pl.Series([1_700_000_000_000] * 4)
    assert Numbers.of(seconds).unit == "s"
    assert (Numbers.of(seconds) + Numbers.of(milliseconds)).unit == "ms"
    assert Numbers.of(milliseconds * 1000).unit == "us"
    assert Numbers.of(milliseconds * 1_000_000).unit == "ns"


@pytest.mark.parametrize(
    ("ids", "is_text"),
    [
        (["1", "SKU-9", None], True),
        (["1", "12345678901234567890"], True),
        (["1", "2"], False),  # they can be integers
        (["a", "b"], False),  # of another table
        (["1", "007", "SKU-9"], False),  # 7 in the events is nobody knows what
        ([1, 2], False),
    ],
)
def test_ids_are_text_where_some_of_a_table_beside_are(ids, is_text) -> None:
    rows = pl.DataFrame({"user_id": [1], "item_id": [1], "timestamp": ["x"]})
    tables = Tables(rows, pl.DataFrame({"item_id": ids}), None, (), (), {})
    whole = Whole.of(rows, rows, "here") + Whole.beside(tables, DataConfig(name="shop"))
    assert whole.text_ids == ("item_id",) * is_text


def test_an_id_that_is_text_somewhere_is_text_everywhere() -> None:
    def facts(users) -> Whole:
        rows = pl.DataFrame({"user_id": users, "item_id": ["a"] * len(users), "timestamp": ["x"] * len(users)})
        return Whole.of(rows, rows, "here")

    small = pl.Series([1, 2], dtype=pl.UInt64)
    large = pl.Series([2**63, 2**64 - 1], dtype=pl.UInt64)
    both = facts(small) + facts(large)
    assert facts(small).id_type("user_id") == pl.Int64
    assert both.id_type("user_id") == pl.String
    assert both.id_of(small.alias("user_id"), "here").to_list() == ["1", "2"]
    assert Whole.from_dict({"numbers": vars(both.numbers), "types": [], "text_ids": ["user_id", "item_id"]}) == Whole(
        both.numbers, (), ("user_id", "item_id")
    )
