import io
from dataclasses import replace
from datetime import date

import polars as pl
import pytest
from rich.console import Console

from recsys.data.prepare import prepare
from recsys.data.report import data_report, far_times, percent, print_summary
from recsys.data.report_page import Section, render, write_html
from recsys.errors import DataError


@pytest.fixture
def tiny(config):
    """Ten events by hand: train hours 0-5 (u1, u2 buy a, b), val 6-7, test 8-9 of the next day."""
    rows = [
        (1, "a", "2024-01-01 00:00"), (1, "b", "2024-01-01 01:00"), (2, "a", "2024-01-01 02:00"),
        (1, "a", "2024-01-01 03:00"), (2, "b", "2024-01-01 04:00"), (2, "b", "2024-01-01 05:00"),
        (1, "a", "2024-01-02 06:00"), (3, "c", "2024-01-02 07:00"),
        (4, "a", "2024-01-04 08:00"), (3, "c", "2024-01-04 09:00"),
        (None, "a", "2024-01-04 09:00"),
    ]  # fmt: skip
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    users = pl.DataFrame({"user_id": [1, 2], "town": ["<b>Bonn</b>"] * 2})
    cfg = config(events=events, users=users, max_reject_share=0.1)
    return replace(cfg, split=replace(cfg.split, val_start="2024-01-02", test_start="2024-01-03"))


def test_numbers_by_hand(tiny):
    report = data_report(prepare(tiny))
    assert report.rows == {"read": 11, "kept": 10, "duplicates": 0, "after_end": 0, "impressions": 0, "rejected": 1}
    assert report.rejects == {"user_id_missing": 1}
    assert report.cardinalities == {"users": 4, "items": 3}
    train, val, test = report.windows
    assert [w.events for w in report.windows] == [6, 2, 2]
    assert (train.cold_users, train.cold_items, train.repeats) == (None, None, pytest.approx(2 / 6))
    assert (val.cold_users, val.cold_items, val.repeats) == (0.5, 0.5, 0.5)
    assert (test.cold_users, test.cold_items, test.repeats) == (0.5, 0.0, 0.5)
    assert report.days == tuple(date(2024, 1, d) for d in (1, 2, 3, 4))
    assert report.events_a_day == (6, 2, 0, 2)
    assert (report.ranks, report.popularity) == ((1, 2, 3), (5, 3, 2))
    assert report.head_share == {"top 1%": 0.5, "top 10%": 0.5}
    assert report.activity.tolist() == [4, 3, 2, 1]
    assert report.user_quantiles["most"] == 4
    town = next(c for c in report.columns if c.name == "town")
    assert (town.null_share, town.distinct, town.feature) == (0.5, 1, "id")


def test_sellers_are_counted_as_an_attribute_of_items(tiny, config):
    items = pl.DataFrame({"item_id": ["a", "b", "c"], "user_id": [7, 7, None]})
    report = data_report(prepare(replace(tiny, items=config(items=items).items)))
    found = {c.name: (c.distinct, c.null_share, c.feature) for c in report.columns if c.side == "item"}
    assert found == {"item_id": (3, 0.0, "id"), "user_id": (1, 1 / 3, "id")}


def test_a_repeat_needs_an_earlier_time(config):
    rows = [(1, "a", h, b) for h, b in ((0, 1), (0, 2), (1, 3), (2, 4), (3, 5))] + [(2, "b", h, 9) for h in range(4, 9)]
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "basket_id"], orient="row")
    cfg = config(events=events.with_columns(pl.col("timestamp") * 3600), timestamp_unit="s")
    report = data_report(prepare(cfg))
    assert report.windows[0].repeats == pytest.approx(4 / 7)  # of u1: 3 of 5; of u2: 1 of 2
    assert report.cardinalities["baskets"] == 6


def printed(cfg):
    out = io.StringIO()
    print_summary(data_report(prepare(cfg)), Console(file=out, width=120))
    return out.getvalue()


def test_summary_names_rejects(tiny):
    text = printed(tiny)
    assert "10 of 11 rows kept" in text
    assert "rejected user id missing: 1 (9.09%)" in text


def test_summary_names_windows_and_features(shop):
    lines = [line.split() for line in printed(shop).splitlines()]
    assert ["val", "2024-01-03", "22:00", "1", "15", "7", "0.0%", "11", "0.0%", "53.3%"] in lines
    assert ["item", "price", "numeric", "11", "0.0%"] in lines
    assert ["context", "timestamp", "timestamp", "100", "0.0%"] in lines


def test_a_price_that_is_text_is_pointed_out(config, shop_events):
    prices = pl.DataFrame({"item_id": shop_events["item_id"].unique()}).with_row_index("n")
    items = prices.select("item_id", price=pl.format("${},000.00", pl.col("n") + 1), cost=pl.col("n") % 3 * 0.5)
    columns = {c.name: c.feature for c in data_report(prepare(config(events=shop_events, items=items))).columns}
    hint = "the text looks like numbers, such as '$1,000.00'; write numbers to have it read as such"
    assert columns["price"] == f"id; {hint}"
    assert columns["cost"] == "numeric"


def test_page_is_self_contained_escaped_and_always_the_same(tiny):
    report = data_report(prepare(tiny))
    page = render(report)
    assert page.count("<svg") == 3
    assert "&lt;b&gt;Bonn" in page
    assert "<b>Bonn" not in page
    assert "rejected: user id missing" in page
    for outside in ('src="http', 'href="http', "<script", "<link", "@import"):
        assert outside not in page
    assert render(report) == page


def test_sections_of_others_are_shown_escaped(tiny):
    section = Section("Bots", "Accounts & robots.", ("account", "lines"), (("<u1>", "7"), ("u2", "8")))
    page = render(data_report(prepare(tiny)), [section])
    assert "<h2>Bots</h2>\n<p>Accounts &amp; robots.</p>" in page
    assert "<tr><td>&lt;u1&gt;</td><td>7</td></tr>" in page
    assert page.count("<section>") == render(data_report(prepare(tiny))).count("<section>") + 1


def test_what_one_user_alone_has_is_not_shown(shop):
    gender = next(c for c in data_report(prepare(shop)).columns if c.name == "gender")
    assert (gender.distinct, gender.examples) == (2, ())  # one f, one m


def test_page_is_written_whole_or_not(tiny, tmp_path):
    report = data_report(prepare(tiny))
    path = write_html(report, tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [f.name for f in path.parent.iterdir()] == ["report.html"]
    with pytest.raises(DataError, match="data report cannot be written"):
        write_html(report, path / "below_a_file.html")


def test_awkward_columns_are_reported(config, shop_events):
    events = shop_events.with_columns(count=pl.lit(1), rows=pl.col("store"), path=pl.struct("store"))
    columns = {c.name: c for c in data_report(prepare(config(events=events, context=["rows"]))).columns}
    assert columns["count"].feature == "none: every row has the same value (1)"
    assert columns["rows"].examples == ("north", "south")
    assert columns["path"].feature.startswith("none: type Struct")


def test_columns_of_events_that_are_no_attributes_are_left_out(config, shop_events):
    events = shop_events.with_row_index("session_id")
    columns = {c.name: c.feature for c in data_report(prepare(config(events=events))).columns}
    assert columns["session_id"].startswith("none: it differs within ")
    asked = data_report(prepare(config(events=events, item_attributes=["session_id"])))
    assert {c.name: c.feature for c in asked.columns}["session_id"] == "id"


def test_the_test_window_does_not_decide_what_is_an_attribute(config, shop_events):
    """A device of its own for each item in the first 70 of 100 events, of which none is later than training."""
    late = pl.lit("d") + pl.col("value").cast(pl.String)
    device = pl.when(pl.col("value") < 70).then(pl.lit("of ") + pl.col("item_id")).otherwise(late)
    data = prepare(config(events=shop_events.with_columns(device=device)))
    assert "device" in data.items.columns


def days_of(*rows):
    return pl.DataFrame(rows, schema={"day": pl.Date, "rows": pl.Int64}, orient="row")


def test_events_of_a_wrong_clock_are_pointed_out():
    month = [(date(2024, 1, day), 100) for day in range(1, 31)]
    assert far_times(days_of(*month)) == []
    (found,) = far_times(days_of((date(1970, 1, 1), 1), *month, (date(2150, 5, 1), 3)))
    assert (found.rule, found.found) == ("times", 4)
    assert found.done.startswith("kept, on 1970-01-01, 2150-05-01, where the others are from 2024-01-01 to 2024-01-30:")
    assert far_times(days_of(*month, (date(2150, 5, 1), 4))) == []  # more than one in a thousand are no slip
    assert far_times(days_of(*month, (date(2024, 2, 20), 1))) == []  # nearer than the month is long
    assert far_times(days_of((date(1970, 1, 1), 1), (date(2024, 1, 1), 1))) == []
    (found,) = far_times(days_of((date(2024, 1, 1), 9), (date(2024, 2, 1), 1)))  # of one day and one event
    assert found.found == 1


def test_percent():
    assert (percent(None), percent(0.125)) == ("-", "12.5%")
