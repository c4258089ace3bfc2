"""No fold learns from what it is asked about, or from anything later; the test window is in none of them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.columns import ITEM_ID, TIMESTAMP, USER_ID
from recsys.data.folds import Fold, fold_windows, folds
from recsys.data.prepared import Prepared
from recsys.data.split import Windows
from recsys.errors import ConfigError, DataError
from recsys.features import FeatureSpec

START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS, VAL, TEST, USERS = 40, 28, 34, 6  # windows of 28, 6 and 6 days
KINDS = ("expanding", "rolling", "kfold")
ROWS = st.lists(st.tuples(st.integers(0, USERS - 1), st.integers(0, 24 * DAYS - 1)), max_size=60)
EVERYWHERE = [(u, 24 * d + u) for u in range(USERS) for d in range(DAYS)]
"""An event of each user each day, so that no fold is empty."""


def day(number: int) -> datetime:
    return START + timedelta(days=number)


def data_set(rows: list[tuple[int, int]]) -> Prepared:
    """A prepared data set of (user, hour); the item is the hour, so that each event can be told."""
    rows = sorted(rows)
    events = pl.DataFrame(
        {
            USER_ID: [f"u{user}" for user, _ in rows],
            ITEM_ID: [hour for _, hour in rows],
            TIMESTAMP: pl.Series([START + timedelta(hours=h) for _, h in rows], dtype=pl.Datetime("us", "UTC")),
        }
    )
    return Prepared(
        path=Path("nowhere"),
        fingerprint="",
        event_parts=(events.lazy(),),
        items=pl.DataFrame({ITEM_ID: range(24 * DAYS)}),
        users=pl.DataFrame({USER_ID: [f"u{user}" for user in range(USERS)]}),
        impression_parts=(events.clear().lazy(),),
        windows=Windows(START, day(VAL), day(TEST), day(DAYS)),
        spec=FeatureSpec(()),
        has_item_table=True,
        relevant=(),
        report={},
    )


def learned(fold: Fold) -> pl.DataFrame:
    return fold.learned.events.filter(pl.col(TIMESTAMP) < fold.learned.windows.val_start)


def asked(fold: Fold) -> pl.DataFrame:
    return fold.asked.events.filter(pl.col(TIMESTAMP) >= fold.asked.windows.val_start)


@given(rows=ROWS, kind=st.sampled_from(KINDS), count=st.integers(2, 4), seed=st.integers(0, 9))
def test_no_fold_learns_from_what_it_is_asked_or_from_later(rows, kind, count, seed) -> None:
    for fold in folds(data_set(EVERYWHERE + rows), kind, count, seed):
        windows = fold.learned.windows
        assert windows == fold.asked.windows
        assert windows.train_start < windows.val_start < windows.test_start <= day(TEST)
        assert learned(fold)[TIMESTAMP].max() < asked(fold)[TIMESTAMP].min()
        for part in (fold.learned, fold.asked):
            assert part.events[TIMESTAMP].min() >= windows.train_start
            assert part.events[TIMESTAMP].max() < windows.test_start
        # Those who are asked about have a past here, whether or not it is learned from.
        assert set(asked(fold)[USER_ID]) <= set(fold.asked.events[USER_ID])


@given(past=ROWS, late=ROWS, other=ROWS, kind=st.sampled_from(KINDS), count=st.integers(2, 4), later=st.booleans())
def test_what_happens_from_a_cut_on_changes_nothing_before_it(past, late, other, kind, count, later) -> None:
    """From the cut of each fold on for what it learns; from the test window on for all that there is of a fold."""
    base = EVERYWHERE + past
    plain = list(folds(data_set(base), kind, count, 0))
    for number, fold in enumerate(plain):
        cut = day(TEST) if later else fold.learned.windows.val_start
        begin = int((cut - START) / timedelta(hours=1))
        for rows in (late, other):
            moved = [(user, begin + hour % (24 * DAYS - begin)) for user, hour in rows]
            changed = list(folds(data_set(base + moved), kind, count, 0))[number]
            assert learned(changed).equals(learned(fold))
            if later:
                assert changed.learned.events.equals(fold.learned.events)
                assert changed.asked.events.equals(fold.asked.events)


@given(rows=ROWS, count=st.integers(2, USERS), seed=st.integers(0, 9))
def test_every_user_is_asked_once_by_a_fit_that_has_not_met_them(rows, count, seed) -> None:
    data = data_set(EVERYWHERE + rows)
    everybody = []
    for fold in folds(data, "kfold", count, seed):
        held = set(asked(fold)[USER_ID])
        assert not held & set(fold.learned.events[USER_ID])
        everybody += held
        past = data.events.filter(pl.col(TIMESTAMP) < day(VAL))
        assert fold.asked.events.filter(pl.col(TIMESTAMP) < day(VAL)).equals(past)
    assert sorted(everybody) == data.users[USER_ID].to_list()


def test_windows_by_hand() -> None:
    """Of 6 days each, the last one the validation window; rolling folds learn from as many days as the first."""
    windows = data_set([]).windows
    expanding, rolling = (fold_windows(windows, kind, 3) for kind in ("expanding", "rolling"))
    assert expanding == [Windows(START, day(c), day(c + 6), day(c + 6)) for c in (16, 22, 28)]
    assert rolling == [Windows(day(c - 16), day(c), day(c + 6), day(c + 6)) for c in (16, 22, 28)]


@given(st.integers(1, 400), st.integers(1, 100), st.integers(2, 9), st.sampled_from(("expanding", "rolling")))
def test_windows_follow_one_another_and_end_where_the_test_begins(train, val, count, kind) -> None:
    windows = Windows(START, day(train), day(train + val), day(train + val + 1))
    if train < count * val:
        with pytest.raises(ConfigError, match=rf"folds={count}: .* holds {train // val} time"):
            fold_windows(windows, kind, count)
        return
    found = fold_windows(windows, kind, count)
    assert [w.test_start for w in found[:-1]] == [w.val_start for w in found[1:]]
    assert found[-1].test_start == windows.test_start
    assert {w.test_start - w.val_start for w in found} == {timedelta(days=val)}
    assert min(w.train_start for w in found) == START
    lengths = {w.val_start - w.train_start for w in found}
    assert len(lengths) == (1 if kind == "rolling" else count)


def test_seeds_part_the_users_differently() -> None:
    def parted(seed: int) -> list[set[str]]:
        return [set(asked(fold)[USER_ID]) for fold in folds(data_set(EVERYWHERE), "kfold", 3, seed)]

    assert parted(1) == parted(1)
    assert any(parted(1) != parted(seed) for seed in (2, 3, 4))


def test_what_was_shown_is_parted_as_the_events_are() -> None:
    data = data_set(EVERYWHERE)
    data = replace(data, impression_parts=(data.events.lazy(),))
    for kind in KINDS:
        for fold in folds(data, kind, 3, 0):
            assert fold.learned.impressions.equals(fold.learned.events)


def test_a_fold_without_events_says_which() -> None:
    holes = [(u, h) for u, h in EVERYWHERE if not 22 <= h // 24 < 28]
    with pytest.raises(DataError, match=r"validation=rolling, fold 1: .* 0 to be asked about until 2024-01-29"):
        list(folds(data_set(holes), "rolling", 3, 0))
    with pytest.raises(ConfigError, match=r"folds=7: there are 6 users; legal with validation=kfold: 2 to"):
        list(folds(data_set(EVERYWHERE), "kfold", USERS + 1, 0))
