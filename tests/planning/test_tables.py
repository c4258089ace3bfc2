"""A glimpse of a table: rows from several places, and a count, without reading the rest."""

from pathlib import Path

import polars as pl
import pytest

from recsys.config.data import DataConfig
from recsys.data.sources import resolve
from recsys.planning import tables
from recsys.planning.tables import SMALL_BYTES, Glimpse, glimpse, header

ROWS = 200_000


def look(path: Path, most: int = 2000) -> Glimpse:
    return glimpse(header("events", str(path), resolve(DataConfig(name="shop", events=str(path)))), most)


@pytest.fixture(scope="module")
def events() -> pl.DataFrame:
    """Sorted by time, one column that no configuration asks for."""
    numbers = range(ROWS)
    return pl.DataFrame(
        {
            "user_id": [i % 97 for i in numbers],
            "item_id": [i % 1013 for i in numbers],
            "timestamp": [1_700_000_000 + i for i in numbers],
        }
    )


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_rows_come_from_both_ends_and_between(ending: str, events: pl.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / f"events.{ending}"
    (events.write_parquet if ending == "parquet" else events.write_ipc)(path)
    seen = look(path)
    times = seen.sample["timestamp"]
    assert (seen.rows, seen.is_counted, len(times), seen.is_whole) == (ROWS, True, 2000, False)
    assert (times.min(), times.max()) == (events["timestamp"].min(), events["timestamp"].max())
    assert times.is_between(1_700_080_000, 1_700_120_000).any()
    assert seen.share == pytest.approx(0.01)


def test_csv_is_counted_by_the_length_of_its_lines(events: pl.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    events.write_csv(path)
    content = bytearray(path.read_bytes())
    assert len(content) > SMALL_BYTES
    third = len(content) // 3 + 3 * 2**16  # between two of the places
    content[third : third + 1000] = b"\xff" * 1000
    path.write_bytes(bytes(content))
    with pytest.raises(pl.exceptions.PolarsError):
        pl.read_csv(path)
    seen = look(path)
    assert seen.rows == pytest.approx(ROWS, rel=0.02)
    assert not seen.is_counted
    times = seen.sample["timestamp"].cast(pl.Int64)
    assert times.n_unique() == len(times) == pytest.approx(2000, abs=200)
    assert times.min() == 1_700_000_000
    assert times.max() == 1_700_000_000 + ROWS - 1


def test_lines_of_a_csv_with_quotes_are_taken_from_its_beginning(events: pl.DataFrame, tmp_path: Path) -> None:
    """A line break inside quotes begins no row."""
    path = tmp_path / "events.csv"
    events.with_columns(note=pl.lit("two\nlines, quoted")).write_csv(path)
    seen = look(path)
    assert seen.sample["timestamp"].cast(pl.Int64).to_list() == list(range(1_700_000_000, 1_700_002_000))
    assert not seen.is_spread


def test_pieces_of_a_csv_with_long_lines_do_not_overlap(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    pl.DataFrame({"item_id": range(6000), "text": ["x" * 380] * 6000}).write_csv(path)
    assert SMALL_BYTES < path.stat().st_size < tables.PIECES * tables.PIECE_BYTES
    found = [*tables._pieces([str(path)], path.stat().st_size, 2000)]
    ids = [line.split(b",")[0] for _, body in found for line in body.splitlines()]
    assert len(set(ids)) == len(ids)
    assert ids[0] == b"0"
    assert ids[-1] == b"5999"
    assert len(found) == tables.PIECES


def test_a_small_table_is_its_own_sample(events: pl.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    events.head(50).write_csv(path)
    seen = look(path)
    assert (seen.rows, seen.is_whole, seen.share) == (50, True, 1.0)


def test_unused_columns_are_named(events: pl.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    events.head(50).with_columns(week=1).write_parquet(path)
    cfg = DataConfig(name="shop", events=str(path), item_attributes=[])
    assert header("events", str(path), cfg).unused == ("week",)
