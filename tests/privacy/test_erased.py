import json

import polars as pl
import pytest

from recsys.errors import DataError
from recsys.privacy.erased import FILE, Erased, add_erased, load_erased


def test_the_list_knows_people_and_holds_no_ids(tmp_path) -> None:
    assert load_erased(tmp_path).digest == ""
    listed = add_erased(tmp_path, ["customer-17", "42"])
    assert load_erased(tmp_path) == listed
    assert listed.holds(pl.Series(["customer-17", None, "customer-1", "42"])).to_list() == [True, False, False, True]
    assert listed.holds(pl.Series([42, 17])).to_list() == [True, False]
    text = (tmp_path / FILE).read_text()
    assert "customer-17" not in text
    assert len(json.loads(text)["people"]) == 2


def test_adding_again_changes_nothing_and_more_change_the_digest(tmp_path) -> None:
    first = add_erased(tmp_path, ["a"])
    written = (tmp_path / FILE).stat().st_mtime_ns
    assert add_erased(tmp_path, ["a"]) == first
    assert (tmp_path / FILE).stat().st_mtime_ns == written
    second = add_erased(tmp_path, ["b"])
    assert second.salt == first.salt
    assert second.digest != first.digest
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


def test_two_lists_have_nothing_in_common(tmp_path) -> None:
    a, b = add_erased(tmp_path / "a", ["x"]), add_erased(tmp_path / "b", ["x"])
    assert not a.people & b.people


def test_a_spoilt_list_stops(tmp_path) -> None:
    (tmp_path / FILE).write_text('{"salt": "00"')
    with pytest.raises(DataError, match="would come back"):
        load_erased(tmp_path)


def test_nobody() -> None:
    assert Erased("salt").holds(pl.Series(["a", None])).to_list() == [False, False]
