"""A small shop whose tables can be checked by hand."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from recsys.config.data import DataConfig


@pytest.fixture
def shop_events() -> pl.DataFrame:
    """100 events an hour apart from 2024; event i is of user i % 7 + 1 and item sku(i % 11)."""
    rows = range(100)
    return pl.DataFrame(
        {
            "user_id": [i % 7 + 1 for i in rows],
            "item_id": [f"sku{i % 11}" for i in rows],
            "timestamp": [datetime(2024, 1, 1) + timedelta(hours=i) for i in rows],
            "value": [float(i) for i in rows],
            "store": ["north" if i % 3 else "south" for i in rows],
        }
    )


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., DataConfig]:
    """A data config that prepares into ``tmp_path / "prepared"``; a data frame in place of a path is written first."""

    def make(**keys: object) -> DataConfig:
        for key in ("events", "items", "users"):
            if isinstance(frame := keys.get(key), pl.DataFrame):
                keys[key] = str(tmp_path / f"{key}.parquet")
                frame.write_parquet(tmp_path / f"{key}.parquet")
        return DataConfig(**({"name": "shop", "cache_dir": str(tmp_path / "prepared")} | keys))  # type: ignore[arg-type]

    return make


@pytest.fixture
def shop(config: Callable[..., DataConfig], shop_events: pl.DataFrame) -> DataConfig:
    """Config of a written shop: events, 11 items with attributes, attributes of 3 of the 7 users."""
    items = pl.DataFrame(
        {
            "item_id": [f"sku{i}" for i in range(11)],
            "brand": ["a" if i % 2 else "b" for i in range(11)],
            "price": [1.5 * i for i in range(11)],
        }
    )
    users = pl.DataFrame({"user_id": [1, 2, 3], "gender": ["f", "m", None]})
    return config(events=shop_events, items=items, users=users, context=["store"])
