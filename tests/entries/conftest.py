"""A shop with everything that events can have, and a retriever that has been fitted on it."""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recsys.config.compose import compose
from recsys.config.schema import Config
from recsys.data.dataset import FittedData, fit_data, interaction_log
from recsys.data.log import InteractionLog
from recsys.data.pair_plan import PairPlan, plan_pairs
from recsys.data.prepare import prepare
from recsys.data.prepared import Prepared
from recsys.entries.retriever import refit
from recsys.models.two_tower import TwoTower
from recsys.tracking.run import Run


@dataclass(frozen=True)
class FirstStage:
    """All that the second stage is built on, as of the start of the test window."""

    cfg: Config
    prepared: Prepared
    log: InteractionLog
    data: FittedData
    towers: TwoTower
    plan: PairPlan

    @property
    def parts(self) -> tuple[Any, ...]:
        """The first arguments of most functions of the second stage."""
        return self.cfg, self.prepared, self.log, self.data, self.towers


@pytest.fixture(scope="session")
def first_stage(tmp_path_factory: pytest.TempPathFactory) -> FirstStage:
    """1,800 events of 40 users in 60 days: what each segment buys is mostly of two kinds of its own."""
    folder = tmp_path_factory.mktemp("first_stage")
    chance = random.Random(0)
    n_users, n_items, n = 40, 48, 1800
    users = [chance.randrange(n_users) for _ in range(n)]
    own = [2 * (u % 3) + chance.randrange(2) if chance.random() < 0.8 else chance.randrange(6) for u in users]
    pl.DataFrame(
        {
            "user_id": [f"u{u:02}" for u in users],
            "item_id": [6 * int(n_items / 6 * chance.random() ** 2) + kind for kind in own],
            "timestamp": [datetime(2024, 1, 1) + timedelta(minutes=48 * i) for i in range(n)],
            "event_type": ["view" if i % 4 == 0 else "buy" for i in range(n)],
            "basket_id": [i // 2 for i in range(n)],
            "quantity": [1 + i % 3 for i in range(n)],
            "value": [2.5 * (1 + i % 3) for i in range(n)],
            "store": [("north", "south")[(u + (i % 5 == 0)) % 2] for i, u in enumerate(users)],
        }
    ).write_parquet(folder / "events.parquet")
    kinds = {"item_id": list(range(n_items)), "kind": [f"k{i % 6}" for i in range(n_items)]}
    pl.DataFrame(kinds).write_parquet(folder / "items.parquet")
    segments = {"user_id": [f"u{u:02}" for u in range(n_users)], "segment": ["abc"[u % 3] for u in range(n_users)]}
    pl.DataFrame(segments).write_parquet(folder / "users.parquet")
    cfg = compose(
        "train",
        [
            *("data=tables", *(f"data.{key}={folder}/{key}.parquet" for key in ("events", "items", "users"))),
            *("data.relevant=[buy]", "data.context=[store]", f"data.cache_dir={folder}/prepared", f"run_dir={folder}"),
            *("debug=does_it_run", "trainer.limit_train_batches=1.0", "trainer.enable_progress_bar=false"),
            "bundle.forms=torchscript",
            *("ranker.cross_buckets=1024", "ranker.id_dropout=0.0", "ranker.dropout=0.0", "ranker.hidden=[16]"),
            *("ranker.training.batch_groups=4", "ranker.training.embedding_learning_rate=0.1"),
            *("ranker.training.learning_rate=0.01", "ranker.training.wide_learning_rate=0.05"),
        ],
    )
    assert isinstance(cfg, Config)
    prepared = prepare(cfg.data)
    log = interaction_log(prepared)
    data = fit_data(prepared, log, prepared.windows.test_start)
    towers = refit(cfg, data, cfg.model, 1, Run(), Path(folder) / "towers")
    plan = plan_pairs(prepared.events, prepared.items, prepared.spec, None, prepared.relevant)
    return FirstStage(cfg, prepared, log, data, towers, plan)
