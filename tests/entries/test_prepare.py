"""``recsys prepare`` in steps, as the jobs of a cluster run them."""

from pathlib import Path

import pytest

from recsys.cli import main


def test_one_command_for_each_partition_and_one_to_merge(
    shop_tables: Path, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = [f"data.{key}={shop_tables}/{key}.parquet" for key in ("events", "items", "users")]
    asked = ["prepare", "data=tables", *tables, "data.partitions=2"]
    for step in ("split", "0", "1"):
        assert main([*asked, f"partition={step}"]) == 0
        assert capsys.readouterr().out == ""
    assert main([*asked, "partition=merge"]) == 0
    shown = capsys.readouterr().out
    assert "1,500 of 1,500 rows kept" in shown
    (folder,) = (outside / "prepared").glob("tables-*")
    assert [path.name for path in sorted((folder / "events").iterdir())] == ["part-0000.parquet", "part-0001.parquet"]
    assert main([*asked, "partition=2"]) == 2
    assert "legal: split, merge and 0 to 1" in capsys.readouterr().err
