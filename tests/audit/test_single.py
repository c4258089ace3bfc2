"""AUC of single columns, checked by hand and against scikit-learn."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from recsys.audit.single import OWN, audit_single, single_auc

LABEL = pl.Series([False, False, True, True])


@pytest.mark.parametrize(
    ("values", "auc"),
    [
        (pl.Series([1.0, 2.0, 3.0, 4.0]), 1.0),
        (pl.Series([4.0, 3.0, 2.0, 1.0]), 1.0),  # in either direction
        (pl.Series([1.0, 3.0, 2.0, 4.0]), 0.75),
        (pl.Series([1.0, 1.0, 1.0, 1.0]), 0.5),
        (pl.Series([1.0, 2.0, None, None]), 1.0),  # missing only where it happened
        (pl.Series([None, None, 1.0, 2.0]), 1.0),
        (pl.Series([1.0, float("nan"), 2.0, float("nan")]), 0.625),
        (pl.Series([None] * 4, dtype=pl.Float64), 0.5),
    ],
)
def test_numbers_by_hand(values: pl.Series, auc: float) -> None:
    assert single_auc(values, LABEL) == pytest.approx(auc)


def test_text_that_tells_and_text_that_is_different_in_every_row() -> None:
    label = pl.Series([n % 3 == 0 for n in range(300)])
    told = pl.Series(["yes" if n % 3 == 0 else "no" for n in range(300)])
    gaps = pl.Series([None if n % 3 == 0 else "here" for n in range(300)])
    ids = pl.Series([f"row {n}" for n in range(300)])
    codes = pl.Series([7 if n % 3 == 0 else (3, 9)[n % 2] for n in range(300)])  # between two others: no order tells
    assert [single_auc(column, label) for column in (told, gaps, codes)] == [1.0, 1.0, 1.0]
    assert single_auc(ids, label) == 0.5


def test_times_and_truth_values() -> None:
    days = pl.Series([1, 2, 3, 4]).cast(pl.Date)
    assert single_auc(days, LABEL) == 1.0
    assert single_auc(days.cast(pl.Datetime("us", "UTC")), LABEL) == 1.0
    label = pl.Series([n % 2 == 0 for n in range(100)])
    assert single_auc(label.clone(), label) == 1.0


@given(st.lists(st.tuples(st.floats(-5, 5), st.booleans()), min_size=4, max_size=60))
def test_numbers_as_scikit_learn(rows) -> None:
    values, label = (pl.Series(column) for column in zip(*rows, strict=True))
    if label.n_unique() == 2:
        auc = roc_auc_score(label.to_list(), values.to_list())
        assert single_auc(values, label) == pytest.approx(max(auc, 1 - auc))


def test_too_few_of_a_label_say_nothing() -> None:
    label = pl.Series([n < 29 for n in range(100)])
    leak = label.cast(pl.Float64).alias("leak").to_frame()
    assert audit_single(leak, label, "items", "whether it sells") == []
    more = pl.Series([n < 30 for n in range(100)])
    (found,) = audit_single(more.cast(pl.Float64).alias("leak").to_frame(), more, "items", "whether it sells")
    assert (found.severity, found.place, found.rows) == ("error", "items, column 'leak'", 100)
    (habit,) = audit_single(more.cast(pl.Float64).alias("pair_count").to_frame(), more, OWN, "what is taken")
    assert (habit.severity, habit.place) == ("warning", "pairs, column 'pair_count'")
    assert "AUC of 1.0000 (limit 0.99), over 30 of 100 rows" in found.evidence
    assert audit_single(more.cast(pl.Float64).alias("leak").to_frame(), more, "items", "it", max_auc=1.0) == []
