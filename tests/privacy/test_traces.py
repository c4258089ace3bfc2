"""The search finds people wherever they are named, and nobody where another name begins alike."""

import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.privacy import traces as module
from recsys.privacy.traces import Search, traces

LONG = "customer-17"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.log", b"who: customer-17.", True),
        ("a.log", b"who: customer-177 or xcustomer-17", False),
        ("a.bin", b"\x00\xffcustomer-17\x00", True),
        ("a.json", json.dumps({"x": "Zoë-0001"}).encode(), True),
        ("a.txt", "Zoë-0001".encode(), True),
        ("a.txt", b"Zo-0001", False),
        ("a.txt", b"42 and 43", False),  # too short to mean anything
        ("a.txt", b"42      | 43", False),  # nor do blanks around it
        ("a.json", b'{"rows": 400123, "loss": 0.400123, "offsets": [0, 400123]}', False),
        ("a.json", b'{"user_id": 400123}', True),
        ("a.json", b'{"users": ["400123"]}', True),
        ("a.yaml", b"user: 400123\nk: 20\n", True),
        ("a.txt", b"17\n400123\n", True),
        ("a.csv", b"user_id,rank\n400123,1\n", True),
        ("a.csv", b"trial,rows\n1,400123\n", False),
        ("sample.json", b'{"requests": [{"user_id": 42}]}', True),
        ("sample.json", b'{"requests": [{"user_id": 43}, {"user_id": null}]}', False),
    ],
)
def test_bytes(tmp_path, name, content, expected) -> None:
    (tmp_path / name).write_bytes(content)
    assert traces(tmp_path, {LONG, "Zoë-0001", "42", "42      ", "400123"}) == (
        [str(tmp_path / name)] if expected else []
    )


@pytest.mark.parametrize(
    ("name", "frame", "expected"),
    [
        ("x.parquet", {"user_id": [42]}, True),
        ("x.parquet", {"user_id": [43], "item_id": [42]}, False),
        ("x.parquet", {"user_id": ["42"]}, True),
        ("x.parquet", {"user_id": [42.0, None]}, True),
        ("x.parquet", {"user_id": ["42.0"]}, False),
        ("x.parquet", {"note": ["see customer-17!"]}, True),
        ("x.parquet", {"note": ["see customer-178", None]}, False),
        ("user_embeddings.parquet", {"id": [42]}, True),
        ("item_embeddings.parquet", {"id": [42]}, False),
        ("vocabularies/user_id.parquet", {"value": [42, None]}, True),
        ("vocabularies/item_id.parquet", {"value": [42]}, False),
    ],
)
def test_tables(tmp_path, name, frame, expected) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    pl.DataFrame(frame).write_parquet(path)
    assert traces(tmp_path, {LONG, "42"}) == ([str(path)] if expected else [])


@given(before=st.integers(0, 40), after=st.integers(0, 40))
def test_a_name_across_two_pieces_of_a_file_is_found(tmp_path_factory, before, after) -> None:
    path = tmp_path_factory.mktemp("pieces") / "file"
    path.write_bytes(b"-" * before + LONG.encode() + b"-" * after)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", 16)
        assert Search([LONG]).finds(path)


def test_nothing_there(tmp_path) -> None:
    assert traces(tmp_path / "nowhere", {LONG}) == []
    assert traces(tmp_path, set()) == []
