from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from recsys.config.data import SplitConfig
from recsys.data.split import Times, before_end, count_by_window, find_windows, window_index
from recsys.errors import ConfigError, DataError

START = datetime(2024, 1, 1, tzinfo=UTC)


def events_at(hours):
    n = len(hours)
    return pl.DataFrame(
        {
            "user_id": [i % 2 for i in range(n)],
            "item_id": [i % 2 for i in range(n)],
            "timestamp": pl.Series([START + timedelta(hours=h) for h in hours], dtype=pl.Datetime("us", "UTC")),
        }
    )


def windows_of(events, cfg):
    return find_windows(Times.of(events), events["user_id"].n_unique(), events["item_id"].n_unique(), cfg)


def test_default_shares_by_hand():
    windows = windows_of(events_at(range(20)), SplitConfig())
    assert windows.train_start == START
    assert windows.val_start == START + timedelta(hours=14)
    assert windows.test_start == START + timedelta(hours=17)
    assert windows.end == START + timedelta(hours=19, microseconds=1)


def test_events_of_one_time_go_to_the_later_window():
    hours = [0, 1, 2, 3, 4, 5, 6, 6, 7, 9]  # positions 7 and 8 are the cuts; hour 6 stands at 6 and 7
    windows = windows_of(events_at(hours), SplitConfig())
    assert count_by_window(Times.of(events_at(hours)), windows) == {"train": 6, "val": 2, "test": 2}


@given(st.lists(st.integers(0, 60), min_size=10, max_size=80), st.randoms())
def test_windows_conserve_events_and_part_strictly_whatever_the_order(hours, random):
    assume(len(set(hours)) > 8)
    events = events_at(hours)
    try:
        windows = windows_of(events, SplitConfig(val=0.2, test=0.3))
    except DataError:  # one time holds a whole window
        assume(False)
    counts = count_by_window(Times.of(events), windows)
    assert sum(counts.values()) == len(hours)
    marked = (
        events.with_columns(window=window_index(windows))
        .group_by("window")
        .agg(pl.len(), first=pl.col("timestamp").min(), last=pl.col("timestamp").max())
        .sort("window")
    )
    assert marked["len"].to_list() == list(counts.values())
    (_, _, _, last_train), (_, _, first_val, last_val), (_, _, first_test, last_test) = marked.rows()
    assert last_train < windows.val_start <= first_val <= last_val < windows.test_start <= first_test
    assert last_test < windows.end
    random.shuffle(hours)
    assert windows_of(events_at(hours), SplitConfig(val=0.2, test=0.3)) == windows


def test_explicit_times_and_end():
    cfg = SplitConfig(
        val_start="2024-01-01T05:00:00", test_start="2024-01-01T09:00:00+01:00", end="2024-01-01T10:00:00Z"
    )
    events = before_end(events_at(range(20)), cfg)
    assert len(events) == 10
    windows = windows_of(events, cfg)
    assert count_by_window(Times.of(events), windows) == {"train": 5, "val": 3, "test": 2}
    assert windows.end == START + timedelta(hours=10)


@pytest.mark.parametrize(
    ("cfg", "finding"),
    [
        (SplitConfig(val_start="2024-01-02"), "go together"),
        (SplitConfig(val_start="2024-01-02", test_start="2024-01-01"), "does not hold"),
        (SplitConfig(val_start="soon", test_start="2024-01-01"), r"data\.split\.val_start='soon' is not an ISO time"),
        (SplitConfig(val=0.5, test=0.5), "leave a share for training"),
    ],
)
def test_shares_and_times_that_make_no_windows(cfg, finding):
    with pytest.raises(ConfigError, match=finding):
        windows_of(events_at(range(20)), cfg)


def test_empty_window_and_too_few_ids_say_the_numbers():
    with pytest.raises(
        DataError,
        match=r"empty window.*train .* has 0 events.*val .* has 0 events.*test .* has 10 events.*1 distinct times",
    ):
        windows_of(events_at([3] * 10), SplitConfig())
    with pytest.raises(DataError, match=r"test .* has 0 events"):
        windows_of(
            events_at(range(20)),
            SplitConfig(val_start="2024-01-01T05:00:00", test_start="2024-01-01T19:00:00.5", end="2025-01-01"),
        )
    with pytest.raises(DataError, match=r"20 usable events of 2 user\(s\) and 1 item\(s\)"):
        windows_of(events_at(range(20)).with_columns(item_id=pl.lit(1)), SplitConfig())
