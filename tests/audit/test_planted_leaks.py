"""Each planted leak is found by its name and column, and nothing else is; the clean shop has none."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from recsys.audit.future import audit_future
from recsys.audit.prepared import as_of_features, audit_prepared, audit_tables, snapshots
from recsys.audit.sides import audit_sides
from recsys.audit.single import audit_snapshots
from recsys.data.dataset import microseconds
from recsys.features import Feature, FeatureSpec

TIME = pl.col("timestamp").dt.epoch("us")


@pytest.fixture
def cut(clean) -> int:
    """Start of the validation window."""
    return microseconds(clean.windows.val_start)


def leaks(findings) -> list[tuple[str, str]]:
    """Name and place of what is wrong."""
    return [(found.leak, found.place) for found in findings if found.severity != "info"]


def with_context(prepared, *features: Feature):
    return replace(prepared, spec=FeatureSpec((*prepared.spec, *features)))


def purchases(prepared) -> pl.DataFrame:
    return prepared.events.filter(event_type="purchase")


def test_clean_shop_is_clean(clean) -> None:
    audit = audit_prepared(clean, max_users=200)
    assert leaks(audit.findings) == []
    assert {found.leak for found in audit.findings} == {"users on both sides"}
    assert len(audit.findings) == 2  # one of each cut


@pytest.mark.parametrize("column", ["event_type", "quantity", "value", "basket_id"])
def test_label_among_the_features(clean, column) -> None:
    leaky = with_context(clean, Feature("what", "context", "id", column))
    assert ("label among the features", f"events, column '{column}'") in leaks(audit_tables(leaky))


def test_context_that_is_an_attribute_of_the_item(clean, plant) -> None:
    brands = clean.items.select("item_id", aisle="category")
    leaky = with_context(plant(events=brands), Feature("aisle", "context", "id"))
    assert leaks(audit_tables(leaky)) == [("context names the item", "events, column 'aisle'")]


def test_context_that_tells_the_event_type(clean, plant, cut) -> None:
    paid = pl.when(event_type="purchase").then(pl.lit("paid")).otherwise(pl.lit("open")).alias("state")
    leaky = with_context(plant(events=paid), Feature("state", "context", "id"))
    found = audit_snapshots(snapshots(leaky, leaky, cut, microseconds(clean.windows.test_start)))
    assert leaks(found) == [("near-perfect single feature", "events, column 'state'")]


def test_attribute_younger_than_the_event(clean, plant) -> None:
    first = clean.events.group_by("item_id").agg(pl.col("timestamp").min())
    rated = first.select("item_id", rating=pl.lit(4.5), rated=pl.col("timestamp").dt.to_string("iso"))
    late = pl.col("item_id") == rated["item_id"].max()
    later = "2024-12-20T00:00:00"
    leaky = plant(items=rated.with_columns(rated=pl.when(late).then(pl.lit(later)).otherwise("rated")))
    assert leaks(audit_tables(plant(items=rated), {"rating": "rated"})) == []
    (found,) = [f for f in audit_tables(leaky, {"rating": "rated"}) if f.severity == "error"]
    assert (found.leak, found.place) == ("attribute younger than the event", "items, column 'rating'")
    item = clean.events.filter(late & (pl.col("timestamp") < datetime(2024, 12, 20, tzinfo=UTC)))
    assert found.rows == len(item) > 0


@pytest.mark.parametrize(
    ("column", "total"),
    [
        ("sold", pl.len()),
        ("buyers", pl.col("user_id").n_unique()),
        ("turnover", pl.col("value").sum()),
        ("last_sale", TIME.max() / 86_400_000_000),
    ],
)
def test_attribute_that_sums_up_the_future(clean, plant, column, total) -> None:
    def added(events: pl.DataFrame) -> pl.DataFrame:
        return events.group_by("item_id").agg(total.alias(column))

    until = clean.windows.val_start
    assert leaks(audit_tables(plant(items=added(purchases(clean).filter(pl.col("timestamp") < until))))) == []
    found = leaks(audit_tables(plant(items=added(purchases(clean)))))
    assert found == [("attribute sums up the future", f"items, column '{column}'")]


def test_a_launch_that_is_the_first_event_may_be_honest(clean, plant) -> None:
    is_new = pl.col("item_id").hash() % 3 == 0
    events = clean.events.filter((pl.col("timestamp") >= clean.windows.test_start) | ~is_new)
    first = events.group_by("item_id").agg((TIME.min() / 86_400_000_000).alias("launched"))
    (found,) = (f for f in audit_tables(plant(items=first).with_events(events)) if "launched" in f.place)
    assert (found.severity, found.place) == ("warning", "items, column 'launched'")
    assert "keep it if it is known before" in found.remedy


@pytest.mark.parametrize(("timezone", "late"), [("UTC", 0), ("Asia/Tokyo", 0), ("America/New_York", 1)])
def test_times_of_attributes_are_those_of_the_shop(clean, plant, timezone, late) -> None:
    """Known since the first event by a clock of the shop; two hours later on the clock of New York is too late."""
    first = clean.events.group_by("item_id").agg(pl.col("timestamp").min())
    there = first["timestamp"].dt.convert_time_zone(timezone).dt.offset_by(f"{2 * late}h")
    rated = first.select("item_id", rating=pl.lit(4.5), rated=there.dt.replace_time_zone(None).dt.to_string("iso"))
    found = [
        f for f in audit_tables(plant(items=rated), {"rating": "rated"}, timezone=timezone) if f.severity == "error"
    ]
    assert [f.leak for f in found] == ["attribute younger than the event"] * late


def test_user_attribute_that_sums_up_the_future(clean, plant) -> None:
    orders = purchases(clean).group_by("user_id").agg(orders=pl.len())
    assert leaks(audit_tables(plant(users=orders))) == [("attribute sums up the future", "users, column 'orders'")]


def in_parts(prepared):
    """The same events in three parts, those of a user in one."""
    return replace(
        prepared,
        event_parts=tuple(prepared.events.lazy().filter(pl.col("user_id").hash() % 3 == part) for part in range(3)),
    )


def test_clean_parts_are_clean_and_count_all_users(clean) -> None:
    whole, parts = audit_tables(clean), audit_tables(in_parts(clean))
    assert leaks(parts) == []
    assert [(f.leak, f.place, f.rows) for f in parts] == [(f.leak, f.place, f.rows) for f in whole]


@pytest.mark.parametrize(("table", "key"), [("items", "item_id"), ("users", "user_id")])
def test_sums_over_all_parts(clean, plant, table, key) -> None:
    """No part alone shows that an item's number is that of all sales, as a sum over all of them does."""
    other = "user_id" if key == "item_id" else "item_id"
    sums = {"sold": pl.len(), "others": pl.col(other).n_unique(), "last": TIME.max() / 86_400_000_000}
    for name, total in sums.items():
        leaky = plant(**{table: purchases(clean).group_by(key).agg(total.alias(name))})
        assert audit_tables(in_parts(leaky))[0] == audit_tables(leaky)[0]
        assert leaks(audit_tables(in_parts(leaky))) == [("attribute sums up the future", f"{table}, column '{name}'")]


@pytest.mark.parametrize("part", range(3))
def test_a_leak_of_one_user_in_any_part(clean, part) -> None:
    """One basket, of one user of the part, stands on both sides."""
    is_late = pl.col("timestamp") >= clean.windows.test_start
    both = purchases(clean).filter(pl.col("user_id").hash() % 3 == part, pl.col("timestamp") >= clean.windows.val_start)
    users = both.group_by("user_id").agg(late=is_late.any(), early=(~is_late).any()).filter("late", "early")
    user = users["user_id"].min()
    theirs = (pl.col("user_id") == user) & (pl.col("event_type") == "purchase")
    moved = clean.events.with_columns(
        basket_id=pl.when(theirs).then(pl.col("basket_id").filter(theirs).first()).otherwise("basket_id")
    )
    found = [f for f in audit_tables(in_parts(clean.with_events(moved))) if f.severity == "error"]
    assert [(f.leak, f.place) for f in found][-1] == (
        "basket on both sides",
        "events, cut test_start, column 'basket_id'",
    )
    assert found[-1].evidence.startswith("in 1 of 3 parts of the users; in the first of these: 1 baskets begin")


def test_near_perfect_item_attribute(clean, plant, cut) -> None:
    until = microseconds(clean.windows.test_start)
    sold = purchases(clean).filter((cut <= TIME) & (until > TIME))["item_id"].unique()
    leaky = plant(items=pl.col("item_id").is_in(sold.implode()).cast(pl.String).alias("on_shelf"))
    found = leaks(audit_snapshots(snapshots(leaky, leaky, cut, until)))
    assert found == [("near-perfect single feature", "items, column 'on_shelf'")]


def test_near_perfect_user_attribute(clean, plant, cut) -> None:
    until = microseconds(clean.windows.test_start)
    back = purchases(clean).filter((cut <= TIME) & (until > TIME))["user_id"].unique()
    leaky = plant(users=pl.col("user_id").is_in(back.implode()).cast(pl.Float64).alias("loyalty"))
    found = leaks(audit_snapshots(snapshots(leaky, leaky, cut, until)))
    assert found == [("near-perfect single feature", "users, column 'loyalty'")]


def popularity(events: pl.DataFrame, items: pl.Series, **columns: pl.Expr) -> pl.DataFrame:
    counts = events.group_by("item_id").agg(**columns)
    return items.to_frame().join(counts, on="item_id", how="left", maintain_order="left").drop("item_id")


def test_aggregate_over_all_events(clean, cut) -> None:
    items = clean.items["item_id"]

    def features(events: pl.DataFrame, at: int) -> pl.DataFrame:
        good = popularity(events.filter(at > TIME), items, count=pl.len(), users=pl.col("user_id").n_unique())
        return good.with_columns(popularity(events, items, all_time=pl.len())["all_time"])

    found = leaks(audit_future({"popularity": features}, clean.events, cut))
    assert found == [("feature moves with the future", "popularity, column 'all_time'")]


def test_aggregate_that_includes_the_time_of_the_cut(clean, cut) -> None:
    def features(events: pl.DataFrame, at: int) -> pl.DataFrame:
        return popularity(events.filter(at >= TIME), clean.items["item_id"], count=pl.len())

    found = leaks(audit_future({"item counts": features}, clean.events, cut))
    assert found == [("feature moves with the future", "item counts, column 'count'")]


def test_scale_that_is_fitted_on_everything(clean, cut) -> None:
    """A permutation of the future does not move a mean; leaving the future out does."""

    def features(events: pl.DataFrame, at: int) -> pl.DataFrame:
        past = events.filter(at > TIME)
        spend = past.sort("user_id", "timestamp", "item_id", "event_type").group_by("user_id", maintain_order=True)
        return spend.agg(pl.col("value").sum()).select(
            own=pl.col("value"), scaled=pl.col("value") - events["value"].mean()
        )

    found = leaks(audit_future({"spend": features}, clean.events, cut))
    assert found == [("feature moves with the future", "spend, column 'scaled'")]


def test_vocabulary_of_everything(clean, cut) -> None:
    def features(events: pl.DataFrame, at: int) -> pl.DataFrame:
        known = events["item_id"].unique().sort()
        return clean.items.select(id=pl.col("item_id").is_in(known.implode()))

    found = leaks(audit_future({"vocabulary": features}, clean.events, cut))
    assert found == [("feature moves with the future", "vocabulary, column 'id'")]


def test_rows_that_only_the_future_brings(clean, cut) -> None:
    def features(events: pl.DataFrame, at: int) -> pl.DataFrame:
        return events.select(pl.col("user_id").unique().sort())

    found = leaks(audit_future({"users": features}, clean.events, cut))
    assert found == [("feature moves with the future", "users, column '(number of rows)'")]


def test_own_features_do_not_move(clean, cut) -> None:
    assert audit_future(as_of_features(clean), clean.events, cut) == []


def split_at(events: pl.DataFrame, row: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    return events[:row], events[row:]


@pytest.fixture
def baskets() -> pl.DataFrame:
    """Ten baskets of two rows, one basket an hour, in the order of time."""
    start = datetime(2024, 1, 1, tzinfo=UTC)
    rows = [(n % 4, n * 2 + line, start + timedelta(hours=n), n) for n in range(10) for line in range(2)]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "basket_id"], orient="row")


def test_cut_between_baskets_is_clean(baskets) -> None:
    (found,) = audit_sides(*split_at(baskets, 10), "val_start")
    assert (found.leak, found.severity, found.rows) == ("users on both sides", "info", 4)


def test_timestamp_shared_across_a_cut(baskets) -> None:
    found = audit_sides(*split_at(baskets.drop("basket_id"), 9), "val_start")
    assert leaks(found) == [("timestamp on both sides", "events, cut val_start, column 'timestamp'")]
    assert found[0].rows == 1
    assert "user 0, item 8, 2024-01-01 04:00:00+00:00" in found[0].evidence


def test_basket_on_both_sides(baskets) -> None:
    spread = baskets.with_columns(pl.col("timestamp") + pl.duration(minutes=pl.col("item_id") % 2))
    found = audit_sides(*split_at(spread, 9), "test_start")
    assert leaks(found) == [("basket on both sides", "events, cut test_start, column 'basket_id'")]
    assert "first: user 0, basket 4" in found[0].evidence


def test_basket_of_what_does_not_count_may_stand_on_both_sides(baskets) -> None:
    spread = baskets.with_columns(
        pl.col("timestamp") + pl.duration(minutes=pl.col("item_id") % 2),
        event_type=pl.when(pl.col("item_id") == 9).then(pl.lit("return")).otherwise(pl.lit("buy")),
    )
    assert leaks(audit_sides(*split_at(spread, 9), "test_start", ["buy"])) == []
    assert leaks(audit_sides(*split_at(spread, 9), "test_start", ["buy", "return"]))


def test_random_split(baskets) -> None:
    found = audit_sides(baskets[::2], baskets[1::2], "random")
    assert [name for name, _ in leaks(found)] == ["split not by time", "basket on both sides"]
    assert found[0].rows == 10  # the first basket's own time is the first of the later side


def test_row_on_both_sides(baskets) -> None:
    before, after = split_at(baskets, 10)
    found = audit_sides(
        before, pl.concat([after, before[:1].with_columns(basket_id=pl.lit(99, pl.Int64))]), "val_start"
    )
    assert "row on both sides" in [name for name, _ in leaks(found)]


def test_contradicting_attributes_are_a_warning(clean) -> None:
    counts = clean.report["items"] | {"contradictions": 3}
    (found,) = [
        f for f in audit_tables(replace(clean, report=clean.report | {"items": counts})) if f.severity != "info"
    ]
    assert (found.leak, found.severity, found.rows) == ("attributes change over time", "warning", 3)
