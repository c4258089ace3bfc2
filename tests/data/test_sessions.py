"""Sessions, engagement, carts and clocks: by hand, against a slow count, blind to what comes after the cut."""

import json
import math
from collections import defaultdict
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from recsys.data.dataset import microseconds
from recsys.data.pair_features import as_of, pair_features, users_as_of
from recsys.data.pair_plan import PairPlan
from recsys.data.sessions import CLOCK, SessionPlan, clock, in_sessions, plan_sessions, session_table, visits

CUT = datetime(2024, 6, 3, tzinfo=UTC)  # a Monday
MINUTE = timedelta(minutes=1)
DAY = 1440
PLAN = SessionPlan(
    weights={"view": 1.0, "cart": 4.0, "purchase": 8.0},
    half_life_days=2.0,
    purchase=("purchase",),
    cart=("cart",),
    wishlist=("wishlist",),
    has_types=True,
    has_length=True,
    has_more=True,
)
SCHEMA = {
    "user_id": pl.Int64,
    "item_id": pl.Int64,
    "timestamp": pl.Datetime("us", "UTC"),
    "event_type": pl.String,
    "basket_id": pl.Int64,
}


def log(rows) -> pl.DataFrame:
    """Events of rows (user, item, minutes before the cut[, type[, basket]])."""
    full = [(*row, *("view", None)[len(row) - 3 :]) for row in rows]
    return pl.DataFrame([(u, i, CUT - m * MINUTE, t, b) for u, i, m, t, b in full], schema=SCHEMA, orient="row")


SHOP = log(
    [
        (1, 10, 4 * DAY),  # a session of 40 minutes
        (1, 10, 4 * DAY - 30),  # 30 minutes are no gap
        (1, 11, 4 * DAY - 40, "cart"),
        (1, 11, 4 * DAY - 71, "purchase"),  # 31 minutes are one
        (1, 12, 2 * DAY, "cart"),
        (1, 12, 10, "wishlist"),
        (1, 13, 5, "cart"),  # a session that is open at the cut
        (1, 13, 0, "purchase"),
        (1, 14, -5),
        (2, 10, 7),
    ]
)


def table(rows=SHOP, plan=PLAN, cut=CUT) -> list[tuple]:
    past = rows.filter(pl.col("timestamp") < cut)
    found = session_table(plan, in_sessions(plan, past))
    return found.select("user_id", "minutes", "events", "items", "purchases").rows()


def test_sessions_by_gap_by_hand() -> None:
    assert table() == [(1, 40.0, 3, 2, 0), (1, 0.0, 1, 1, 1), (1, 0.0, 1, 1, 0), (1, 5.0, 2, 2, 0), (2, 0.0, 1, 1, 0)]
    assert table(plan=replace(PLAN, gap_minutes=31)) == [
        *[(1, 71.0, 4, 2, 1), (1, 0.0, 1, 1, 0), (1, 5.0, 2, 2, 0), (2, 0.0, 1, 1, 0)],
    ]


def test_sessions_by_the_shops_id() -> None:
    rows = log(
        [
            (1, 10, 100, "view", 7),
            (1, 11, 50, "view", 7),
            (2, 11, 50, "view", 7),  # another user's session of the same number
            (1, 12, 60, "view", 8),  # in between
            (1, 13, 55, "view", None),
            (1, 13, 40, "view", None),
        ]
    )
    by_basket = replace(PLAN, by_basket=True)
    assert sorted(table(rows, by_basket)) == [
        (1, 0.0, 1, 1, 0),
        (1, 15.0, 2, 1, 0),
        (1, 50.0, 2, 2, 0),
        (2, 0.0, 1, 1, 0),
    ]
    assert sorted(table(rows.drop("basket_id"), by_basket)) == sorted(table(rows))


def users(events=SHOP, plan=PLAN, cut=CUT) -> dict[int, dict]:
    found = visits(plan, events, microseconds(cut)).users
    return {row["user_id"]: row for row in found.iter_rows(named=True)}


def test_users_by_hand() -> None:
    one, two = users()[1], users()[2]
    halves = [(m, w) for m, w in ((4 * DAY, 1), (4 * DAY - 30, 1), (4 * DAY - 40, 4), (4 * DAY - 71, 8))]
    halves += [(2 * DAY, 4), (10, 1), (5, 4)]  # a wishlist event is not among the weights: it counts 1
    assert one["engagement"] == pytest.approx(sum(w * 0.5 ** (m / DAY / 2) for m, w in halves))
    assert (one["sessions"], one["sessions_28d"]) == (4, 4)
    assert one["session_minutes"] == pytest.approx(45 / 4)
    assert one["session_events"] == pytest.approx(7 / 4)
    assert one["session_items"] == pytest.approx(6 / 4)
    assert one["session_purchases"] == pytest.approx(1 / 4)
    assert one["days_since_event"] == pytest.approx(5 / DAY)
    # 11 was bought, 12 was not within a day, and what becomes of 13 nobody knows yet.
    assert one["cart_abandonment"] == 0.5
    assert (one["cart_open"], one["wishlist_open"]) == (2, 1)
    assert two["cart_abandonment"] is None
    assert two["engagement"] == pytest.approx(0.5 ** (7 / DAY / 2))


def test_pairs_that_wait_by_hand() -> None:
    waiting = visits(PLAN, SHOP, microseconds(CUT)).pairs.sort("item_id").rows()
    assert waiting == [(1, 12, 2.0, pytest.approx(10 / DAY)), (1, 13, pytest.approx(5 / DAY), None)]
    later = visits(PLAN, SHOP, microseconds(CUT + MINUTE)).pairs.sort("item_id").rows()
    assert [row[:2] for row in later] == [(1, 12)]  # 13 is bought at the cut itself


def test_bought_too_late_was_abandoned() -> None:
    rows = [(1, 10, 3 * DAY, "cart"), (1, 10, DAY, "purchase"), (1, 11, 2 * DAY, "cart"), (1, 11, DAY, "purchase")]
    found = users(log(rows))[1]
    assert found["cart_abandonment"] == 0.5  # 11 exactly a day after
    assert found["cart_open"] is None  # which features read as 0


def test_clock_is_local() -> None:
    zone = ZoneInfo("Europe/Berlin")
    summer, winter = datetime(2024, 7, 1, 6, 0, tzinfo=zone), datetime(2024, 1, 1, 6, 0, tzinfo=zone)
    night = datetime(2024, 12, 25, 0, 30, tzinfo=zone)  # still the 24th in UTC
    times = pl.DataFrame({"time": [microseconds(t.astimezone(UTC)) for t in (summer, winter, night)]})
    found = times.select(clock(pl.col("time"), "Europe/Berlin", ["2024-12-25"]))
    assert found.columns == [*CLOCK, "holiday"]
    assert found["hour_sin"].to_list() == pytest.approx([1, 1, math.sin(math.tau / 48)])
    assert found["hour_cos"].to_list() == pytest.approx([0, 0, math.cos(math.tau / 48)])
    assert found["weekday_cos"].to_list() == pytest.approx([1, 1, math.cos(math.tau * 2 / 7)])
    assert found["season_cos"].to_list() == pytest.approx([math.cos(math.tau * d / 365.25) for d in (182, 0, 359)])
    assert found["holiday"].to_list() == [0, 0, 1]


def test_habit_is_the_middle_of_the_sessions_beginnings() -> None:
    at = [datetime(2024, 5, day, hour, tzinfo=UTC) for day, hour in ((6, 22), (7, 2))]  # around midnight
    rows = pl.DataFrame({"user_id": 1, "item_id": [1, 2], "timestamp": at}).cast({"timestamp": SCHEMA["timestamp"]})
    found = users(rows, SessionPlan())[1]
    assert found["hour_cos"] == pytest.approx(math.cos(math.pi / 6))
    assert found["hour_sin"] == pytest.approx(0, abs=1e-12)


def test_plan_is_what_the_data_have() -> None:
    wanted = SessionPlan(
        by_basket=True,
        zone="Asia/Tokyo",
        holidays=("2024-06-01", "2024-12-25"),
        purchase=("purchase", "order"),
        cart=("cart", "add_to_cart"),
        wishlist=("wish",),
    )
    plan = plan_sessions(wanted, SHOP)
    assert plan == replace(
        wanted, purchase=("purchase",), cart=("cart",), wishlist=(), has_types=True, has_length=True, has_more=True
    )
    assert plan_sessions(replace(wanted, holidays=("2024-12-25",)), SHOP).holidays == ()
    bare = plan_sessions(wanted, SHOP.drop("event_type", "basket_id")[-1:])
    assert (bare.by_basket, bare.has_types, bare.has_length, bare.has_more) == (False, False, False, False)
    names = [name for name, _ in bare.user_rows]
    assert names == ["engagement", "session_events", "session_items", *CLOCK]
    assert bare.pair_rows == ()
    assert SessionPlan.from_plain(json.loads(json.dumps(asdict(plan)))) == plan


ITEMS = pl.DataFrame({"item_id": [10, 11, 12, 13, 14]})
PAIRS = pl.DataFrame([(u, i) for u in (1, 2, 3) for i in (10, 12, 13)], ["user_id", "item_id"], orient="row")
WHOLE = PairPlan(relevant=("purchase",), has_others=True, sessions=replace(PLAN, holidays=("2024-06-01",)))


def test_features_of_pairs_carry_them() -> None:
    state = as_of(WHOLE, SHOP, ITEMS, microseconds(CUT))
    rows = pair_features(state, PAIRS).rows(named=True)
    assert list(rows[0]) == [f.name for f in WHOLE.features]
    twelve = rows[1]
    assert twelve["pair_cart_days"] == pytest.approx(2)
    assert twelve["pair_wishlist_days"] == pytest.approx(10 / DAY)
    assert (twelve["user_cart_open"], twelve["user_wishlist_open"], twelve["user_cart_abandonment"]) == (2, 1, 0.5)
    assert twelve["user_sessions"] == 4
    assert (rows[3]["user_cart_open"], rows[3]["user_cart_abandonment"]) == (0, None)
    stranger = rows[6]
    assert stranger["user_engagement"] == 0
    assert stranger["user_session_minutes"] is None
    plain = pair_features(as_of(replace(WHOLE, sessions=None), SHOP, ITEMS, microseconds(CUT)), PAIRS)
    assert_frame_equal(pair_features(state, PAIRS).select(plain.columns), plain)


def test_own_events_are_enough_for_a_user() -> None:
    cut = microseconds(CUT)
    whole = as_of(WHOLE, SHOP, ITEMS, cut)
    own = users_as_of(WHOLE, whole.items, SHOP.filter(pl.col("user_id") == 1), cut)
    pairs = PAIRS.filter(pl.col("user_id") == 1)
    assert_frame_equal(pair_features(replace(whole, users=own), pairs), pair_features(whole, pairs))


ROW = st.tuples(
    st.integers(1, 3),
    st.integers(10, 13),
    st.integers(1, 12).map(lambda n: 17 * n) | st.integers(1, 6).map(lambda n: n * DAY),
    st.none() | st.sampled_from(["view", "cart", "wishlist", "purchase", "other"]),
    st.none() | st.integers(1, 3),
)
LATER = ROW.map(lambda row: (row[0], row[1], 17 - row[2], *row[3:]))


@given(past=st.lists(ROW, max_size=15), later=st.lists(LATER.filter(lambda r: r[2] <= 0), max_size=8), data=st.data())
@settings(max_examples=60)
def test_neither_the_future_nor_the_order_of_rows_matters(past, later, data) -> None:
    shuffled = data.draw(st.permutations(past + later))
    plan = replace(WHOLE, sessions=replace(PLAN, by_basket=data.draw(st.booleans())))
    alone, among = (pair_features(as_of(plan, log(rows), ITEMS, microseconds(CUT)), PAIRS) for rows in (past, shuffled))
    assert_frame_equal(alone, among, rel_tol=1e-5)
    assert not alone.select(pl.any_horizontal(pl.all().is_nan()).any()).item()


def slow(rows, user: int) -> dict[str, float | None] | None:
    """Count by hand what :class:`Visits` says of a user, sessions by gap."""
    own = sorted((row for row in rows if row[0] == user), key=lambda row: -row[2])
    if not own:
        return None
    sessions: list[list[tuple]] = []
    for row in own:
        if not sessions or sessions[-1][-1][2] - row[2] > 30:
            sessions.append([])
        sessions[-1].append(row)
    bought = defaultdict(list)
    for row in own:
        if row[3] == "purchase":
            bought[row[1]].append(row[2])
    carts = [row for row in own if row[3] == "cart"]
    in_time = [any(0 <= row[2] - m <= DAY for m in bought[row[1]]) for row in carts]
    known = [done for row, done in zip(carts, in_time, strict=True) if done or row[2] > DAY]
    open_carts = {row[1] for row in carts if not any(m <= row[2] for m in bought[row[1]])}
    n = len(sessions)
    return {
        "engagement": sum(PLAN.weights.get(row[3], 1.0) * 0.5 ** (row[2] / DAY / 2) for row in own),
        "sessions": n,
        "session_minutes": sum(s[0][2] - s[-1][2] for s in sessions) / n,
        "session_events": len(own) / n,
        "session_items": sum(len({row[1] for row in s}) for s in sessions) / n,
        "session_purchases": sum(row[3] == "purchase" for row in own) / n,
        "days_since_event": own[-1][2] / DAY,
        "cart_open": len(open_carts) or None,
        "cart_abandonment": 1 - sum(known) / len(known) if known else None,
    }


@given(rows=st.lists(ROW, max_size=20))
@settings(max_examples=80)
def test_users_are_what_counting_says(rows) -> None:
    found = users(log(rows))
    for user in (1, 2, 3):
        expected = slow(rows, user)
        assert (user in found) == (expected is not None)
        for name, value in (expected or {}).items():
            assert found[user][name] == (None if value is None else pytest.approx(value)), name


@pytest.mark.parametrize("n", [0, 1, 5])
def test_few_events_and_equal_times_have_answers(n) -> None:
    events = log([(1, 10, 3, None)] * n)
    plan = plan_sessions(SessionPlan(), events)
    found = visits(plan, events, microseconds(CUT))
    assert found.users.columns == ["user_id", *(name for name, _ in plan.user_rows)]
    assert len(found.users) == min(n, 1)
    assert len(visits(plan, events, 0).users) == 0
