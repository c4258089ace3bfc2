"""The log in files is the log in memory."""

from dataclasses import fields, replace
from pathlib import Path

import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.data.asof import ItemClock
from recsys.data.dataset import data_before, fit_data, interaction_log, microseconds
from recsys.data.log import InteractionLog
from recsys.data.log_rows import log_of_rows
from recsys.data.mapped_log import mapped_log
from recsys.data.moments import moments_of
from recsys.data.prepare import prepare
from recsys.data.prepared import Prepared
from recsys.data.spill import Spill

USERS, ITEMS = 5, 6
ROW = st.tuples(
    st.integers(0, USERS - 1),
    st.integers(0, ITEMS - 1),
    st.integers(0, 9),
    st.none() | st.integers(0, 2),
    st.sampled_from(["buy", "view"]),
    st.floats(0.5, 2.0, width=32),
)


def same(one: object, other: object) -> None:
    for field in fields(one):  # type: ignore[arg-type]
        first, second = getattr(one, field.name), getattr(other, field.name)
        if isinstance(first, torch.Tensor):
            assert torch.equal(first, second), field.name
            assert first.dtype == second.dtype, field.name
        elif field.name != "keep":
            assert first == second, field.name


def log_from(rows, weighted: bool) -> InteractionLog:
    schema = {"user": pl.Int64, "item": pl.Int64, "time": pl.Int64, "basket_id": pl.Int64, "event_type": pl.String}
    frame = pl.DataFrame(rows, schema | {"event_weight": pl.Float32}, orient="row")
    frame = frame.sort("user", "time", "item", maintain_order=True)  # as prepared events: equal ones stay as they came
    return log_of_rows(frame if weighted else frame.drop("event_weight"), USERS, ITEMS, ("buy",))


@given(
    rows=st.lists(ROW, max_size=40),
    part_of=st.lists(st.integers(0, 2), min_size=USERS, max_size=USERS),
    weighted=st.booleans(),
    cut=st.integers(0, 10),
    piece=st.integers(1, 20),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parts_make_the_whole_and_all_that_follows(rows, part_of, weighted, cut, piece, tmp_path, monkeypatch):
    whole = log_from(rows, weighted)
    parts = [[row for row in rows if part_of[row[0]] == number] for number in range(3)]
    mapped = mapped_log([lambda part=part: log_from(part, weighted) for part in parts], Spill(tmp_path))
    same(mapped, whole)
    monkeypatch.setattr("recsys.data.log.PIECE", piece)
    for one, other in ((mapped, whole), (mapped.between(None, cut), whole.between(None, cut))):
        same(one, other)
        assert one.keep is not None
        for name in ("offsets", "repeats", "sorted_times", "clock_keys"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        monkeypatch.setattr("recsys.data.log.PIECE", 2**23)
        expected = moments_of(other)
        monkeypatch.setattr("recsys.data.log.PIECE", piece)
        same(moments_of(one), expected)
        same(moments_of(other), expected)
        everything = torch.arange(ITEMS)
        states = [ItemClock(log).state(everything, cut) for log in (one, other)]
        for name, values in states[0].items():
            torch.testing.assert_close(values, states[1][name], equal_nan=True, rtol=0, atol=0)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def both(shop, tmp_path: Path) -> tuple[Prepared, Prepared]:
    """A shop in memory and, in three parts, in files."""
    known = prepare(shop)
    folder = tmp_path / "parts"
    folder.mkdir()
    parts = []
    for number in range(3):
        known.events.filter(pl.col("user_id") % 3 == number).write_parquet(folder / f"{number}.parquet")
        parts.append(pl.scan_parquet(folder / f"{number}.parquet"))
    return known, replace(known, event_parts=tuple(parts), spill=Spill(tmp_path / "spill"))


def test_what_is_fitted_is_the_same(both: tuple[Prepared, Prepared]) -> None:
    known, mapped = both
    logs = [interaction_log(prepared) for prepared in both]
    same(logs[1], logs[0])
    until = known.windows.val_start
    first, second = (fit_data(prepared, log, until) for prepared, log in zip(both, logs, strict=True))
    assert "events" not in mapped.__dict__  # nobody asked for all of them
    same(second.log, first.log)
    for name, vocabulary in first.encoder.vocabularies.items():
        assert vocabulary.values.equals(second.encoder.vocabularies[name].values)
    assert first.tables.context
    for side in ("item", "user", "context"):
        for name, values in getattr(first.tables, side).items():
            torch.testing.assert_close(getattr(second.tables, side)[name], values, equal_nan=True, rtol=0, atol=0)
    early = microseconds(until) - 10 * 3_600_000_000
    one, other = data_before(first, early, True), data_before(second, early, True)
    same(other.log, one.log)
    for name, values in one.tables.context.items():
        assert torch.equal(other.tables.context[name], values)


def test_where_it_is_kept_says_the_configuration(shop, tmp_path: Path) -> None:
    assert prepare(shop).spill is None
    mapped = prepare(replace(shop, log="mapped"))
    assert mapped.spill == Spill(tmp_path / "prepared")
    same(interaction_log(mapped), interaction_log(prepare(shop)))
