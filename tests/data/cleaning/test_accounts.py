from datetime import timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.config.cleaning import AccountsConfig
from recsys.data.cleaning.accounts import events_of as events_of_accounts
from recsys.data.cleaning.accounts import lines_until, over_limits
from recsys.data.sources import COPIES, REPAIRED


def counted(events, copies=None, repaired=None):
    ones, zeros = [1] * len(events), [0] * len(events)
    return events.with_columns(
        pl.Series(COPIES, copies or ones, pl.Int64), pl.Series(REPAIRED, repaired or zeros, pl.Int64)
    )


def judged(events, limits, windows):
    return over_limits(events, limits, windows, lines_until(events, windows))


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"lines": 4}, [1]),
        ({"lines": 5}, []),
        ({"events_a_day": 3}, [1]),
        ({"items_a_day": 1}, [2]),
        ({"share": 0.6}, [1]),
        ({"share": 0.3}, [1, 2]),
        ({"lines": 4, "items_a_day": 1}, [1, 2]),
    ],
)
def test_each_limit(events_of, windows, limits, named):
    events = counted(events_of([(1, "a", h) for h in (0, 1, 2, 3, 4)] + [(2, i, 0) for i in "abc"]))
    windows = type(windows)(
        windows.train_start, *(t + timedelta(days=9) for t in (windows.val_start, windows.test_start, windows.end))
    )
    assert judged(events, AccountsConfig(**limits), windows)["user_id"].to_list() == named


def test_copies_count_and_what_was_put_back_is_told(events_of, windows):
    events = counted(events_of([(1, "a", 0), (1, "b", 1), (2, "a", 0)]), copies=[4, 2, 1], repaired=[3, 0, 0])
    (account,) = judged(events, AccountsConfig(lines=5), windows).to_dicts()
    assert account == {
        "user_id": 1, "since": 0, "events_a_day": 6, "items_a_day": 2, "lines": 6, "repaired": 3, "share": 6 / 7,
    }  # fmt: skip


def test_events_go_from_the_window_on_in_which_a_limit_is_broken(events_of, windows):
    events = counted(events_of([(1, "a", hour) for hour in (0, 9, 11, 12, 21)] + [(2, "a", 0)]))
    accounts = judged(events, AccountsConfig(lines=3), windows)
    assert accounts.select("user_id", "since", "lines", "share").rows() == [(1, 1, 5, pytest.approx(5 / 6))]
    assert events.filter(events_of_accounts(events, accounts, windows))["row_number"].to_list() == [3, 4, 5]


def test_the_share_is_of_all_windows_for_who_was_there_in_the_first_alone(events_of, windows):
    events = counted(events_of([(1, "a", 0), (1, "a", 1), (2, "a", 2), (2, "a", 25)]))
    assert judged(events, AccountsConfig(share=0.6), windows).select("user_id", "share").rows() == [(1, 0.5)]


ROWS = st.lists(st.tuples(st.integers(1, 3), st.sampled_from("abc"), st.integers(0, 29)), min_size=2, max_size=40)
LIMITS = st.sampled_from(
    [{"lines": 3}, {"lines": 8}, {"events_a_day": 3}, {"items_a_day": 1}, {"share": 0.4}, {"lines": 9, "share": 0.5}]
)


@given(ROWS, ROWS, LIMITS, st.sampled_from([10, 20]))
def test_what_comes_after_a_cut_drops_nothing_before_it(events_of, windows, rows, others, limits, cut):
    def early_and_kept(rows):
        events = counted(events_of(rows))
        gone = events_of_accounts(events, judged(events, AccountsConfig(**limits), windows), windows)
        kept = events.filter(~gone, pl.col("timestamp") < windows.train_start + timedelta(hours=cut))
        return kept.drop("row_number").rows()

    past = [row for row in rows if row[2] < cut]
    assert early_and_kept(rows) == early_and_kept(past + [row for row in others if row[2] >= cut])
