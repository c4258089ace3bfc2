import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.cleaning.text import plain_text, same_writing
from recsys.errors import DataError


def plain(*texts):
    return pl.DataFrame({"t": pl.Series(texts, dtype=pl.String)}).select(plain_text(pl.col("t"))).to_series().to_list()


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("  FRZN   Ice ", "frzn ice"),
        ("\uff26\uff55\uff4c\uff4c\u00a0Width", "full width"),
        ("caf\u0065\u0301", "café"),
        ("Rock \u2013 Pop", "rock - pop"),
        ("BREAD: ITALIAN / FRENCH", "bread:italian/french"),
        ("Men\u2019s", "men's"),
        ("Fruit, Veg.", "fruit,veg"),
        ("A & B", "a&b"),
        ("--", None),
        ("", None),
        (None, None),
    ],
)
def test_by_hand(text, written):
    assert plain(text) == [written]


@given(st.text(max_size=15))
def test_written_once_is_written(text):
    once = plain(text)
    assert plain(*once) == once


def test_counts():
    frame = pl.DataFrame({"kind": ["Tea", "tea ", "tea", None, "?", "."], "n": [1, 2, 3, 4, 5, 6]})
    written, (finding,) = same_writing(frame, ["kind"])
    assert written["kind"].to_list() == ["tea", "tea", "tea", None, "?", None]
    assert (finding.found, finding.done) == (3, "5 different values of kind are 2")
    with pytest.raises(DataError, match="'n' holds Int64, not text"):
        same_writing(frame, ["n"])


@pytest.mark.parametrize("name", ["item_id", "timestamp"])
def test_what_every_line_has_is_no_attribute(name):
    with pytest.raises(DataError, match=f"no item attribute '{name}'; there are: kind"):
        same_writing(pl.DataFrame({"item_id": ["A"], "timestamp": ["2024"], "kind": ["Tea"]}), [name])
