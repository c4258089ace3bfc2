"""Forecasts of ``recsys plan`` against the real thing."""

import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recsys.config.compose import compose
from recsys.data.batches import MomentBatches
from recsys.data.dataset import fit_data, interaction_log
from recsys.data.log import DAY
from recsys.data.prepare import prepare
from recsys.entries.lesson import with_ids
from recsys.entries.plan import run
from recsys.entries.probe import probe_ranker
from recsys.entries.probe_basis import Basis
from recsys.entries.ranker_fit import crosses, id_inputs
from recsys.entries.retriever import tower_inputs
from recsys.entries.snapshots import snapshot
from recsys.planning.plan import Plan
from recsys.training.fit import make_model
from recsys.training.fit_ranker import make_ranker

pytestmark = pytest.mark.usefixtures("outside")

SMALL = (
    "model.width=16",
    "model.code_width=16",
    "model.history=8",
    "model.factor_width=8",
    "training.batch_moments=64",
)


def sound_events(path: Path, rows: int = 1500) -> Path:
    """Events of a week that can be read in full."""
    chance = random.Random(1)
    columns = {
        "user_id": [f"u{chance.randrange(60)}" for _ in range(rows)],
        "item_id": [f"i{int(80 * chance.random() ** 2)}" for _ in range(rows)],
        "timestamp": [datetime(2024, 1, 1) + timedelta(minutes=7 * i) for i in range(rows)],
    }
    pl.DataFrame(columns).write_parquet(path)
    return path


@pytest.mark.parametrize("prepared_before", [False, True])
def test_numbers_of_a_shop_are_those_of_the_run(prepared_before: bool, tmp_path: Path) -> None:
    """Small tables are their own sample; those of a data set that is prepared are its own."""
    cfg = compose("train", ["data=tables", f"data.events={sound_events(tmp_path / 'events.parquet')}", *SMALL])
    if prepared_before:
        prepare(cfg.data)
    rows = rows_of(run(cfg))
    prepared = prepare(cfg.data)
    log = interaction_log(prepared)
    data = fit_data(prepared, log, prepared.windows.val_start)
    model = make_model(tower_inputs(data), list(data.tables.context), cfg.model, sparse=True)
    assert rows["model", "two-tower"].startswith(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    counts = (
        f"{len(log):,} events of {log.n_users} users and {log.n_items} items, {len(data.log):,} of them to train on"
    )
    assert rows["windows", "size"] == counts
    for name, (start, end) in prepared.windows.bounds().items():
        assert rows["windows", name] == f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
    batches = MomentBatches(
        data.log,
        history=8,
        batch_moments=64,
        epoch_batches=cfg.training.epoch_batches,
        negatives=0,
        moments_per_block=cfg.training.moments_per_block,
    )
    assert f" {len(batches):,} steps and" in rows["forecast", "two-tower"]
    assert ("its numbers are used" in rows["tables", "prepared before"]) == prepared_before


def rows_of(plan: Plan) -> dict[tuple[str, str], str]:
    return {(title, name): text for title, rows in plan.sections.items() for name, text in rows}


def test_parameters_of_the_ranker_are_an_upper_bound(first_stage: Any) -> None:
    """Embeddings and crosses are those of the one that is fitted; some of its numbers have fewer knots."""
    cfg, prepared, log, data, _ = first_stage.parts
    basis = Basis(prepared, log, data, 1.0, log.n_users, log.n_items, len(log))
    found = probe_ranker(cfg, basis, 1, 40)
    until = data.cut + 5 * DAY
    pairs = with_ids(data, [snapshot(*first_stage.parts, first_stage.plan, data.cut, until)])
    real = make_ranker(pairs, cfg.ranker, id_inputs(data), crosses(cfg.ranker, data), sparse=True)
    size = sum(p.numel() for p in real.parameters())
    assert 0.8 * found.size <= size <= found.size
    assert found.parameters["wide part"] >= real.wide.table.weight.numel()
    assert found.steps == 40 // cfg.ranker.training.batch_groups
