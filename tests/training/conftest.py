"""A little shop with something to learn: every user buys from one brand, again and again."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from recsys.data.log import DAY, InteractionLog
from recsys.data.tables import FeatureTables
from recsys.models.embeddings import FeatureInput
from recsys.models.tower_shape import TowerInputs

USERS, BRANDS, PER_BRAND = 24, 4, 8
START = 1_704_067_200_000_000


@dataclass(frozen=True)
class LittleShop:
    """What ``fit_retriever`` takes; ``future`` is what comes after the cut."""

    log: InteractionLog
    future: InteractionLog
    cut: int
    tables: FeatureTables
    inputs: TowerInputs


@pytest.fixture(scope="session")
def little(log_of: Callable[..., InteractionLog]) -> LittleShop:
    """24 users, 32 items of 4 brands, some 600 events on 100 days before the cut and a basket after it."""
    chance = torch.Generator().manual_seed(0)

    def draw(high: int) -> int:
        return int(torch.randint(high, (1,), generator=chance))

    rows = []
    for user in range(USERS):
        for visit in range(13):
            time = START + (visit * 8 + draw(8)) * DAY + draw(20) * DAY // 24
            for _ in range(1 + draw(3)):
                brand = user % BRANDS if draw(10) else draw(BRANDS)
                rows.append((user, brand * PER_BRAND + draw(PER_BRAND), time, visit if draw(2) else None, draw(12) > 0))
    n_items = BRANDS * PER_BRAND
    everything, cut = log_of(rows, USERS, n_items), START + 96 * DAY
    log = everything.between(None, cut)
    item, user, events = torch.arange(n_items), torch.arange(USERS), len(log)
    tables = FeatureTables(
        item={
            "item_id": item + 2,
            "brand": item // PER_BRAND + 2,
            "words": torch.randint(0, 20, (n_items, 3), generator=chance),
            "price": torch.where(item % 5 == 0, float("nan"), item.float()),
        },
        user={"user_id": user + 2, "income": torch.where(user % 4 == 0, float("nan"), user.float())},
        context={
            "store": torch.randint(2, 5, (events,), generator=chance),
            "clock": torch.randint(2, 45, (events, 3), generator=chance),
        },
    )
    inputs = TowerInputs(
        item_rows=n_items + 2,
        user_rows=USERS + 2,
        item=(FeatureInput("brand", BRANDS + 2), FeatureInput("words", 20), FeatureInput("price", 0, 16.0, 12.0)),
        user=(FeatureInput("income", 0, 12.0, 9.0), FeatureInput("store", 5), FeatureInput("clock", 45)),
    )
    return LittleShop(log, everything.between(cut, None), cut, tables, inputs)
