"""A clean shop, and the tools to plant a leak into it."""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recsys.config.data import DataConfig
from recsys.data.prepare import prepare
from recsys.data.prepared import Prepared


@pytest.fixture(scope="session")
def shop_folder(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that ``scripts/make_events.py`` wrote: 12,000 clean events of 600 users and 240 items."""
    folder = tmp_path_factory.mktemp("audit") / "shop"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(repo / "scripts")
        sizes = ("--events=12000", "--users=600", "--items=240", "--seed=1")
        assert import_module("make_events").main([f"--out={folder}", *sizes]) == 0
    return folder


@pytest.fixture(scope="session")
def clean(shop_folder: Path) -> Prepared:
    """That shop, prepared; purchases are what counts."""
    return prepare(
        DataConfig(
            name="clean",
            events=str(shop_folder / "events"),
            items=str(shop_folder / "items.parquet"),
            users=str(shop_folder / "users"),
            relevant=["purchase"],
            context=["device"],
            cache_dir=str(shop_folder.parent / "prepared"),
        )
    )


@pytest.fixture
def plant(clean: Prepared) -> Callable[..., Prepared]:
    """Return the shop with columns added to its tables: expressions, or frames joined by id."""

    def make(**tables: Any) -> Prepared:
        changed = {}
        for name, more in tables.items():
            table = getattr(clean, name)
            if isinstance(more, pl.DataFrame):
                changed[name] = table.join(more, on=more.columns[0], how="left", maintain_order="left")
            else:
                changed[name] = table.with_columns(more)
        events = changed.pop("events", clean.events)
        return replace(clean.with_events(events), **changed)

    return make
