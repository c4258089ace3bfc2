"""Runs of equal keys, against dictionaries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.segmented import extent, lengths, reduced, starts_of

ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(-9, 9)), max_size=30)


@given(rows=ROWS)
def test_runs_are_those_of_a_dictionary(rows):
    rows = sorted(rows)
    groups: dict[tuple[int, int], list[int]] = {}
    for first, second, value in rows:
        groups.setdefault((first, second), []).append(value)
    columns = np.array(rows, np.int64).reshape(-1, 3)
    starts = starts_of(columns[:, 0], columns[:, 1])
    assert columns[starts, :2].tolist() == [list(key) for key in groups]
    assert lengths(starts, len(rows)).tolist() == [len(values) for values in groups.values()]
    for what, by_hand in ((np.add, sum), (np.maximum, max), (np.minimum, min)):
        assert reduced(what, columns[:, 2], starts).tolist() == [by_hand(values) for values in groups.values()]


@given(rows=ROWS)
def test_the_extent_of_groups(rows):
    rows = sorted(rows)
    columns = np.array(rows, np.int64).reshape(-1, 3)
    most, least = extent(columns[:, 2].astype(np.float64), columns[:, 0], 6)
    for group in range(6):
        values = [value for owner, _, value in rows if owner == group] or [np.nan]
        assert (most[group], least[group]) == pytest.approx((max(values), min(values)), nan_ok=True)
