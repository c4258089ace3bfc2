"""An event is kept iff its user's last word before it was yes: against a brute-force oracle in plain Python."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.privacy.consent import Consent

SCHEMA = {
    "user_id": pl.String,
    "purpose": pl.String,
    "granted": pl.Datetime("us", "UTC"),
    "withdrawn": pl.Datetime("us", "UTC"),
}


def at(hour: int | None) -> datetime | None:
    return None if hour is None else datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=hour)


def table_of(rows: list[tuple[str, str, int | None, int | None]]) -> pl.DataFrame:
    return pl.DataFrame([(u, p, at(g), at(w)) for u, p, g, w in rows], schema=SCHEMA, orient="row")


def events_of(rows: list[tuple[str, int]]) -> pl.DataFrame:
    times = [at(hour) for _, hour in rows]
    return pl.DataFrame(
        {
            "user_id": pl.Series([u for u, _ in rows], dtype=pl.String),
            "timestamp": pl.Series(times, dtype=SCHEMA["granted"]),
        }
    )


def oracle(rows, user, hour, purpose, *, allow, drop_all):
    """Whether consent held, by walking through everything the user ever said."""
    own = [(g, w) for u, p, g, w in rows if u == user and p == purpose]
    if not own:
        return allow
    held = False
    for moment in range(hour + 1):
        if any(g == moment for g, _ in own):
            held = True
        if any(w == moment for _, w in own):
            held = False
    if drop_all and any(w is not None and w > hour for _, w in own):
        return False
    return held


HOURS = st.integers(0, 8)
ROWS = st.lists(
    st.tuples(
        st.sampled_from("abc"), st.sampled_from(["personalization", "analytics"]), st.none() | HOURS, st.none() | HOURS
    ),
    max_size=12,
)


@given(
    rows=ROWS,
    events=st.lists(st.tuples(st.sampled_from("abcd"), HOURS), max_size=20),
    purpose=st.sampled_from(["personalization", "analytics"]),
    allow=st.booleans(),
    drop_all=st.booleans(),
)
def test_kept_iff_the_oracle_says_that_consent_held(rows, events, purpose, allow, drop_all) -> None:
    consent = Consent.of(table_of(rows), purpose, allow=allow, drop_all=drop_all)
    kept = consent.reasons(events_of(events)).is_null().to_list()
    assert kept == [oracle(rows, u, h, purpose, allow=allow, drop_all=drop_all) for u, h in events]


@given(rows=ROWS, events=st.lists(st.tuples(st.sampled_from("abc"), HOURS), min_size=1, max_size=20), cut=HOURS)
def test_words_after_an_event_do_not_matter_while_earlier_events_are_kept(rows, events, cut) -> None:
    """What is said at or after the cut leaves the events before it as they were, for users who had spoken by then."""
    early = [
        (u, p, g if g is not None and g < cut else None, w if w is not None and w < cut else None)
        for u, p, g, w in rows
    ]
    past = events_of([(u, h) for u, h in events if h < cut])
    whole, then = (Consent.of(table_of(r), "analytics", allow=False, drop_all=False) for r in (rows, early))
    assert whole.reasons(past).to_list() == then.reasons(past).to_list()


@pytest.mark.parametrize(
    ("hour", "drop_all", "expected"),
    [
        (0, False, "no_consent"),
        (2, False, None),  # the grant holds from its own moment
        (4, False, None),
        (5, False, "consent_withdrawn"),  # and the withdrawal from its own
        (6, False, "consent_withdrawn"),
        (7, False, None),  # granted again
        (2, True, "consent_withdrawn"),
        (7, True, None),
    ],
)
def test_by_hand(hour: int, drop_all: bool, expected: str | None) -> None:
    rows = [("a", "analytics", 2, 5), ("a", "analytics", 7, None), ("a", "personalization", 0, 1)]
    consent = Consent.of(table_of(rows), "analytics", allow=True, drop_all=drop_all)
    assert consent.reasons(events_of([("a", hour)])).to_list() == [expected]


def test_order_and_other_users_play_no_part() -> None:
    rows = [("a", "x", 1, 3), ("b", "x", None, None), ("c", "x", 2, None)]
    events = [("c", 4), ("b", 1), ("a", 1), ("d", 0), ("a", 3)]
    consent = Consent.of(table_of(rows[::-1]), "x", allow=True, drop_all=False)
    assert consent.reasons(events_of(events)).to_list() == [None, "no_consent", None, None, "consent_withdrawn"]
    for event in events:
        alone = consent.reasons(events_of([event])).to_list()
        assert alone == [consent.reasons(events_of(events)).to_list()[events.index(event)]]
