"""Shops with planted segments."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = 200
HABITS = {
    # baskets, items a basket, value of an item, different items to choose from, days between baskets
    "often": (60, 3, 2.0, 12, 3.0),
    "rarely": (4, 2, 5.0, 400, 45.0),
    "bulk": (10, 25, 8.0, 300, 18.0),
}


def micros(days: float) -> int:
    """Microseconds since 1970 of a day after the start."""
    return round((START + timedelta(days=days)).timestamp() * 1e6)


@pytest.fixture(scope="session")
def events_of() -> Callable[..., pl.DataFrame]:
    """Make events of rows ``(user, item, day[, value[, event_type]])``."""

    def make(rows: Sequence[tuple[Any, ...]]) -> pl.DataFrame:
        names = ("user_id", "item_id", "timestamp", "value", "event_type")[: len(rows[0])]
        times = [START + timedelta(days=row[2]) for row in rows]
        columns = {name: [row[n] for row in rows] for n, name in enumerate(names)} | {"timestamp": times}
        types = {"timestamp": pl.Datetime("us", "UTC")} | ({"value": pl.Float64} if "value" in names else {})
        return pl.DataFrame(columns, schema_overrides=types)

    return make


@pytest.fixture(scope="session")
def planted() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events of 240 users of three habits before day 200, and ``user_id, habit`` of each."""
    chance = np.random.default_rng(5)
    rows, users = [], []
    for number in range(240):
        habit = list(HABITS)[number % 3]
        baskets, size, value, choice, gap = HABITS[habit]
        user = f"u{number:03d}"
        users.append((user, habit))
        last = DAYS - gap * chance.uniform(0.2, 0.8)
        for basket in range(baskets):
            time = last - gap * (basket + chance.uniform(-0.2, 0.2))
            items = chance.choice(choice, size, replace=False)
            rows += [(user, f"i{item}", time, value * chance.uniform(0.8, 1.2), f"{user}-{basket}") for item in items]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "value", "basket_id"], orient="row")
    time = pl.lit(START) + pl.duration(microseconds=pl.col("timestamp") * 86_400e6)
    events = frame.with_columns(timestamp=time.dt.cast_time_unit("us"))
    return events, pl.DataFrame(users, schema=["user_id", "habit"], orient="row")
