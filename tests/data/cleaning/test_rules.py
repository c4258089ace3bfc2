"""All rules together, through ``prepare``: nothing is lost, nothing else is dropped, nothing looks ahead."""

import io
import tempfile
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from rich.console import Console

from recsys.config.cleaning import AccountsConfig, CleaningConfig, JunkConfig, ReturnsConfig, ShiftedConfig
from recsys.config.data import DataConfig, SplitConfig
from recsys.data.cleaning.rules import ORDER
from recsys.data.prepare import prepare
from recsys.data.report import data_report, print_summary
from recsys.data.report_page import render
from recsys.errors import DataError

START = datetime(2024, 1, 1)
SCHEMA = {
    "user_id": pl.Int64,
    "item_id": pl.String,
    "timestamp": pl.Datetime("us"),
    "event_type": pl.String,
    "quantity": pl.Int64,
    "brand": pl.String,
    "spare": pl.Int64,
}
RULES = CleaningConfig(
    shifted=[ShiftedConfig({"user_id": None, "brand": r"^\d+$"}, {"user_id": "brand"})],
    junk=[JunkConfig(values=["post"])],
    near_duplicate_seconds=60,
    accounts=AccountsConfig(action="drop", lines=12),
    returns=ReturnsConfig(negative_quantity=True),
    text=["brand"],
)
SPLIT = SplitConfig(val_start="2024-01-03", test_start="2024-01-04", end="2024-01-05")
BASE = [
    (1 + i % 3, "abc"[i % 2], 8 * 60 * i, "buy", 1, "Tea", 0) for i in range(12)
]  # four days, an event every 8 hours


def table(rows):
    return pl.DataFrame(
        [(user, item, START + timedelta(minutes=minutes), *rest) for user, item, minutes, *rest in rows],
        schema=SCHEMA,
        orient="row",
    )


def prepared(rows, cleaning=RULES, **keys):
    """Prepare in a folder that goes away; the result is in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "events.parquet")
        table(rows).write_parquet(path)
        cfg = {"name": "shop", "events": str(path), "cache_dir": folder, "split": SPLIT, "max_reject_share": 1.0}
        cfg |= {"relevant": ["buy"], "left_out": ["filter"], "impressions": ["seen"], "cleaning": cleaning} | keys
        kinds = {row[3] for row in rows}
        for key in ("relevant", "left_out", "impressions"):
            cfg[key] = [kind for kind in cfg[key] if kind in kinds]
        data = prepare(DataConfig(**cfg))
        return data, pl.read_parquet(data.path / "rejects.parquet")


def dirty():
    """The base with one of each fault, and what should become of its rows."""
    return [
        *BASE,
        (None, "a", 30, "buy", 1, "7", 0),  # 13 shifted: becomes an event of user 7
        BASE[0],  # 14 an exact duplicate
        (2, None, 31, "filter", 1, "Tea", 0),  # 15 left out, so nobody asks for its item
        (2, "c", 32, "seen", 1, "Tea", 0),  # 16 an impression
        (2, "post", 33, "buy", 1, "Tea", 0),  # 17 junk
        (1, "a", 0.5, "buy", 2, "Tea", 0),  # 18 half a minute after the first
        (9, "c", 40, "buy", 1, "TEA ", 0),  # 19 taken back by
        (9, "c", 50, "buy", -1, "Tea", 0),  # 20
        (9, "b", 60, "buy", -1, "Tea", 0),  # 21 of no purchase
        (None, "a", 70, "buy", 1, "Tea", 0),  # 22 no user
        *((4, f"i{n}", 100 + n, "buy", 1, "tea", 0) for n in range(13)),  # 23 - 35 more than 12 lines
        (1, "a", 6000, "buy", 1, "Tea", 0),  # 36 after the end
    ]


def test_each_fault_goes_its_way():
    data, rejects = prepared(dirty())
    assert dict(rejects.select("row_number", "reject_reason").iter_rows()) == {
        15: "event_type_left_out",
        17: "junk",
        18: "near_duplicate",
        19: "returned",
        20: "return",
        21: "return_unmatched",
        22: "user_id_missing",
        **dict.fromkeys(range(23, 36), "account_over_limits"),
    }
    assert rejects.filter(row_number=19)["brand"].to_list() == ["TEA "]
    rows = data.report["rows"]
    assert rows == {"read": 36, "kept": 13, "duplicates": 1, "after_end": 1, "impressions": 1, "rejected": 20}
    assert data.events.filter(user_id=7).select("item_id", "quantity").rows() == [("a", 1.0)]
    assert data.impressions.select("user_id", "item_id").rows() == [(2, "c")]
    assert "c" not in data.events["item_id"]
    assert data.items["brand"].unique().to_list() == ["tea"]
    found = {row["rule"]: row["found"] for row in data.report["cleaning"]}
    assert found == {
        "shifted": 1, "left_out": 1, "duplicates": 1, "event_types": 32, "junk": 1, "near_duplicates": 1, "accounts": 1,
        "returns": 2, "text": 12, "conflicts": 0,
    }  # fmt: skip
    assert list(found) == [rule for rule in ORDER if rule in found]


def test_the_report_names_rules_counts_and_what_was_done(config):
    cfg = config(events=table(dirty()), split=SPLIT, cleaning=RULES, left_out=["filter"], impressions=["seen"])
    cfg = replace(cfg, relevant=["buy"])
    report = data_report(prepare(cfg))
    out = io.StringIO()
    print_summary(report, Console(file=out, width=150))
    text = out.getvalue()
    for line in (
        "shifted 1 rows shifted (no user_id, brand is /^\\d+$/): values put back into their columns where they fit",
        "near duplicates 1 events within 60 seconds of one of the same user, item and type: dropped; the first stays",
        "accounts 1 accounts over a limit: dropped from the window on in which a limit was broken",
        "lines of 4 (46.43% of all, at most 13 events and 13 items a day; over a limit since the train window): 13",
        "buy, relevant, weight 1: 31",
        "returns 2 returns:",
    ):
        assert line in text
    page = render(report)
    assert "<h2>Cleaning</h2>" in page
    assert "purchases taken back whole: 1" in page
    assert "the largest has 13 lines" in page
    assert "lines of 4 (" not in page  # a number that an erasure would not find


def test_by_default_only_duplicates_go():
    data, rejects = prepared(
        dirty(), CleaningConfig(), left_out=[], impressions=[], split=SplitConfig(end="2024-01-05")
    )
    assert data.report["rows"] == {
        "read": 36, "kept": 31, "duplicates": 1, "after_end": 1, "impressions": 0, "rejected": 3,
    }  # fmt: skip
    assert rejects["reject_reason"].to_list() == ["user_id_missing", "item_id_missing", "user_id_missing"]


def test_duplicates_can_stay():
    data, _ = prepared([*BASE, BASE[0]], CleaningConfig(duplicates=False))
    assert (data.report["rows"]["kept"], data.report["rows"]["duplicates"]) == (13, 0)


def test_lessened_lines_that_look_alike_both_stay():
    rows = [
        *BASE,
        (5, "a", 10, "buy", 3, "Tea", 0),
        (5, "a", 10, "buy", 2, "Tea", 0),
        (5, "a", 20, "buy", -1, "Tea", 0),
    ]
    data, _ = prepared(rows, CleaningConfig(returns=ReturnsConfig(negative_quantity=True)))
    assert data.events.filter(user_id=5)["quantity"].to_list() == [2.0, 2.0]


def test_negative_quantities_that_nobody_asked_about_are_named():
    data, _ = prepared([*BASE, (5, "a", 10, "buy", 3, "Tea", 0), (5, "a", 20, "buy", -1, "Tea", 0)], CleaningConfig())
    (found,) = [finding for finding in data.report["cleaning"] if finding["rule"] == "returns"]
    assert (found["found"], found["what"]) == (1, "events with a quantity below 0")
    assert data.events.filter(user_id=5)["quantity"].to_list() == [3.0, -1.0]


def test_accounts_that_leave_a_window_empty_are_named():
    with pytest.raises(DataError, match=r"test .* has 0 events"):
        prepared([*BASE[:9], *((9, f"i{n}", 4320 + n, "buy", 1, "x", 0) for n in range(13))])


def test_a_rule_that_needs_a_column(config):
    cfg = config(events=table(BASE).drop("quantity"), cleaning=RULES)
    with pytest.raises(DataError, match=r"negative_quantity needs a column 'quantity'; map it with data\.columns"):
        prepare(cfg)


def test_items_of_a_table(config):
    items = pl.DataFrame(
        {
            "item_id": ["a", "a", "b", "post", "c"],
            "brand": ["Old", "New", "B ", "P", "Late"],
            "size": ["1 LB", "2 LB", "6 CT", None, "?"],
            "since": ["2023-01-01", "2024-01-03 12:00:00", "2023-01-01", "2023-01-01", "2024-01-04"],
        }
    )
    rules = replace(RULES, conflicts="as_of", item_time="since", units=["size"])
    rows = [row if row[2] != 0 else (*row[:1], "c", *row[2:]) for row in BASE]  # c is sold before it is listed
    data = prepare(
        config(events=table(rows).drop("brand", "spare"), items=items, split=SPLIT, cleaning=replace(rules, shifted=[]))
    )
    assert data.items.drop("size_grams", "size_pieces").rows() == [
        ("a", "old", "1 LB"),
        ("b", "b", "6 CT"),
        ("c", None, None),
    ]
    assert data.report["items"]["read"] == 5
    assert {row["rule"] for row in data.report["cleaning"]} >= {"junk", "text", "conflicts", "units"}


def listed(config, since, **keys):
    """Prepare a shop whose item a has another brand since a later time."""
    items = pl.DataFrame({"item_id": ["a", "a", "b"], "brand": ["now", "some day", "b"], "since": since})
    events = table(BASE).drop("brand", "spare").with_columns(pl.col("timestamp").dt.to_string("%d/%m/%Y"))
    rules = CleaningConfig(conflicts="as_of", item_time="since")
    return prepare(config(events=events, items=items, timestamp_format="%d/%m/%Y", cleaning=rules, **keys))


@pytest.mark.parametrize(
    "since",
    [
        ["2019-01-01", "2030-01-01", " "],
        [1.5e9, 1.9e9, float("nan")],
        [1_500_000_000_000, 1_900_000_000_000, None],
        [datetime(2019, 1, 1), datetime(2030, 1, 1), None],
    ],
)
def test_times_of_items_need_not_be_written_as_those_of_events(config, since):
    data = listed(config, since, timestamp_unit="s")
    assert data.items.rows() == [("a", "now"), ("b", "b")]


def test_a_time_of_an_item_that_cannot_be_read_has_not_held_for_ever(config):
    expected = r"data\.items=.*column 'since': 1 times cannot be read, such as '1/1/30'.*data\.cleaning\.item_time"
    with pytest.raises(DataError, match=expected):
        listed(config, ["2019-01-01", "1/1/30", None])


def test_an_items_table_of_other_items_is_refused(config):
    events = table(BASE).drop("brand", "spare")
    items = pl.DataFrame({"item_id": ["00a", "00b"], "brand": ["x", "y"]})
    with pytest.raises(
        DataError, match=r"data\.items=.*: none of its items occurs in the events; .*'00a', theirs as 'a'"
    ):
        prepare(config(events=events, items=items))
    prepare(config(events=events, items=items.with_columns(item_id=pl.Series(["00a", "b"]))))


ROWS = st.lists(
    st.tuples(
        st.sampled_from([None, 1, 2, 3]),
        st.sampled_from(["a", "b", "post"]),
        st.integers(0, 5900).map(lambda n: n // 7 * 0.5 if n % 2 else float(n)),
        st.sampled_from(["buy", "buy", "filter", "seen", None]),
        st.sampled_from([1, 1, 2, -1]),
        st.sampled_from(["Tea", "tea ", "8", None]),
        st.just(0),
    ),
    max_size=25,
)


@settings(max_examples=25)
@given(ROWS, st.randoms())
def test_rows_are_kept_or_counted_in_any_order(rows, random):
    rows = [*BASE, *rows]
    data, rejects = prepared(rows)
    facts = data.report["rows"]
    assert facts["read"] == len(rows)
    assert facts["read"] == facts["kept"] + facts["duplicates"] + facts["after_end"] + facts["impressions"] + len(
        rejects
    )
    assert data.report["rejects"] == dict(rejects["reject_reason"].value_counts().sort("count").iter_rows())
    assert rejects["row_number"].n_unique() == len(rejects)
    shuffled = list(rows)
    random.shuffle(shuffled)
    again, _ = prepared(shuffled)
    for name in ("events", "items", "users", "impressions"):
        assert_frame_equal(getattr(data, name), getattr(again, name))
    assert data.report == again.report


@settings(max_examples=25)
@given(ROWS)
def test_nothing_is_dropped_but_what_a_rule_names(rows):
    """The junk rule alone: what is left is what a filter of the table leaves."""
    rows = [*BASE, *rows]
    data, rejects = prepared(rows, CleaningConfig(junk=[JunkConfig(values=["post"])]), left_out=[], impressions=[])
    end = START + timedelta(days=4)
    expected = table(rows).filter(
        pl.col("user_id").is_not_null(), pl.col("timestamp") < end, pl.col("item_id") != "post"
    )
    assert data.events.drop("spare", strict=False).height == expected.unique().height
    assert sorted(data.events["item_id"]) == sorted(expected.unique()["item_id"])
    dropped = table(rows).with_row_index(offset=1)[rejects["row_number"].cast(pl.Int64) - 1]
    assert (dropped["user_id"].is_null() | (dropped["item_id"] == "post")).all()


@settings(max_examples=40)
@given(ROWS, ROWS, st.sampled_from([3, 4]))
def test_what_comes_after_a_cut_changes_nothing_before_it(rows, others, day):
    minutes = (day - 1) * 24 * 60
    rows = [*BASE, *rows]
    future = [row for row in [*BASE, *others] if row[2] >= minutes]
    time = datetime.fromisoformat(f"2024-01-0{day}T00:00:00+00:00")

    def before(rows):
        data, _ = prepared(rows)
        events = data.events.filter(pl.col("timestamp") < time)
        known = data.items.join(events.select("item_id").unique(), on="item_id", how="semi", maintain_order="left")
        return events, known.select("item_id", "brand"), data.impressions.filter(pl.col("timestamp") < time)

    for a, b in zip(before(rows), before([row for row in rows if row[2] < minutes] + future), strict=True):
        assert_frame_equal(a, b)


def test_a_column_of_time_zones(config, shop_events):
    zones = pl.Series(["Asia/Tokyo", "nowhere", None, "UTC"] * 25)
    events = shop_events.with_columns(zone=zones)
    data = prepare(config(events=events, timezone_column="zone", max_reject_share=0.5))
    assert data.report["rejects"] == {"timezone_unknown": 25}
    assert data.report["cleaning"][0]["rule"] == "time_zones"
    assert data.items.columns == ["item_id"]  # nor is the store, which differs within the items, an attribute of theirs
    assert data.events.columns == ["user_id", "item_id", "timestamp", "value"]
    moved = data.events.filter(pl.col("value").is_in([0.0, 2.0, 3.0])).sort("value")["timestamp"].dt.strftime("%d %H")
    assert moved.to_list() == ["31 15", "01 02", "01 03"]
    with pytest.raises(DataError, match=r"no column 'zones', asked for by data\.timezone_column"):
        prepare(config(events=events, timezone_column="zones"))
