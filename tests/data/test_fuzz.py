"""Whatever the tables hold: prepared data with every row accounted for, or one message that says what to do."""

import math
import tempfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from recsys.audit.findings import SEVERITIES
from recsys.audit.prepared import audit_tables
from recsys.config.data import DataConfig
from recsys.data.prepare import prepare
from recsys.data.report import data_report
from recsys.errors import RecsysError

ROWS = 20
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
ODD_TEXT = st.sampled_from(
    ["", " ", "\x00", "\u202eabc", "\N{ZERO WIDTH SPACE}", "e\u0301", "\U0001f6d2", "NaN", "null", "a,b"]
)
HUGE = st.sampled_from([0, -1, 2**31, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 10**18])
FLOATS = st.sampled_from([0.0, -0.0, 0.5, 1.0, 7.0, 1e300, math.inf, -math.inf, math.nan])
START = datetime(2024, 1, 1)
TIMES = st.integers(0, 60 * 24 * 30).map(lambda m: START + timedelta(minutes=m))
FAR_TIMES = st.sampled_from([datetime(1, 1, 1), datetime(1899, 12, 31), datetime(2200, 1, 1), datetime(9999, 12, 31)])
TIME_TEXT = st.one_of(
    TIMES.map(str), st.sampled_from(["2024-02-30", "0000-00-00", "24:00", "1e9", "99999999999999999999", "2024-01-01T"])
)


def column(values: st.SearchStrategy[object], dtype: object) -> st.SearchStrategy[pl.Series]:
    """A column of :data:`ROWS` values, some of them null."""
    maybe = st.one_of(values, values, values, st.none())
    return st.lists(maybe, min_size=ROWS, max_size=ROWS).map(lambda v: pl.Series(v, dtype=dtype, strict=False))


COLUMNS = st.one_of(
    column(st.integers(0, 5), pl.Int64),
    column(HUGE, pl.Int64),
    column(st.integers(0, 2**64 - 1), pl.UInt64),
    column(st.integers(-100, 100), pl.Int8),
    column(FLOATS, pl.Float64),
    column(FLOATS, pl.Float32),
    column(TEXT, pl.String),
    column(ODD_TEXT, pl.String),
    column(TIME_TEXT, pl.String),
    column(st.booleans(), pl.Boolean),
    column(TIMES, pl.Datetime("us")),
    column(FAR_TIMES, pl.Datetime("us")),
    column(TIMES, pl.Datetime("ns", "Asia/Tokyo")),
    column(st.dates(date(1990, 1, 1), date(2030, 1, 1)), pl.Date),
    column(st.lists(TEXT, max_size=3), pl.List(pl.String)),
    column(st.sampled_from("abc"), pl.Categorical),
    column(st.binary(max_size=4), pl.Binary),
    column(st.fixed_dictionaries({"a": st.integers(0, 3)}), pl.Struct({"a": pl.Int64})),
    column(st.timedeltas(timedelta(0), timedelta(days=3)), pl.Duration("us")),
    column(st.decimals(-9, 9, places=2), pl.Decimal(10, 2)),
    st.just(pl.Series([None] * ROWS, dtype=pl.Null)),
)
IDS = st.one_of(
    column(st.integers(0, 5), pl.Int64), column(ODD_TEXT, pl.String), column(HUGE, pl.Int64), column(TEXT, pl.String)
)
WHEN = st.one_of(column(TIMES, pl.Datetime("us")), column(TIME_TEXT, pl.String), column(FAR_TIMES, pl.Datetime("us")))
EVENTS = st.fixed_dictionaries(
    {name: st.one_of(IDS, IDS, COLUMNS) for name in ("user_id", "item_id")} | {"timestamp": st.one_of(WHEN, COLUMNS)},
    optional=dict.fromkeys(("event_type", "basket_id", "quantity", "value", "store", "odd name, \u00fc"), COLUMNS),
)
ITEMS = st.fixed_dictionaries({"item_id": st.one_of(IDS, COLUMNS)}, optional={"brand": COLUMNS, "price": COLUMNS})
USERS = st.fixed_dictionaries({"user_id": st.one_of(IDS, COLUMNS)}, optional={"town": COLUMNS, "user_id_": COLUMNS})
GOOD = {
    "user_id": pl.Series([i % 5 for i in range(ROWS)]),
    "item_id": pl.Series([i % 7 for i in range(ROWS)]),
    "timestamp": pl.Series([START + timedelta(hours=i) for i in range(ROWS)]),
}


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(EVENTS, st.none() | ITEMS, st.none() | USERS, st.booleans(), st.sampled_from([0.05, 1]))
@example(GOOD, None, None, False, 1)
def test_prepared_or_one_message(events, items, users, context, rejects) -> None:
    tables = {"events": events, "items": items, "users": users}
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for name, columns in tables.items():
            if columns is not None:
                paths[name] = str(Path(folder, f"{name}.parquet"))
                pl.DataFrame(columns).write_parquet(paths[name])
        cfg = DataConfig(
            name="fuzz",
            **paths,
            context=["store"] if context else [],
            max_reject_share=rejects,
            cache_dir=str(Path(folder, "prepared")),
        )
        check_prepared(cfg)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    replaced=st.dictionaries(st.sampled_from(["user_id", "item_id", "timestamp", "value", "note"]), COLUMNS, max_size=2)
)
def test_one_odd_column_among_good_ones(replaced) -> None:
    """Most rows are good, so that what is odd comes through to the features and the report."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "events.parquet"))
        pl.DataFrame(GOOD | replaced).write_parquet(path)
        check_prepared(
            DataConfig(name="fuzz", events=path, max_reject_share=1, cache_dir=str(Path(folder, "prepared")))
        )


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(lines=st.lists(st.lists(st.one_of(TEXT, ODD_TEXT, TIME_TEXT), min_size=3, max_size=3), max_size=20), tail=TEXT)
def test_csv_of_anything(lines, tail) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "events.csv")
        good = [f"u{i % 5},i{i % 7},{START + timedelta(hours=i)}" for i in range(ROWS)]
        text = "\n".join(["user_id,item_id,timestamp", *good, *(",".join(line) for line in lines), tail])
        path.write_bytes(text.encode())
        check_prepared(DataConfig(name="fuzz", events=str(path), max_reject_share=1, cache_dir=f"{folder}/prepared"))


def check_prepared(cfg: DataConfig) -> None:
    """Prepare and report, or be told why not; a traceback of anything else fails the test."""
    told = ""
    try:
        prepared = prepare(cfg)
    except RecsysError as error:
        told = str(error)
    if told:
        assert len(told.splitlines()) == 1
        return
    rows = prepared.report["rows"]
    left_out = {name: n for name, n in rows.items() if name not in ("read", "kept", "rejected")}
    assert rows["read"] == rows["kept"] + sum(left_out.values()) + sum(prepared.report["rejects"].values())
    assert rows["kept"] == len(prepared.events)
    assert (
        rows["rejected"]
        == sum(prepared.report["rejects"].values())
        == len(pl.read_parquet(prepared.path / "rejects.parquet"))
    )
    for key in ("user_id", "item_id", "timestamp"):
        assert prepared.events[key].null_count() == 0
    inside = prepared.events["timestamp"].is_between(datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC))
    assert inside.all()
    assert data_report(prepared).rows == rows
    assert {found.severity for found in audit_tables(prepared)} <= set(SEVERITIES)  # a section of the report


@pytest.mark.parametrize("name", ["events", "items", "users"])
def test_an_empty_table_is_named(config, shop_events, name) -> None:
    tables = {
        "events": shop_events,
        "items": shop_events.select("item_id").unique(),
        "users": shop_events.select("user_id"),
    }
    tables[name] = tables[name].clear()
    with pytest.raises(RecsysError, match=rf"data\.{name}=.*no rows"):
        prepare(config(**tables))
