"""Dirt in known amounts: what real exports have, and the cleaning has to find again."""

import numpy as np
import polars as pl
from make_events_shop import DAY, START, Catalogue, Shop, stream

EVENT_DIRT = (
    "exact_duplicates",
    "near_duplicates",
    "missing_users",
    "missing_items",
    "missing_times",
    "unreadable_times",
    "shifted_rows",
    "junk_items",
)
"""Kinds of dirt on event lines, equally frequent; a line of the clean shop has one of them at most."""
ADDED = ("exact_duplicates", "near_duplicates", "junk_items")
"""These are lines more; the other kinds spoil a line that is there."""
NEAR_SECONDS = 3
"""A near duplicate follows its original within so many seconds."""
JUNK = ("POSTAGE", "ADJUSTMENT", "TEST")
UNREADABLE = ("0000-00-00 00:00:00", "31/31/2024", "not known")
UNREADABLE_SIZE = "ASSORTED"
BOT_EVENTS, BOT_SECONDS = 300, 2
"""Views of one bot account, and the time from one to the next."""
SHIFT = 2
"""Columns that the values of a shifted row stand too far left."""


def as_text(events: pl.DataFrame) -> pl.DataFrame:
    """Return ids and times as the text that an export has: ``u17``, ``i5``, ``2024-03-01 17:45:00``."""
    ids = {"user_id": "u{}", "item_id": "i{}", "session_id": "s{}", "basket_id": "b{}"}
    texts = [pl.format(form, name).alias(name) for name, form in ids.items() if name in events.columns]
    if "timestamp" in events.columns:
        texts.append(pl.col("timestamp").dt.to_string("%Y-%m-%d %H:%M:%S"))
    return events.with_columns(texts)


def soil_events(
    shop: Shop, catalogue: Catalogue, block: int, events: pl.DataFrame
) -> tuple[pl.DataFrame, dict[str, int], list[str]]:
    """Return the lines of a block as text and with dirt, the number of each kind, and the ids of the bots.

    Args:
        shop: ``dirt`` is the share of the lines that get one of :data:`EVENT_DIRT`.
        catalogue: Items that bots look at.
        block: Number of the block.
        events: Its clean events.
    """
    rng = stream(shop, "dirt", block)
    n = len(events)
    drawn = rng.random(n)
    code = np.where(drawn < shop.dirt, drawn / shop.dirt * len(EVENT_DIRT), len(EVENT_DIRT)).astype(np.int64)
    pick = rng.integers(3, size=n)
    marked = events.with_columns(
        kind=pl.Series((*EVENT_DIRT, "clean")).gather(code),
        late=pl.Series(rng.integers(1, NEAR_SECONDS + 1, size=n)),
        junk=pl.Series(JUNK).gather(pick),
        unreadable=pl.Series(UNREADABLE).gather(pick),
    )
    near = marked.filter(kind="near_duplicates").with_columns(pl.col("timestamp") + pl.duration(seconds="late"))
    junk = marked.filter(kind="junk_items").with_columns(
        event_type=pl.lit("purchase"), quantity=pl.lit(1.0), value=pl.lit(4.5), basket_id=pl.col("session_id")
    )
    added = [marked.filter(kind="exact_duplicates"), near, junk]
    bots, names = _bots(rng, shop, catalogue, block)
    lines = pl.concat(
        [
            _spoiled(as_text(marked)),
            *(as_text(frame) for frame in added[:2]),
            as_text(added[2]).with_columns(item_id=pl.col("junk")),
            as_text(bots),
        ],
        how="diagonal",
    )
    counts = {kind: int((code == number).sum()) for number, kind in enumerate(EVENT_DIRT)}
    lines = lines.select(events.columns).sort("timestamp", nulls_last=True, maintain_order=True)
    return lines, counts | {"bot_events": len(bots)}, names


def _spoiled(lines: pl.DataFrame) -> pl.DataFrame:
    """Take away or replace values of the marked lines, or shift them to the left."""
    kind = pl.col("kind")
    columns = [name for name in lines.columns if name not in ("kind", "late", "junk", "unreadable")]
    nothing = pl.lit(None)
    shifted = []
    for name, left in zip(columns, (*columns[SHIFT:], *[None] * SHIFT), strict=True):
        fits = left is not None and lines.schema[name] == pl.String
        value = pl.col(str(left)).cast(pl.String) if fits else nothing
        shifted.append(pl.when(kind == "shifted_rows").then(value).otherwise(name).alias(name))
    return lines.with_columns(shifted).with_columns(
        user_id=pl.when(kind != "missing_users").then("user_id"),
        item_id=pl.when(kind != "missing_items").then("item_id"),
        timestamp=pl.when(kind == "unreadable_times")
        .then("unreadable")
        .when(kind != "missing_times")
        .then("timestamp"),
    )


def _bots(rng: np.random.Generator, shop: Shop, catalogue: Catalogue, block: int) -> tuple[pl.DataFrame, list[str]]:
    """Return views of accounts that look at one item after the other, and their ids, which no user has."""
    wanted = max(1, round(shop.dirt * shop.users / 50))
    low, high = wanted * block // shop.blocks, wanted * (block + 1) // shop.blocks
    frames = []
    for bot in range(low, high):
        items = rng.choice(catalogue.ids, min(BOT_EVENTS, shop.items), replace=False)
        begin = rng.integers(0, shop.seconds - DAY)
        frame = pl.DataFrame({"item_id": items, "second": begin + BOT_SECONDS * np.arange(len(items))})
        frames.append(
            frame.select(
                user_id=pl.lit(shop.users + 1 + bot, pl.Int64),
                item_id="item_id",
                timestamp=pl.lit(START).dt.cast_time_unit("us") + pl.duration(seconds="second"),
                event_type=pl.lit("view"),
                session_id=pl.lit((shop.blocks << 24) + bot, pl.Int64),
                device=pl.lit("web"),
            )
        )
    return pl.concat(frames) if frames else pl.DataFrame(), [f"u{shop.users + 1 + bot}" for bot in range(low, high)]


def soil_items(shop: Shop, items: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the item table as text and with dirt: rows that a later row of the same item contradicts, missing and
    unreadable attributes; and the number of each.
    """
    rng, n = stream(shop, "item dirt"), len(items)
    stale, bare, odd = (rng.random(n) < shop.dirt for _ in range(3))
    items = as_text(items).with_columns(
        brand=pl.when(~pl.Series(bare)).then("brand"),
        size=pl.when(pl.Series(odd)).then(pl.lit(UNREADABLE_SIZE)).otherwise("size"),
    )
    older = items.filter(pl.Series(stale)).with_columns(pl.col("price") * 2)
    counts = {"conflicting_rows": len(older), "missing_brands": int(bare.sum()), "unreadable_sizes": int(odd.sum())}
    return pl.concat([older, items]), counts


def soil_users(shop: Shop, block: int, users: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return users as text, some without age, and the number of these; it is five times the share of other dirt."""
    missing = stream(shop, "item dirt", 1 + block).random(len(users)) < min(1.0, 5 * shop.dirt)
    users = as_text(users).with_columns(age=pl.when(~pl.Series(missing)).then("age"))
    return users, {"missing_ages": int(missing.sum())}
