"""Names and values that every store takes; names that differ stay different."""

import math

import pytest
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import _validate_param_name

from recsys.tracking.names import MAX_BYTES, MAX_ROWS, Names, flatten, in_batches, legal_name, legal_value

ILLEGAL = (
    *("test/new/ndcg@20 (all)", "a//b", "/a", "a/", "../a", "..a", "a/../b", "./a", ".", "", "a\tb", "a\nb", "a\0b"),
    *("日本/@", "\ud800", "%", "a=b", "[0]"),
)
LONG = ("x" * 300, "x" * 249 + "/y")


def test_nesting() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": [1]}, "e": {}}) == {"a.b.c": 1, "a.d": [1], "e": {}}


@pytest.mark.parametrize("name", ILLEGAL)
def test_these_are_not_legal(name: str) -> None:
    with pytest.raises(MlflowException, match="Invalid value"):
        _validate_param_name(name)


@pytest.mark.parametrize("name", [*ILLEGAL, *LONG])
def test_a_name_becomes_legal_and_stays_so(name: str) -> None:
    legal = legal_name(name)
    _validate_param_name(legal)
    assert 1 <= len(legal) <= 250
    assert legal_name(legal) == legal


def test_a_legal_name_is_left_as_it_is() -> None:
    for name in ("test/new/ndcg_at_20", "git.commit", "a b", "a:b", "größe", "-"):
        assert legal_name(name) == name
    assert legal_name("test/new/ndcg@20 (all)") == "test/new/ndcg_20 _all_"


def test_names_that_differ_stay_different() -> None:
    names = Names()
    given = ["recall@20", "recall_20", "recall#20", "x" * 300, "x" * 299 + "y"]
    legal = [names(name) for name in given]
    assert legal[0] == "recall_20"
    assert len(set(legal)) == len(given)
    assert all(len(name) <= 250 for name in legal)
    assert [names(name) for name in reversed(given)] == legal[::-1]


def test_values() -> None:
    assert legal_value("x" * 10_000) == "x" * 6000
    assert legal_value("a\0b\ud800c") == "a\ufffdb?c"
    assert legal_value(["ü", None]) == "['ü', None]"


def test_batches_are_bounded_by_number_and_by_size() -> None:
    many = {f"k{i}": i for i in range(250)}
    assert [len(batch) for batch in in_batches(many)] == [MAX_ROWS, MAX_ROWS, 50]
    wide = {f"k{i}": "ü" * 6000 for i in range(100)}  # 36,000 bytes each on their way
    batches = list(in_batches(wide))
    assert {key: value for batch in batches for key, value in batch.items()} == wide
    assert max(len(batch) for batch in batches) * 36_000 <= MAX_BYTES
    assert list(in_batches({})) == []
    (one,) = in_batches({"a": math.nan})
    assert math.isnan(one["a"])
