"""Cold start beside warm start: how many steps today's retriever takes with and without yesterday's."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from rich.table import Table

from recsys.config.compose import compose
from recsys.data.dataset import FittedData, fit_data, interaction_log, microseconds
from recsys.data.log import DAY, as_time
from recsys.data.prepare import prepare
from recsys.entries.retriever import tower_inputs, trainer_factory
from recsys.entries.warm import rows_of
from recsys.evaluation.evaluate import ModelResult, evaluate
from recsys.evaluation.significance import paired_difference
from recsys.evaluation.slices import Targets, make_targets
from recsys.evaluation.towers import TowerScorer
from recsys.training.fit import fit_retriever
from recsys.training.warm import WarmStart

QUIET = ("trainer.enable_progress_bar=false", "trainer.enable_model_summary=false", "callbacks=none")


def cold_and_warm(overrides: Sequence[str], days: float) -> dict[str, Any]:
    """Fit as of ``days`` before the validation window, then as of its start: anew, and from the first fit.

    Both fits of the second time know all events before the validation window and are measured there, by users alike.
    """
    cfg = replace(compose("train", [*overrides, *QUIET, f"run_dir={tempfile.gettempdir()}"]), objective=None)
    prepared = prepare(cfg.data)
    log = interaction_log(prepared)
    cut = microseconds(prepared.windows.val_start)
    earlier = fit_data(prepared, log, as_time(cut - int(days * DAY)))
    data = fit_data(prepared, log, prepared.windows.val_start)
    truth = log.between(cut, microseconds(prepared.windows.test_start))
    targets = make_targets(data.log, truth, data.eligible)

    before = fit(cfg, earlier)
    start = WarmStart(
        "the earlier fit", earlier.cut, before["model"].state_dict(), rows_of(cfg, earlier.encoder, data.encoder)
    )
    fits = {"cold": fit(cfg, data), "warm": fit(cfg, data, start)}
    found = {name: measure(cfg, data, targets, one["model"]) for name, one in fits.items()}
    cold, warm = (found[name].per_user["all"]["ndcg_at_20"] for name in ("cold", "warm"))
    unmoved = measure(cfg, data, targets, fit(cfg, data, start, steps=0)["model"])
    return {
        "data": cfg.data.name,
        "days": days,
        "users": len(targets.users),
        "steps": {name: one["steps"] for name, one in fits.items()},
        "seconds": {name: one["seconds"] for name, one in fits.items()},
        "ndcg_at_20": {name: result.metrics["all"]["ndcg_at_20"] for name, result in found.items()}
        | {"unmoved": unmoved.metrics["all"]["ndcg_at_20"]},
        "difference": paired_difference(warm, cold).to_plain(),
    }


def fit(cfg: Any, data: FittedData, start: WarmStart | None = None, steps: int = -1) -> dict[str, Any]:
    """Fit for all epochs of the configuration, or for some steps; returns model, steps and seconds."""
    with tempfile.TemporaryDirectory() as folder:
        begin = perf_counter()
        fitted = fit_retriever(
            data.log,
            data.tables,
            data.eligible,
            tower_inputs(data),
            cfg.model,
            cfg.training,
            trainer_of=lambda **arguments: trainer_factory(cfg, again=True)(max_steps=steps, **arguments),
            folder=Path(folder),
            seed=cfg.seed,
            epochs=cfg.training.max_epochs,
            warm=start,
        )
        seconds = perf_counter() - begin
        saved = Path(folder) / "last.ckpt"
        done = torch.load(saved, weights_only=True)["global_step"] if saved.exists() else 0
    return {"model": fitted.model, "steps": done, "seconds": seconds}


def measure(cfg: Any, data: FittedData, targets: Targets, model: Any) -> ModelResult:
    """Measure a retriever on the validation window."""
    scorer = TowerScorer(model, data.log, data.tables, data.cut, cfg.model.history)
    return evaluate(scorer, targets, (20,), ("all",), cfg.evaluation.chunk_users)


def warm_table(report: dict[str, Any]) -> Table:
    """Return the comparison as a table."""
    table = Table(title=f"{report['data']}: {report['days']:g} days later, on {report['device']}")
    for column in ("fit", "steps", "seconds", "val NDCG@20"):
        table.add_column(column, justify="left" if column == "fit" else "right")
    ndcg = report["ndcg_at_20"]
    for name, title in (("cold", "anew"), ("warm", "from the earlier one")):
        seconds, steps = report["seconds"][name], report["steps"][name]
        table.add_row(title, f"{steps:,}", f"{seconds:.1f}", f"{ndcg[name]:.4f}")
    table.add_row("the earlier one, not fitted on", "0", "", f"{ndcg['unmoved']:.4f}", end_section=True)
    share, gap = report["steps"]["warm"] / report["steps"]["cold"], report["difference"]
    table.add_row("ratio; difference", f"{share:.2f}", "", f"{gap['mean']:+.4f}", style="bold")
    table.caption = (
        f"difference: 95 % interval [{gap['low']:+.4f}, {gap['high']:+.4f}] over {report['users']:,} users; seconds"
        " hold the item factors, which are fitted anew both times"
    )
    return table
