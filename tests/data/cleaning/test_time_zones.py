from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from recsys.config.data import DataConfig
from recsys.data.cleaning.time_zones import to_utc_by_row, zones_found
from recsys.data.sources import TIMEZONE
from recsys.data.validate import check_events
from recsys.data.whole import Whole

CFG = DataConfig(name="t", timezone="Asia/Tokyo")


def read(times, zones):
    return to_utc_by_row(pl.Series("timestamp", times), pl.Series(zones, dtype=pl.String), CFG, "here").to_list()


def test_each_row_in_its_zone():
    noon = "2024-07-01 12:00:00"
    zones = ["Europe/Berlin", "America/New_York", None, " ", "UTC", "Mars/Olympus", "localtime"]
    hours = [10, 16, 3, 3, 12, None, None]
    assert read([noon] * 7, zones) == [h and datetime(2024, 7, 1, h, tzinfo=UTC) for h in hours]


def test_a_time_with_its_own_zone_keeps_it():
    assert read(["2024-07-01T12:00:00+02:00"], ["America/New_York"]) == [datetime(2024, 7, 1, 10, tzinfo=UTC)]


ZONES = ("Europe/Berlin", "America/New_York", "Asia/Kolkata", "UTC")


@given(st.lists(st.tuples(st.integers(0, 364), st.sampled_from(ZONES)), min_size=1, max_size=12))
def test_against_the_standard_library(rows):
    times = [datetime(2023, 1, 1, 12) + timedelta(days=day) for day, _ in rows]
    expected = [t.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC) for t, (_, zone) in zip(times, rows, strict=True)]
    assert read(times, [zone for _, zone in rows]) == expected


def test_unknown_zones_are_rejected_and_all_counted():
    source = pl.DataFrame(
        {
            "row_number": pl.Series([1, 2, 3], dtype=pl.UInt32),
            "user_id": [1, 2, 3],
            "item_id": ["a", "b", "c"],
            "timestamp": ["2024-07-01 12:00:00"] * 3,
            TIMEZONE: ["Europe/Berlin", "nowhere", "Europe/Berlin"],
        }
    )
    checked = check_events(source, CFG, Whole.of(source, source, "here"))
    assert checked.reasons == {"timezone_unknown": 1}
    assert TIMEZONE not in checked.events.columns
    (finding,) = zones_found(source)
    assert finding.details == ("Europe/Berlin: 2", "nowhere: 1", "of unknown zones: 1")
    assert zones_found(source.drop(TIMEZONE)) == ()
