"""Events of two users and three items, by the hour."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from recsys.data.clean import in_order
from recsys.data.split import Windows

START = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="session")
def windows() -> Windows:
    """Training is before hour 10, validation before 20, test before 30."""
    return Windows(START, *(START + timedelta(hours=hours) for hours in (10, 20, 30)))


@pytest.fixture(scope="session")
def events_of() -> Callable[..., pl.DataFrame]:
    """Events in order from rows ``(user, item, hour, ...)``; ``more`` names and types the other columns."""

    def make(rows: Sequence[tuple[Any, ...]], **more: Any) -> pl.DataFrame:
        schema = {"user_id": pl.Int64, "item_id": pl.String, "timestamp": pl.Datetime("us", "UTC")} | more
        full = [(user, item, START + timedelta(hours=hour), *rest) for user, item, hour, *rest in rows]
        return in_order(pl.DataFrame(full, schema=schema, orient="row").with_row_index("row_number", offset=1))

    return make
