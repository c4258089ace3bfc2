"""A synthetic shop with planted structure, made one block of users after the other.

Each block of users has its own counter-based random stream, so that the shop depends on its settings alone and not on
how many blocks are made at a time.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import numpy as np
import polars as pl

BLOCK_USERS = 1024
DAY = 86_400
START = datetime(2024, 1, 1)
COLD_ITEMS = 0.1
COLD_SPAN = 0.2
"""Cold items appear in this last part of the time."""
CATEGORIES = (
    *("dairy", "tea", "wine", "cleaning", "bakery", "snacks"),
    *("cheese", "paper", "fruit", "frozen", "olive oil", "pets"),
)
SIZES = ("16 OZ", "22 LB", "1.5 L", "6 PK/12 OZ", "500 G", "750 ML", "12 CT")
CYCLES = (7, 14, 28)
WEEKDAYS = (0.9, 0.85, 0.9, 1.0, 1.25, 1.4, 0.7)
"""Weight of Monday to Sunday."""
HOLIDAYS, HOLIDAY_WEIGHT = ("11-25", "12-24"), 1.8


@dataclass(frozen=True)
class Segment:
    """How the users of a segment differ; the home categories of segment s are those with number % 4 == s."""

    name: str
    share: float
    activity: float  # events, relative to the others
    onward: float  # probability that a view goes on to the cart, and the cart to the purchase
    repeat: float  # share of the events that are purchases in the cycle of an item
    hour: float  # around which sessions start


SEGMENTS = (
    Segment("families", 0.35, 1.6, 0.6, 0.40, 10),
    Segment("students", 0.25, 0.7, 0.3, 0.15, 21),
    Segment("gourmets", 0.15, 1.0, 0.5, 0.25, 18),
    Segment("households", 0.25, 0.8, 0.2, 0.15, 14),
)


@dataclass(frozen=True)
class Shop:
    """What is to be made: ``events`` is the number before returns and dirt."""

    events: int
    users: int
    items: int
    days: int = 365
    dirt: float = 0.0
    seed: int = 0

    @property
    def blocks(self) -> int:
        """Number of blocks of users."""
        return -(-self.users // BLOCK_USERS)

    @property
    def seconds(self) -> int:
        """Length of the whole time."""
        return self.days * DAY

    @cached_property
    def day_shares(self) -> np.ndarray:
        """Share of the sessions that start before the end of each day, ascending to 1: season, weekday, holidays."""
        days = np.datetime64(START, "D") + np.arange(self.days)
        of_year = (days - days.astype("datetime64[Y]")).astype(int)
        weights = 1 + 0.3 * np.sin(2 * np.pi * (of_year - 80) / 365)
        weights *= np.array(WEEKDAYS)[(days.astype(int) + 3) % 7]  # 1970 began on a Thursday
        of_date = np.array([str(day)[5:] for day in days])
        weights[(of_date >= HOLIDAYS[0]) & (of_date <= HOLIDAYS[1])] *= HOLIDAY_WEIGHT
        return np.cumsum(weights) / weights.sum()


@dataclass(frozen=True)
class Catalogue:
    """Items by number from 0; the category is ``number % 12`` and the rank in it ``number // 12``.

    Attributes:
        ids: Item id of each number.
        rank_shares: Share of a category's popularity that its first ranks have, ascending to 1 (a power law).
        launch: Second from which the item is sold.
        cycle: Days after which it is bought again; 0: no cycle.
        price: Of one.
        staples: For each category the numbers of the items with a cycle, most popular first.
    """

    ids: np.ndarray
    rank_shares: np.ndarray
    launch: np.ndarray
    cycle: np.ndarray
    price: np.ndarray
    staples: tuple[np.ndarray, ...]

    @property
    def category(self) -> np.ndarray:
        """Of each number."""
        return np.arange(len(self.ids)) % len(CATEGORIES)


def stream(shop: Shop, purpose: str, block: int = 0) -> np.random.Generator:
    """Return the random numbers of a block for one purpose."""
    purposes = ("users", "dirt", "items", "item dirt")
    return np.random.Generator(np.random.Philox(key=[shop.seed, purposes.index(purpose) << 48 | block]))


def make_catalogue(shop: Shop) -> Catalogue:
    """Make all items: power law of popularity, prices, cold items, repeat cycles."""
    rng, n, kinds = stream(shop, "items"), shop.items, len(CATEGORIES)
    ranks = -(-n // kinds)
    weights = (1 + np.arange(ranks)) ** -1.0
    first = np.arange(n) < kinds
    cold = (rng.random(n) < COLD_ITEMS) & ~first
    launch = np.where(cold, (1 - COLD_SPAN * rng.random(n)) * shop.seconds, 0).astype(np.int64)
    is_staple = ((rng.random(n) < 0.3) & ~cold) | first
    cycle = np.where(is_staple, np.array(CYCLES)[rng.integers(len(CYCLES), size=n)], 0)
    price = np.round(np.exp(rng.normal(1.2, 0.6, n)) * (1 + np.arange(n) % kinds / 6), 2)
    staples = tuple(np.flatnonzero((cycle > 0) & (np.arange(n) % kinds == kind)) for kind in range(kinds))
    return Catalogue(rng.permutation(n) + 1, np.cumsum(weights) / weights.sum(), launch, cycle, price, staples)


def item_table(shop: Shop, catalogue: Catalogue) -> pl.DataFrame:
    """Return ``item_id, category, brand, size, price``, sorted by id."""
    rng, n = stream(shop, "items", 1), shop.items
    brand = catalogue.category * 10 + np.minimum(rng.geometric(0.3, n), 9)
    frame = pl.DataFrame(
        {
            "item_id": catalogue.ids,
            "category": np.array(CATEGORIES)[catalogue.category],
            "brand": brand,
            "size": np.array(SIZES)[rng.integers(len(SIZES), size=n)],
            "price": catalogue.price,
        }
    )
    return frame.with_columns(brand=pl.format("brand {}", "brand")).sort("item_id")
