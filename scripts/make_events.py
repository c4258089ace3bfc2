"""Writes synthetic shops of any size, with planted structure and dirt in known amounts.

python scripts/make_events.py --out shop --events 1000000 [--users 100000] [--items 20000] [--dirt 0.01] [--seed 0]

    shop/events/part-00000.parquet ...   user_id, item_id, timestamp, event_type, session_id, basket_id, device,
                                         quantity, value: views, carts, purchases and returns
    shop/items.parquet                   item_id, category, brand, size, price
    shop/users/part-00000.parquet ...    user_id, age, region
    shop/truth/                          what was planted; a cleaning or a model is not to read it
        truth.json                       rows, counts of dirt, ids of the bots, weights of the season
        segments/part-00000.parquet ...  user_id, segment
        items.parquet                    item_id, cycle_days (null: none), launch, is_cold

Without dirt ids are integers and times are times; with dirt both are text, as exports have them. The same settings
give the same rows, whatever --chunk-rows; memory grows with it and with the items, not with the events.

    recsys prepare data=tables data.events=shop/events data.items=shop/items.parquet data.users=shop/users \
        data.relevant=[purchase] data.context=[device]
"""

import argparse
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
from make_events_block import CLOSE_SECONDS, RETURNED, make_block
from make_events_dirt import JUNK, NEAR_SECONDS, as_text, soil_events, soil_items, soil_users
from make_events_shop import (
    CATEGORIES,
    HOLIDAY_WEIGHT,
    HOLIDAYS,
    START,
    WEEKDAYS,
    Catalogue,
    Shop,
    item_table,
    make_catalogue,
)
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

Block = tuple[dict[str, pl.DataFrame], Counter[str], list[str]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a shop; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to make; it must not be there yet")
    parser.add_argument("--events", type=int, default=1_000_000, help="before returns and dirt")
    parser.add_argument("--users", type=int, help="a tenth of the events by default")
    parser.add_argument("--items", type=int, help="a fiftieth of the events by default")
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--dirt", type=float, default=0.0, help="share of the lines with dirt, 0 to 0.5")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chunk-rows", type=int, default=1_000_000, help="lines of a file; bounds memory")
    asked = parser.parse_args(arguments)
    users = asked.users or max(asked.events // 10, 2)
    shop = Shop(asked.events, users, asked.items or max(asked.events // 50, 100), asked.days, asked.dirt, asked.seed)
    for holds, wrong in (
        (shop.events >= 1 and users >= 1, "--events and --users must be 1 or more"),
        (shop.items >= len(CATEGORIES), f"--items must be {len(CATEGORIES)} or more, one for each category"),
        (shop.days >= 60, "--days must be 60 or more, so that the longest repeat cycle shows"),
        (0 <= shop.dirt <= 0.5, "--dirt must be a share from 0 to 0.5"),
        (0 <= shop.seed < 2**64, "--seed must be from 0 to 2^64 - 1"),
        (asked.chunk_rows >= 1, "--chunk-rows must be 1 or more"),
        (not asked.out.exists(), f"--out {asked.out}: is there already; give another folder, or remove it"),
    ):
        if not holds:
            parser.error(f"{wrong}.")
    start = time.perf_counter()
    truth = write_shop(shop, asked.out, asked.chunk_rows)
    Console().print(summary(truth, time.perf_counter() - start))
    return 0


def write_shop(shop: Shop, out: Path, chunk_rows: int) -> dict[str, Any]:
    """Write the folder, whole or not at all, and return what ``truth.json`` holds."""
    half = out.with_name(f".{out.name}.part")
    shutil.rmtree(half, ignore_errors=True)
    for name in ("events", "users", "truth/segments"):
        (half / name).mkdir(parents=True)
    catalogue = make_catalogue(shop)
    counts: Counter[str] = Counter()
    bots: list[str] = []
    items = item_table(shop, catalogue)
    if shop.dirt:
        items, found = soil_items(shop, items)
        counts.update(found)
    items.write_parquet(half / "items.parquet")
    _planted_items(shop, catalogue).write_parquet(half / "truth" / "items.parquet")
    with Progress() as bar:
        task = bar.add_task("users", total=shop.users)
        for number, (tables, found, names) in enumerate(_chunks(shop, catalogue, chunk_rows)):
            for name, frame in tables.items():
                frame.write_parquet(half / name / f"part-{number:05}.parquet")
            counts.update(found)
            bots += names
            bar.advance(task, len(tables["users"]))
    rows = {name: counts.pop(f"rows.{name}", 0) for name in ("clean", "total", "users")}
    truth = {
        "shop": asdict(shop),
        "rows": {**rows, "items": len(items)},
        "event_types": {name: counts.pop(f"type.{name}", 0) for name in ("view", "cart", "purchase", "return")},
        "dirt": dict(sorted(counts.items())),
        "bots": bots,
        "near_seconds": NEAR_SECONDS,
        "clean_seconds": CLOSE_SECONDS,
        "junk_items": JUNK,
        "returned": RETURNED,
        "season": {"weekdays": WEEKDAYS, "holidays": HOLIDAYS, "holiday_weight": HOLIDAY_WEIGHT},
    }
    (half / "truth" / "truth.json").write_text(json.dumps(truth, indent=1), encoding="utf-8")
    half.rename(out)
    return truth


def _chunks(shop: Shop, catalogue: Catalogue, rows: int) -> Iterator[Block]:
    """Yield blocks put together until they have ``rows`` event lines."""
    tables: dict[str, list[pl.DataFrame]] = {}
    counts: Counter[str] = Counter()
    bots: list[str] = []
    for block in range(shop.blocks):
        made, found, names = _one_block(shop, catalogue, block)
        for name, frame in made.items():
            tables.setdefault(name, []).append(frame)
        counts.update(found)
        bots += names
        if counts["rows.total"] >= rows or block == shop.blocks - 1:
            yield {name: pl.concat(frames) for name, frames in tables.items()}, counts, bots
            tables, counts, bots = {}, Counter(), []


def _one_block(shop: Shop, catalogue: Catalogue, block: int) -> Block:
    users, events = make_block(shop, catalogue, block)
    counts = Counter({"rows.clean": len(events), "rows.users": len(users)})
    counts.update({f"type.{name}": n for name, n in events["event_type"].value_counts().iter_rows()})
    bots: list[str] = []
    if shop.dirt:
        events, found, bots = soil_events(shop, catalogue, block, events)
        users, missing = soil_users(shop, block, users)
        counts.update(found | missing)
    counts["rows.total"] = len(events)
    tables = {"events": events, "users": users.drop("segment"), "truth/segments": users.select("user_id", "segment")}
    return tables, counts, bots


def _planted_items(shop: Shop, catalogue: Catalogue) -> pl.DataFrame:
    frame = pl.DataFrame({"item_id": catalogue.ids, "cycle_days": catalogue.cycle, "second": catalogue.launch})
    planted = frame.sort("item_id").select(
        "item_id",
        cycle_days=pl.when(pl.col("cycle_days") > 0).then("cycle_days"),
        launch=pl.lit(START).dt.cast_time_unit("us") + pl.duration(seconds="second"),
        is_cold=pl.col("second") > 0,
    )
    return as_text(planted) if shop.dirt else planted


def summary(truth: dict[str, Any], seconds: float) -> Table:
    """Return what was written as a table."""
    shop, rows = truth["shop"], truth["rows"]
    until = START + timedelta(days=shop["days"])
    table = Table(title=f"{START:%Y-%m-%d} to {until:%Y-%m-%d}", title_justify="left")
    table.add_column("what")
    table.add_column("lines", justify="right")
    for name, count in (
        ("event lines", rows["total"]),
        ("of a clean shop", rows["clean"]),
        *((f"  {name}", count) for name, count in truth["event_types"].items()),
        ("item lines", rows["items"]),
        ("users", rows["users"]),
    ):
        table.add_row(name, f"{count:,}")
    table.add_section()
    for name, count in truth["dirt"].items():
        table.add_row(name.replace("_", " "), f"{count:,}")
    table.caption = f"{seconds:.1f} s, {rows['total'] / max(seconds, 1e-9) / 1e6:.2f} million a second"
    return table


if __name__ == "__main__":
    sys.exit(main())
