"""``recsys audit`` on the console: a table, a file, a page, and an exit code."""

import json
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from recsys.cli import main

pytestmark = pytest.mark.usefixtures("outside")


@pytest.fixture
def tables(shop_tables: Path) -> list[str]:
    """Overrides that name the tables of the small shop."""
    return ["data=tables", *(f"data.{key}={shop_tables}/{key}.parquet" for key in ("events", "items", "users"))]


def test_clean_tables(tables: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", *tables, "max_users=20", "hydra.run.dir=run"]) == 0
    shown = capsys.readouterr().out
    assert "Leak audit" in shown
    assert "What other splits would have claimed" in shown
    written = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert {found["severity"] for found in written["findings"]} == {"info"}
    assert {claim["split"] for claim in written["claims"]} == {"temporal", "random", "leave one out"}
    page = (tmp_path / "run" / "data_report.html").read_text()
    assert "<h2>Leak audit</h2>" in page
    assert "users on both sides" in page
    assert "personal_frequency" in page


@pytest.fixture
def leaky(tables: list[str]) -> list[str]:
    """The shop with baskets that are still open at the cuts, and ratings that came late."""
    events = pl.read_parquet(tables[1].partition("=")[2])
    events.with_columns(basket_id=pl.col("user_id").str.slice(1).cast(pl.Int64)).write_parquet("events.parquet")
    items = pl.read_parquet(tables[2].partition("=")[2])
    late = datetime(2024, 1, 1) + timedelta(days=5)
    items.with_columns(rating=pl.lit(4.0) + pl.col("price") % 1, rated=late, seconds=1.5e9).write_parquet(
        "items.parquet"
    )
    return ["data=tables", "data.events=events.parquet", "data.items=items.parquet"]


def test_leaks_end_with_exit_code_2(leaky: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", *leaky, "item_times.rating=rated", "max_users=20", "hydra.run.dir=run"]) == 2
    captured = capsys.readouterr()
    message = captured.err.splitlines()[-1]  # after what is logged
    assert message.startswith("error: prepared/")
    assert "3 leak(s): " in message
    assert "basket on both sides (events, cut val_start, column 'basket_id')" in message
    assert "attribute younger than the event (items, column 'rating')" in message
    written = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert [found["severity"] for found in written["findings"]] == ["error"] * 3 + ["info"] * 2
    assert "basket on both sides" in (tmp_path / "run" / "data_report.html").read_text()


def test_prepare_tells_what_it_sees(leaky: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", *leaky, "hydra.run.dir=run"]) == 0
    assert "leak basket on both sides" in " ".join(capsys.readouterr().out.split())
    assert "basket on both sides" in Path("run", "data_report.html").read_text()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("item_times.rating=ratd", "item_times.rating=ratd: the items have no column 'ratd'"),
        ("item_times.rating=ratd", "Did you mean 'rated'?"),
        ("item_times.rating=category", "values are no times; legal: ISO 8601"),
        (
            "item_times.rating=seconds",
            "item_times.rating=seconds: 80 of 80 values are no times; legal: ISO 8601, whole",
        ),
        ("user_times.x=y", "user_times.x=y: the users have no column 'x'"),
        ("max_auc=0.4", "max_auc=0.4: must be above 0.5, at most 1."),
        ("max_users=0", "max_users=0: must be 1 or more."),
    ],
)
def test_what_cannot_be_audited(
    override: str, expected: str, leaky: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", *leaky, override, "hydra.run.dir=run"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ")
    assert expected in message
