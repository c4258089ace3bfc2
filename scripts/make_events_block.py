"""The users of one block of a synthetic shop and what they do: sessions, repeat purchases, returns."""

import numpy as np
import polars as pl
from make_events_shop import BLOCK_USERS, CATEGORIES, DAY, SEGMENTS, START, Catalogue, Shop, stream

CLOSE_SECONDS = 60
"""Clean events of the same user, item and type are further apart than this: what is closer was planted."""
RUN_LENGTH = 6
"""Purchases, at most, of one run through an item's repeat cycle."""
TYPES = ("view", "cart", "purchase", "return")
"""Stages of an event; a session goes from a view to cart and purchase."""
RETURNED = 0.03
HOME = 0.9
"""Share of what a user looks at that is of the home categories of the segment."""
NEW_USERS = 0.3
DEVICES = ("app", "web", "till")
REGIONS = ("north", "east", "south", "west")
AGES = ("18-29", "30-44", "45-64", "65+")


def make_block(shop: Shop, catalogue: Catalogue, block: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return users with attributes and ``segment``, and their events in the order of time."""
    rng = stream(shop, "users", block)
    low, high = block * BLOCK_USERS, min((block + 1) * BLOCK_USERS, shop.users)
    n = high - low
    segment = rng.choice(len(SEGMENTS), n, p=[s.share for s in SEGMENTS])
    activity = np.array([s.activity for s in SEGMENTS])[segment] * rng.lognormal(0, 0.6, n)
    budget = shop.events * high // shop.users - shop.events * low // shop.users
    counts = rng.multinomial(budget, activity / activity.sum())
    joined = np.where(rng.random(n) < NEW_USERS, 0.8 * rng.random(n) * shop.seconds, 0).astype(np.int64)
    own_age = rng.random(n) < 0.8
    users = pl.DataFrame(
        {
            "user_id": np.arange(low, high) + 1,
            "age": np.array(AGES)[np.where(own_age, (segment + 1) % 4, rng.integers(4, size=n))],
            "region": np.array(REGIONS)[rng.integers(4, size=n)],
            "segment": np.array([s.name for s in SEGMENTS])[segment],
        }
    )
    runs = _runs(rng, shop, catalogue, counts, segment, joined)
    ordinary = counts - np.bincount(runs["user"].to_numpy(), minlength=n)
    events = pl.concat([_sessions(rng, shop, catalogue, ordinary, segment, joined), runs], how="diagonal")
    events = _finish(rng, shop, catalogue, events)
    base = block << 24
    return users, events.select(
        user_id=pl.col("user") + low + 1,
        item_id=pl.Series(catalogue.ids).gather(events["item"]),
        timestamp=pl.lit(START).dt.cast_time_unit("us") + pl.duration(seconds="second"),
        event_type=pl.col("event_type"),
        session_id=pl.col("session") + base,
        basket_id=pl.when(event_type="purchase").then(pl.col("session") + base),
        device=pl.col("device"),
        quantity=pl.col("quantity"),
        value=pl.col("value"),
    )


def _runs(
    rng: np.random.Generator,
    shop: Shop,
    catalogue: Catalogue,
    counts: np.ndarray,
    segment: np.ndarray,
    joined: np.ndarray,
) -> pl.DataFrame:
    """Return purchases of staples that come back after the item's cycle, with 2 % of it as jitter."""
    wanted = rng.binomial(counts, np.array([s.repeat for s in SEGMENTS])[segment])
    full, rest = wanted // RUN_LENGTH, wanted % RUN_LENGTH
    number = full + (rest >= 3)
    user = np.repeat(np.arange(len(counts)), number)
    last = np.cumsum(number)[number > 0] - 1
    length = np.full(len(user), RUN_LENGTH)
    length[last] = np.where(rest >= 3, rest, RUN_LENGTH)[number > 0]
    category = segment[user] + len(SEGMENTS) * rng.integers(len(CATEGORIES) // len(SEGMENTS), size=len(user))
    sizes = np.array([len(items) for items in catalogue.staples])
    place = (rng.random(len(user)) ** 2 * sizes[category]).astype(np.int64)
    starts = np.cumsum(sizes) - sizes
    item = np.concatenate(catalogue.staples)[starts[category] + place]
    step = catalogue.cycle[item] * DAY
    free = shop.seconds - DAY - joined[user]
    length = np.minimum(length, free // step)
    length[length < 2] = 0
    begin = joined[user] + rng.random(len(user)) * (free - np.maximum(length - 1, 0) * step)
    run = np.repeat(np.arange(len(user)), length)
    turn = np.arange(len(run)) - np.repeat(np.cumsum(length) - length, length)
    second = begin[run] + step[run] * (turn + rng.normal(0, 0.02, len(run)))
    return pl.DataFrame(
        {
            "user": user[run],
            "item": item[run],
            "second": np.clip(second, joined[user[run]], shop.seconds - 1).astype(np.int64),
            "stage": np.full(len(run), 2, dtype=np.int64),
        }
    )


def _sessions(
    rng: np.random.Generator,
    shop: Shop,
    catalogue: Catalogue,
    counts: np.ndarray,
    segment: np.ndarray,
    joined: np.ndarray,
) -> pl.DataFrame:
    """Return sessions of views, some of which go on to cart and purchase; what is bought is paid at the end."""
    n = int(counts.sum())
    user, row = np.repeat(np.arange(len(counts)), counts), np.arange(n)
    opens = np.r_[True, user[1:] != user[:-1]][:n] | (rng.random(n) < 0.2)
    session = np.cumsum(opens) - 1
    owner = user[opens]
    known = np.r_[0, shop.day_shares][joined[owner] // DAY]
    day = np.searchsorted(shop.day_shares, known + rng.random(len(owner)) * (1 - known), side="right")
    hour = np.array([s.hour for s in SEGMENTS])[segment[owner]] + rng.normal(0, 2.5, len(owner))
    begin = np.minimum(day, shop.days - 2) * DAY + (hour % 24 * 3600).astype(np.int64)
    begin = np.maximum(begin, joined[owner])
    gaps = np.where(opens, 0, 10 + rng.exponential(40, n).astype(np.int64))
    passed = np.cumsum(gaps)
    second = begin[session] + passed - passed[opens][session]
    ends = np.r_[opens[1:], True][:n]
    goes_on = rng.random(n) < np.array([s.onward for s in SEGMENTS])[segment[user]]
    turn = row - np.maximum.accumulate(np.where(opens | ~goes_on, row, 0))
    stage = turn % 3
    looks = stage == 0
    look = np.cumsum(looks) - 1
    return pl.DataFrame(
        {
            "user": user,
            "item": _looked_at(rng, catalogue, segment[user[looks]], second[looks])[look],
            "second": np.where(stage == 2, second[ends][session] + 30, second),
            "stage": stage,
            "session": session,
        }
    )


def _looked_at(rng: np.random.Generator, catalogue: Catalogue, segment: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return item numbers, mostly of the home categories; what is not sold yet gives way to something more popular."""
    n, kinds = len(segment), len(CATEGORIES)
    home = segment + len(SEGMENTS) * rng.integers(kinds // len(SEGMENTS), size=n)
    category = np.where(rng.random(n) < HOME, home, rng.integers(kinds, size=n))
    rank = np.searchsorted(catalogue.rank_shares, rng.random(n), side="right")
    item = rank * kinds + category
    item = np.where(item >= len(catalogue.ids), item - kinds, item)
    while (early := catalogue.launch[item] > second).any():
        item[early] = item[early] // kinds // 2 * kinds + category[early]
    return item


def _finish(rng: np.random.Generator, shop: Shop, catalogue: Catalogue, events: pl.DataFrame) -> pl.DataFrame:
    """Add types, devices, prices and returns, leave out what is too close to an equal event, and sort by time."""
    sessions = events["session"].drop_nulls().n_unique()
    own = pl.col("session").is_null().cum_sum() - 1 + sessions  # each purchase of a run is a session of its own
    events = events.with_columns(pl.col("session").fill_null(own))
    n = len(events)
    device = pl.Series(rng.integers(len(DEVICES), size=n)).gather(events["session"])
    quantity = np.minimum(rng.geometric(0.7, n), 9).astype(np.float64)
    value = np.round(quantity * catalogue.price[events["item"].to_numpy()] * rng.uniform(0.9, 1.1, n), 2)
    returned = rng.random(n) < RETURNED
    back = rng.integers(DAY, 14 * DAY, size=n)
    bought = pl.col("stage") == TYPES.index("purchase")
    kind = (pl.col("user") * shop.items + pl.col("item")) * len(TYPES)
    events = events.with_columns(
        kind=kind + pl.col("stage"),  # equal for what has the same user, item and type
        device=pl.Series(DEVICES).gather(device),
        quantity=pl.when(bought).then(pl.Series(quantity)),
        value=pl.when(bought).then(pl.Series(value)),
        back=pl.when(bought & pl.Series(returned)).then(pl.Series(back)),
    )
    events = _apart(events)
    returns = events.filter(pl.col("back").is_not_null()).with_columns(
        pl.col("kind") + 1,
        pl.col("stage") + 1,
        pl.col("second") + pl.col("back"),
        -pl.col("quantity"),
        -pl.col("value"),
        session=pl.int_range(pl.len()) + n,  # of its own: there are at most n others
    )
    returns = _apart(returns.filter(pl.col("second") < shop.seconds))
    events = pl.concat([events, returns]).sort("second", "kind", maintain_order=True)
    return events.with_columns(event_type=pl.Series(TYPES).gather(events["stage"]))


def _apart(events: pl.DataFrame) -> pl.DataFrame:
    """Leave out what follows an event of the same user, item and type within :data:`CLOSE_SECONDS`."""
    events = events.sort("kind", "second", maintain_order=True)
    is_close = (pl.col("kind").diff() == 0) & (pl.col("second").diff() <= CLOSE_SECONDS)
    return events.filter(~is_close.fill_null(False))
