import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from recsys.config.cleaning import ShiftedConfig
from recsys.data.cleaning.shifted import straighten
from recsys.errors import ConfigError, DataError

SCHEMA = {"user_id": pl.Int64, "item_id": pl.String, "code": pl.String, "brand": pl.Int64, "price": pl.Float64}
LEFT = ShiftedConfig(when={"user_id": None, "code": r"^\d+(\.\d+)?$"}, move={"price": "code", "user_id": "brand"})


def source(*rows):
    return pl.DataFrame(rows, schema=SCHEMA, orient="row").with_row_index("row_number", offset=1)


def test_values_are_put_back_and_leave_nothing_behind():
    table = source((1, "a", "ring", 3, 9.5), (None, "b", "230.12", 77, None), (None, "c", "ring", 4, 1.0))
    done = straighten(table, [LEFT])
    assert done.events.drop("row_number").rows() == [
        (1, "a", "ring", 3, 9.5),
        (77, "b", None, None, 230.12),
        (None, "c", "ring", 4, 1.0),
    ]
    assert done.events.schema == table.schema
    assert done.repaired.to_list() == [2]
    assert done.rejected.is_empty()
    (finding,) = done.findings
    assert (finding.found, finding.details) == (
        1,
        ("put back (price from code, user_id from brand): 1", "set aside: 0"),
    )


def test_values_that_do_not_fit_set_the_row_aside():
    table = source((None, "a", "12", None, None), (None, "b", "12", 5, None))
    done = straighten(table, [LEFT])
    assert done.rejected.rows() == [(1, "shifted")]
    assert done.events["user_id"].to_list() == [5]


def test_two_columns_may_change_places():
    done = straighten(
        source((5, "a", "x", 7, 1.0)), [ShiftedConfig({"code": "x"}, {"brand": "user_id", "user_id": "brand"})]
    )
    assert done.events.select("user_id", "brand").rows() == [(7, 5)]


def test_a_fraction_is_no_integer():
    done = straighten(source((None, "a", "1.5", 7, None)), [ShiftedConfig({"user_id": None}, {"user_id": "code"})])
    assert done.rejected["row_number"].to_list() == [1]


def test_the_first_rule_that_names_a_row_has_it():
    rules = [ShiftedConfig({"code": "x"}), ShiftedConfig({"user_id": None})]
    done = straighten(source((None, "a", "x", 1, 1.0), (None, "b", "y", 1, 1.0), (1, "c", "y", 1, 1.0)), rules)
    assert [finding.found for finding in done.findings] == [1, 1]
    assert done.events["item_id"].to_list() == ["c"]


def test_mistakes_of_the_rule_are_named():
    with pytest.raises(DataError, match=r"shifted\[0\]: no column 'cod'.*Did you mean 'code'"):
        straighten(source((1, "a", "x", 1, 1.0)), [ShiftedConfig({"cod": "x"})])
    with pytest.raises(ConfigError, match="cannot be read"):
        straighten(source((1, "a", "x", 1, 1.0)), [ShiftedConfig({"code": "(?=x)"})])


ROWS = st.lists(
    st.tuples(
        st.sampled_from([None, 1, 2]),
        st.sampled_from(["a", "b"]),
        st.sampled_from([None, "", "ring", "12", "7.5"]),
        st.sampled_from([None, 3, 88]),
        st.sampled_from([None, 2.5]),
    ),
    min_size=1,
    max_size=12,
)


@given(ROWS)
def test_only_what_the_rule_names_is_touched(rows):
    table = source(*rows)
    done = straighten(table, [LEFT])
    named = [n for n, (user, _, code, _, _) in enumerate(rows, 1) if user is None and code in ("12", "7.5")]
    fit = [n for n in named if rows[n - 1][3] is not None]
    assert done.repaired.to_list() == fit
    assert done.rejected["row_number"].to_list() == [n for n in named if n not in fit]
    others = pl.col("row_number").is_in(named).not_()
    assert_frame_equal(done.events.filter(others), table.filter(others))
    assert len(done.events) + len(done.rejected) == len(table)
