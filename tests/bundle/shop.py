"""A small shop, two towers with the real contract, and the bundle made of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor, nn

from recsys.bundle.format import Manifest, seal
from recsys.bundle.profiles import Profile, write_profiles
from recsys.bundle.reader import Bundle
from recsys.data.encode import Encoder
from recsys.export.bundle import Facts, export_bundle
from recsys.export.changes import copied, whole
from recsys.features import CLOCK_SLOTS, FIRST_ID, Feature, FeatureSpec

CUT = datetime(2024, 3, 1, tzinfo=UTC)
N_USERS, N_ITEMS, HISTORY, WIDTH = 40, 150, 12, 16


class ItemEncoder(nn.Module):
    """Every item feature of the shop, embedded and added."""

    def __init__(self, n_items: int, n_categories: int, n_tags: int) -> None:
        super().__init__()
        self.item = nn.Embedding(n_items, WIDTH, padding_idx=0)
        self.category = nn.Embedding(n_categories, WIDTH, padding_idx=0)
        self.tags = nn.Embedding(n_tags, WIDTH, padding_idx=0)
        self.price = nn.Linear(1, WIDTH)

    def forward(self, f: dict[str, Tensor], prefix: str) -> Tensor:
        price = torch.nan_to_num(f[prefix + "price"]).clamp(-1e3, 1e3).unsqueeze(-1) / 10
        ids = self.item(f[prefix + "item_id"]) + self.category(f[prefix + "category"])
        return ids + self.tags(f[prefix + "tags"]).sum(-2) + self.price(price)


class ItemTower(nn.Module):
    """Item features, popularity and age to a vector of length 1."""

    def __init__(self, items: ItemEncoder) -> None:
        super().__init__()
        self.items = items
        self.asof = nn.Linear(2, WIDTH)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        asof = torch.nan_to_num(torch.stack([features["popularity"], features["age"]], -1))
        return nn.functional.normalize(self.items(features, "") + self.asof(asof), dim=-1)


class UserTower(nn.Module):
    """User, context and an attention over the history to a vector of length 1."""

    def __init__(self, items: ItemEncoder, n_users: int, n_segments: int, n_devices: int) -> None:
        super().__init__()
        self.items = items
        self.user = nn.Embedding(n_users, WIDTH, padding_idx=0)
        self.segment = nn.Embedding(n_segments, WIDTH, padding_idx=0)
        self.device = nn.Embedding(n_devices, WIDTH, padding_idx=0)
        self.clock = nn.Embedding(FIRST_ID + sum(CLOCK_SLOTS), WIDTH, padding_idx=0)
        self.query = nn.Linear(WIDTH, 1)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        past = self.items(features, "history/") + features["history/repeats"].unsqueeze(-1).float() / 5
        weight = self.query(past).squeeze(-1) - torch.log1p(features["history/age"]) / 4
        padded = features["history/item_id"] == 0
        weight = torch.exp(weight).masked_fill(padded, 0.0)
        pooled = (past * weight.unsqueeze(-1)).sum(1) / (weight.sum(1, keepdim=True) + 1e-3)
        who = self.user(features["user_id"]) + self.segment(features["segment"]) + self.device(features["device"])
        when = self.clock(features["timestamp"]).sum(1)
        return nn.functional.normalize(torch.tanh(self.out(pooled + who + when)), dim=-1)


@dataclass(frozen=True)
class Shop:
    """Tables, encoder and towers, as a training run would hold them."""

    users: pl.DataFrame
    items: pl.DataFrame
    events: pl.DataFrame
    encoder: Encoder
    user_tower: nn.Module
    item_tower: nn.Module

    def arguments(self, **changes: Any) -> dict[str, Any]:
        """Return the arguments of ``export_bundle``."""
        n = len(self.items)
        eligible = torch.ones(n, dtype=torch.bool)
        eligible[5] = False
        return {
            "user_tower": self.user_tower, "item_tower": self.item_tower, "encoder": self.encoder,
            "users": self.users, "items": self.items, "events": [self.events.lazy()], "cut": CUT,
            "item_asof": {"popularity": torch.linspace(0, 1, n), "age": torch.linspace(1, 0, n)},
            "eligible": eligible, "history": HISTORY,
            "facts": Facts("shop", {"train_start": "2024-01-01", "test_start": "2024-03-01"}, "train_val",
                           {"test/ndcg_at_20": 0.25}, "abc123"),
            "index": "hnsw", "min_index_recall": 0.99, "forms": "torchscript",
        } | changes  # fmt: skip


def make_shop(seed: int, id_type: type = int) -> Shop:
    """Return a shop with random tables and random weights; nulls, repeats, users without events."""
    torch.manual_seed(seed)
    chance = torch.Generator().manual_seed(seed)

    def draw(high: int, n: int) -> list[int]:
        return torch.randint(high, (n,), generator=chance).tolist()

    user_ids = [id_type(100 + u) for u in range(N_USERS)]
    item_ids = [id_type(1000 + i) for i in range(N_ITEMS)]
    users = pl.DataFrame({"user_id": user_ids, "segment": [None if s == 0 else f"s{s}" for s in draw(4, N_USERS)]})
    items = pl.DataFrame({
        "item_id": item_ids,
        "category": [f"c{c}" for c in draw(6, N_ITEMS)],
        "tags": [None if t == 0 else f"t{t} t{t + 1}" for t in draw(5, N_ITEMS)],
        "price": [None if p == 0 else p / 7 for p in draw(200, N_ITEMS)],
    })  # fmt: skip
    n = 900
    rows = pl.DataFrame({
        "user_id": [user_ids[u] for u in draw(N_USERS - 3, n)],  # the last three users have no events
        "item_id": [item_ids[i // 3] for i in draw(N_ITEMS, n)],
        "timestamp": [CUT + timedelta(hours=h - 1300) for h in draw(1400, n)],  # some lie after the cut
        "device": [f"d{d}" for d in draw(3, n)],
    })  # fmt: skip
    events = rows.with_columns(pl.col("timestamp").dt.cast_time_unit("us")).sort("user_id", "timestamp", "item_id")
    spec = FeatureSpec((
        Feature("user_id", "user", "id"), Feature("segment", "user", "id"), Feature("device", "context", "id"),
        Feature("timestamp", "context", "timestamp"),
        Feature("item_id", "item", "id"), Feature("category", "item", "id"),
        Feature("tags", "item", "multi_id", slots=2), Feature("price", "item", "numeric"),
    ))  # fmt: skip
    encoder = Encoder.fit(spec, events.filter(pl.col("timestamp") < CUT), items, users)
    size = {f.name: encoder.size(f) for f in spec if f.is_categorical}
    shared = ItemEncoder(size["item_id"], size["category"], size["tags"])
    user_tower = UserTower(shared, size["user_id"], size["segment"], size["device"])
    return Shop(users, items, events, encoder, user_tower, ItemTower(shared))


@pytest.fixture(scope="session")
def shop_maker() -> Callable[..., Shop]:
    """Make further shops."""
    return make_shop


@pytest.fixture(scope="session")
def shop() -> Shop:
    """The shop with integer ids."""
    return make_shop(0)


@pytest.fixture(scope="session")
def exported(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """The shop's bundle on disk, with its models in every form; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("exported") / "bundle"
    return folder, export_bundle(folder, **shop.arguments(forms="onnx"))


@pytest.fixture(scope="session")
def bundle(exported: tuple[Path, Manifest]) -> Bundle:
    """The shop's bundle, loaded."""
    return Bundle.load(exported[0])


def write_touchpoints(folder: Path, profiles: Mapping[str, Profile], price: str | None) -> None:
    """Give a bundle other touchpoints; the other parts stay as they are."""
    with copied(folder, folder, whole(folder)) as (beside, content):
        write_profiles(beside, profiles, price)
        seal(beside, **content)
