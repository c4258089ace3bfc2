"""How tables are found and opened; tests/data/test_sources.py reads them."""

import gzip

import polars as pl
import pytest

from recsys.data.files import read_file, scan, separator_of
from recsys.errors import DataError


@pytest.mark.parametrize(
    ("name", "header", "separator"),
    [
        ("e.csv", "user_id,item_id", ","),
        ("e.csv", "user_id;item_id;price", ";"),
        ("e.csv", "user_id\titem_id", "\t"),
        ("e.csv", "user_id|a;b|c", "|"),
        ("e.csv", "user_id,a;b;c;d", ","),  # what has a comma is separated by it
        ("e.csv", "user_id", ","),
        ("e.tsv", "user_id,note\titem_id", "\t"),
        ("e.csv.gz", "user_id;item_id", ";"),
        ("e.tsv.gz", "user_id\titem_id", "\t"),
    ],
)
def test_the_header_says_what_separates(tmp_path, name, header, separator):
    path = tmp_path / name
    content = f"{header}\n1{separator}2\n".encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert separator_of(str(path)) == separator
    assert scan("events", str(path)).collect_schema().names() == header.split(separator)


def test_a_table_of_a_spreadsheet_is_read(tmp_path):
    (tmp_path / "e.csv").write_text('user_id;price\nu1;"3,50"\nu2;4\n')
    table = scan("events", str(tmp_path / "e.csv")).collect()
    assert table.to_dict(as_series=False) == {"user_id": ["u1", "u2"], "price": ["3,50", "4"]}
    assert read_file("users", str(tmp_path / "e.csv"), ["user_id"])["user_id"].to_list() == ["u1", "u2"]


def test_what_is_wrong_with_a_file_comes_with_a_remedy(tmp_path):
    (tmp_path / "e.csv").write_bytes("user_id,town\nu1,Zürich\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"data\.events=.*invalid utf-8.*iconv -f LATIN1"):
        with_reading(tmp_path / "e.csv")
    (tmp_path / "e.csv").write_text("user_id,town\nu1,a,b\n")
    with pytest.raises(DataError, match=r"found more fields.*quote values that hold the separator"):
        with_reading(tmp_path / "e.csv")


def with_reading(path) -> pl.DataFrame:
    from recsys.data.files import reading

    with reading("events", str(path)):
        return scan("events", str(path)).collect()


def test_a_name_that_stands_twice_in_the_header_is_refused(tmp_path):
    (tmp_path / "e.csv").write_text("user_id,item_id,item_id\n1,2,3\n")
    with pytest.raises(DataError, match=r"data\.events=.*the header names 'item_id' twice"):
        scan("events", str(tmp_path / "e.csv"))
    (tmp_path / "e.csv").write_text("user_id,was_duplicated_0\n1,2\n")  # a name of the user's own
    assert scan("events", str(tmp_path / "e.csv")).collect_schema().names() == ["user_id", "was_duplicated_0"]


def test_files_of_the_command_line(tmp_path):
    with pytest.raises(DataError, match=r"users=.*cannot be read as csv \(no such file\)"):
        read_file("users", str(tmp_path / "none.csv"))
    (tmp_path / "u.csv").write_text("userid\n1\n")
    with pytest.raises(DataError, match=r"no column 'user_id'; columns: userid\. Did you mean 'userid'"):
        read_file("users", str(tmp_path / "u.csv"), ["user_id"])
