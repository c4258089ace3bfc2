from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.config.data import DataConfig
from recsys.data.validate import check_events, refuse_rejects
from recsys.data.whole import Whole
from recsys.errors import DataError

CFG = DataConfig(name="t", events="e.parquet")


def table(rows, **types):
    columns = ("user_id", "item_id", "timestamp")
    schema = {"user_id": pl.Int64, "item_id": pl.String, "timestamp": pl.String} | types
    frame = pl.DataFrame([row[:3] for row in rows], schema={c: schema[c] for c in columns}, orient="row")
    return frame.with_row_index("row_number", offset=1)


def check(source):
    return check_events(source, CFG, Whole.of(source, source, f"data.events={CFG.events}"))


def test_rejects_keep_their_values_row_number_and_first_reason():
    source = table(
        [
            (1, "a", "2024-01-01"),
            (None, "a", "2024-01-01"),
            (None, None, "never"),
            (2, " ", "2024-01-02"),
            (3, "b", None),
            (4, "c", "31.12."),
            (5, "d", ""),
        ]
    )
    checked = check(source)
    assert checked.events["user_id"].to_list() == [1]
    assert checked.read == 7
    assert checked.reasons == {
        "user_id_missing": 2,
        "timestamp_missing": 2,
        "timestamp_unreadable": 1,
        "item_id_missing": 1,
    }
    assert checked.rejects.select("row_number", "reject_reason", "timestamp").rows() == [
        (2, "user_id_missing", "2024-01-01"),
        (3, "user_id_missing", "never"),
        (4, "item_id_missing", "2024-01-02"),
        (5, "timestamp_missing", None),
        (6, "timestamp_unreadable", "31.12."),
        (7, "timestamp_missing", ""),
    ]


def test_too_many_rejects_stop_with_counts_rows_file_and_remedy():
    source = table([(1, "a", "2024-01-01")] * 8 + [(1, "a", "soon"), (None, "a", "2024-01-01")])
    checked = check(source)
    counts = checked.rejects, checked.reasons, checked.read
    refuse_rejects(*counts, DataConfig(name="t", max_reject_share=0.2), Path("r.parquet"))
    with pytest.raises(DataError) as caught:
        refuse_rejects(*counts, CFG, Path("r.parquet"))
    message = str(caught.value)
    for part in (
        "2 of 10 rows (20.0%)",
        "data.max_reject_share=0.05",
        "timestamp_unreadable 1",
        "row 9 (timestamp_unreadable): user_id=1, item_id='a', timestamp='soon'",
        "r.parquet",
        "data.timestamp_format",
    ):
        assert part in message


def test_whole_floats_are_ids_again():
    source = table([(1.0, "a", "2024-01-01"), (None, "a", "2024-01-01")], user_id=pl.Float64)
    checked = check(source)
    assert checked.events["user_id"].to_list() == [1]
    assert checked.events.schema["user_id"] == pl.Int64


@pytest.mark.parametrize(
    ("value", "dtype", "finding"),
    [
        (1.5, pl.Float64, "fractions such as 1.5"),
        (2.0**60, pl.Float64, r"above 2\^53"),
        (True, pl.Boolean, "found type Boolean; legal for an id: integer or text"),
        ([1], pl.List(pl.Int64), r"found type List\(Int64\); legal for an id"),
    ],
)
def test_types_that_are_no_id(value, dtype, finding):
    with pytest.raises(DataError, match=rf"data\.events=e\.parquet, column 'user_id': .*{finding}"):
        check(table([(value, "a", "2024-01-01")], user_id=dtype))


def test_wrong_types_of_time_and_value():
    source = table([(1, "a", True)], timestamp=pl.Boolean)
    with pytest.raises(DataError, match="column 'timestamp': found type Boolean; legal for a time"):
        check(source)
    source = table([(1, "a", "2024-01-01")]).with_columns(value=pl.lit("12,50"))
    with pytest.raises(DataError, match="column 'value': found type String; legal: integer, float or decimal"):
        check(source)


ROWS = st.lists(
    st.tuples(
        st.none() | st.integers(0, 3),
        st.sampled_from([None, "", "a", "b"]),
        st.sampled_from([None, "", "later", "2024-01-01", "2024-01-01 10:00:00 UTC", "2024-01-01T10:00:00Z"]),
    ),
    min_size=1,
    max_size=40,
)


@given(ROWS)
def test_every_row_is_kept_a_duplicate_or_rejected_once(rows):
    checked = check(table(rows))
    kept = checked.events.drop("row_number").unique()
    times = {"2024-01-01": 0, "2024-01-01 10:00:00 UTC": 1, "2024-01-01T10:00:00Z": 1}
    usable = [(u, i, times[t]) for u, i, t in rows if u is not None and i and t in times]
    assert len(checked.events) == len(usable)
    assert len(kept) == len(set(usable))
    duplicates = len(checked.events) - len(kept)
    assert checked.read == len(rows) == len(kept) + duplicates + sum(checked.reasons.values())
    assert sum(checked.reasons.values()) == len(checked.rejects)
