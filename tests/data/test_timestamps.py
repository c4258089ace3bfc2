from datetime import UTC, date, datetime, timedelta, timezone

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.config.data import DataConfig
from recsys.data.timestamps import to_utc
from recsys.errors import ConfigError, DataError

NOON = datetime(2018, 12, 1, 11, 40, 29, tzinfo=UTC)


def read(values, dtype=None, **keys):
    return to_utc(
        pl.Series("timestamp", values, dtype=dtype, strict=False), DataConfig(name="t", **keys), "e"
    ).to_list()


@pytest.mark.parametrize(
    "text",
    [
        "2018-12-01 11:40:29 UTC",
        "2018-12-01 11:40:29",
        "2018-12-01T11:40:29Z",
        "2018-12-01T11:40:29+00:00",
        "2018-12-01 13:40:29+0200",
        "2018-12-01 13:40:29 +02:00",
        "2018-12-01T06:40:29-05",
        "2018-12-01T11:40:29 UTC",
        "2018-12-01T11:40:29.000 Z",
        "2018-12-01T13:40:29 +02:00",
        " 2018-12-01 11:40:29.000 ",
    ],
)
def test_text_variants(text):
    assert read([text, None, "2018-12-01T11:40:29Z"]) == [NOON, None, NOON]


def test_text_mixes_zones_dates_and_dirt():
    values = ["2018-12-01", "2018-12-01 11:40", "2018-12-01T13:40+02:00", "yesterday", "", "2018-13-01", "0001-01-01"]
    midnight, minute = datetime(2018, 12, 1, tzinfo=UTC), datetime(2018, 12, 1, 11, 40, tzinfo=UTC)
    assert read(values) == [midnight, minute, minute, None, None, None, None]


def test_zone_of_naive_times_and_the_two_odd_hours():
    berlin = read(["2018-07-01T12:00:00", "2018-10-28T02:30:00", "2018-03-25T02:30:00"], timezone="Europe/Berlin")
    assert berlin == [datetime(2018, 7, 1, 10, tzinfo=UTC), datetime(2018, 10, 28, 0, 30, tzinfo=UTC), None]
    assert read(["2018-07-01T12:00:00Z"], timezone="Europe/Berlin") == [datetime(2018, 7, 1, 12, tzinfo=UTC)]


@pytest.mark.parametrize("day", ["2018-11-04", "2018-11-04 00:00", date(2018, 11, 4), datetime(2018, 11, 4)])
def test_a_day_without_a_midnight_begins_when_clocks_have_gone_forward(day):
    """In Sao Paulo at 00:00, 03:00 UTC, to 01:00; half past twelve was never."""
    assert read([day], timezone="America/Sao_Paulo") == [datetime(2018, 11, 4, 3, tzinfo=UTC)]
    assert read(["2018-11-04 00:30", "2018-11-05"], timezone="America/Sao_Paulo") == [
        None,
        datetime(2018, 11, 5, 2, tzinfo=UTC),
    ]


@pytest.mark.parametrize(("scale", "unit"), [(1, "s"), (10**3, "ms"), (10**6, "us"), (10**9, "ns")])
@pytest.mark.parametrize("form", ["int", "float", "text"])
def test_epoch_by_magnitude_and_by_unit(scale, unit, form):
    number = int(NOON.timestamp()) * scale
    value = {"int": number, "float": float(number), "text": str(number)}[form]
    assert read([value, None]) == [NOON, None]
    assert read([value], timestamp_unit=unit) == [NOON]


def test_fractions_of_epoch_seconds_and_wild_numbers():
    assert read([1543664429.25]) == [NOON + timedelta(milliseconds=250)]
    assert read([1543664429, 1543664429, 2**62, 1543664429, -(2**62)]) == [NOON, NOON, None, NOON, None]


def test_one_bad_value_among_numbers_is_rejected_alone():
    number = str(int(NOON.timestamp()))
    assert read([number, "n/a", number]) == [NOON, None, NOON]
    assert read(["2018-12-01T11:40:29Z", "17", "2018-12-01T11:40:29Z"]) == [NOON, None, NOON]
    with pytest.raises(DataError, match="look like calendar dates"):
        read(["20171108", "n/a", "20171109"])


def test_blank_text_among_numbers_is_a_missing_one():
    assert read(["1543664429", "", " ", None]) == [NOON, None, None, None]


def test_dates_and_datetimes():
    assert read([date(2018, 12, 1)]) == [datetime(2018, 12, 1, tzinfo=UTC)]
    assert read([datetime(2018, 12, 1, 12)], timezone="Asia/Tokyo") == [datetime(2018, 12, 1, 3, tzinfo=UTC)]
    aware = NOON.astimezone(timezone(timedelta(hours=2)))
    assert read([aware], pl.Datetime("ns", "Europe/Berlin"), timezone="Asia/Tokyo") == [NOON]


def test_format_of_text_and_numbers():
    assert read(["01.12.2018 11:40:29"], timestamp_format="%d.%m.%Y %H:%M:%S") == [NOON]
    assert read(["01/12/2018"], timestamp_format="%d/%m/%Y") == [datetime(2018, 12, 1, tzinfo=UTC)]
    assert read([20181201], timestamp_format="%Y%m%d") == [datetime(2018, 12, 1, tzinfo=UTC)]
    assert read([20181201.0, 20181201.5, None], timestamp_format="%Y%m%d") == [
        datetime(2018, 12, 1, tzinfo=UTC),
        None,
        None,
    ]


@pytest.mark.parametrize(
    "values",
    [
        [20181201, 20190101],
        [0, *[20181201] * 9],
        [None, 20181201.0, 20190101.0],
        ["20181201", " 20190101", None],
        ["0", *["20181201"] * 9],
    ],
)
def test_calendar_dates_as_numbers_are_no_seconds_of_1970(values):
    with pytest.raises(DataError, match=r"look like calendar dates \(first: 20181201"):
        read(values)


def test_a_few_seconds_of_1970_may_look_like_calendar_dates():
    assert read([0, 1, 20181201], timestamp_unit="s")[2] == datetime.fromtimestamp(20181201, UTC)


@pytest.mark.parametrize("values", [range(60), [2019, 2020], [202401, 202402], [45292.5, 45293.25], ["7", "8", None]])
def test_small_numbers_are_no_seconds_of_1970(values):
    with pytest.raises(DataError, match=r"most of the numbers \(first: \d+(\.5)?\) would be seconds before 1980"):
        read(values)
    assert read(values, timestamp_unit="s")[1].year == 1970


def test_a_few_small_numbers_among_times_are_times():
    assert read([0, 1543664429, 1543664429]) == [datetime(1970, 1, 1, tzinfo=UTC), NOON, NOON]


@pytest.mark.parametrize("dtype", [pl.Boolean, pl.List(pl.Int64), pl.Duration])
def test_types_that_are_no_time(dtype):
    with pytest.raises(DataError, match=r"e, column 'timestamp': found type .*legal for a time: text, integer"):
        read([None], dtype)


def test_unknown_zone_and_unit():
    with pytest.raises(ConfigError, match=r"data\.timezone='localtime' is not a name"):
        read([1], timezone="localtime")
    with pytest.raises(ConfigError, match=r"data\.timezone='Europe/Berln'.*Did you mean 'Europe/Berlin'"):
        read([1], timezone="Europe/Berln")
    with pytest.raises(ConfigError, match=r"data\.timestamp_unit='sec' is not one of auto, s"):
        read([1], timestamp_unit="sec")


@given(
    st.lists(
        st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)), min_size=1, max_size=20
    ).map(lambda times: [t.replace(microsecond=t.microsecond // 1000 * 1000) for t in times]),
    st.integers(-14, 14),
)
def test_iso_text_with_any_offset_round_trips(times, hours):
    zone = timezone(timedelta(hours=hours))
    assert read([t.astimezone(zone).isoformat() for t in times]) == times
