import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.cleaning.duplicates import drop_copies, near_duplicates
from recsys.data.sources import COPIES, REPAIRED

KIND = {"event_type": pl.String}
NO_MORE = pl.lit(0)
HOUR = 3600


def test_copies_are_counted_and_one_stays(events_of):
    rows = [(1, "a", 0, "view"), (1, "a", 0, "view"), (1, "a", 0, None), (1, "a", 0, None), (1, "a", 1, "view")]
    counted = events_of(rows, **KIND).with_columns(
        pl.lit(1).alias(COPIES), (pl.col("row_number") == 2).cast(pl.Int64).alias(REPAIRED)
    )
    kept = drop_copies(counted).sort("row_number").select("row_number", "event_type", COPIES, REPAIRED)
    assert kept.rows() == [(1, "view", 2, 1), (3, None, 2, 0), (5, "view", 1, 0)]


def test_near_duplicates_are_of_one_user_item_and_type(events_of):
    rows = [(1, "a", 0, "view"), (1, "a", 1, "buy"), (1, "b", 1, "view"), (2, "a", 1, "view"), (1, "a", 1, "view")]
    events = events_of(rows, **KIND)
    assert events.filter(near_duplicates(events, HOUR, NO_MORE))["row_number"].to_list() == [5]
    assert not near_duplicates(events, HOUR - 1, NO_MORE).any()


def test_a_run_counts_once(events_of):
    events = events_of([(1, "a", hour) for hour in (0, 1, 2, 3, 5)])
    assert near_duplicates(events, HOUR, NO_MORE).to_list() == [False, True, True, True, False]


def test_what_is_apart_is_no_duplicate(events_of):
    events = events_of([(1, "a", 0, 1.0), (1, "a", 1, -1.0), (1, "a", 1, 2.0)], quantity=pl.Float64)
    near = events.filter(near_duplicates(events, HOUR, pl.col("quantity") < 0))
    assert near["quantity"].to_list() == [2.0]


ROWS = st.lists(
    st.tuples(st.integers(1, 2), st.sampled_from("ab"), st.integers(0, 20), st.sampled_from([None, "view", "buy"])),
    min_size=1,
    max_size=25,
)


@given(ROWS, st.integers(0, 4), st.integers(0, 20))
def test_against_a_loop_and_never_ahead(events_of, rows, hours, cut):
    events = events_of(rows, **KIND)
    last, expected = {}, []
    for user, item, time, kind in events.select("user_id", "item_id", "timestamp", "event_type").iter_rows():
        key = (user, item, kind)
        expected.append(key in last and (time - last[key]).total_seconds() <= hours * HOUR)
        last[key] = time
    near = near_duplicates(events, hours * HOUR, NO_MORE)
    assert near.to_list() == expected
    early = [row for row in rows if row[2] < cut]
    if early:
        part = events_of(early, **KIND)
        is_early = (events["timestamp"].dt.hour() < cut).to_list()
        assert near_duplicates(part, hours * HOUR, NO_MORE).to_list() == [
            n for n, e in zip(near, is_early, strict=True) if e
        ]
