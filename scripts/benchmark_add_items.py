"""The newest products held out of training, then added to the bundle: are they found by what they are?"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import polars as pl
import torch
from benchmark_warm import QUIET, fit
from rich.table import Table

from recsys.bundle.format import VOCABULARIES
from recsys.bundle.reader import Bundle
from recsys.columns import ITEM_ID, TIMESTAMP
from recsys.config.compose import compose
from recsys.data.dataset import fit_data, interaction_log, microseconds
from recsys.data.encode import Encoder
from recsys.data.log import InteractionLog
from recsys.data.prepare import prepare
from recsys.data.prepared import Prepared
from recsys.entries.evaluate import BundleScorer
from recsys.entries.train import export
from recsys.evaluation.baselines import Popular
from recsys.evaluation.content import ContentKNN
from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.recommender import Past, Recommender, Scorer
from recsys.evaluation.significance import mean_interval, paired_difference
from recsys.evaluation.slices import Targets, make_targets
from recsys.evaluation.two_stage import PairScorer
from recsys.export.add_items import add_items

KS = (20, 100, 500)
LISTS = ("new products", "whole catalogue")
EXPLORE = 0.1
"""Share of the places of an answer that new products get where it explores."""
OURS, EXPLORING = "add-items", f"add-items, explore={EXPLORE}"
Recall = dict[str, torch.Tensor]
"""Cut-off to one value for each user."""


@dataclass(frozen=True)
class HeldOut:
    """A data set whose newest products are gone, and what is asked about them.

    Attributes:
        shorter: Without the products and all that happened with them.
        products: Their rows of the items' table.
        history: Events before the window without them; items are numbered as in the bundle that they were added to.
        truth: Events of the window with them, numbered likewise.
    """

    shorter: Prepared
    products: pl.DataFrame
    history: InteractionLog
    truth: InteractionLog


def hold_out(prepared: Prepared, share: float, window: str) -> HeldOut:
    """Hold out the share of the products with an event before a window (``val`` or ``test``) that began last."""
    windows = prepared.windows
    begin, end = (windows.val_start, windows.test_start) if window == "val" else (windows.test_start, windows.end)
    events, time = prepared.events, pl.col(TIMESTAMP)
    first = events.filter(time < begin).group_by(ITEM_ID).agg(time.min()).sort(TIMESTAMP, ITEM_ID)
    newest = first.tail(round(share * len(first)))[ITEM_ID]
    is_new = pl.col(ITEM_ID).is_in(newest.implode())
    products = prepared.items.filter(is_new)
    shorter = replace(prepared.with_events(events.filter(~is_new)), items=prepared.items.filter(~is_new))
    renumbered = replace(prepared, items=pl.concat([shorter.items, products]))
    before = renumbered.with_events(events.filter(~is_new & (time < begin)))
    after = renumbered.with_events(events.filter(is_new & (time >= begin) & (time < end)))
    return HeldOut(shorter, products, interaction_log(before), interaction_log(after))


def with_and_without(overrides: Sequence[str], share: float, window: str, keep: Path | None = None) -> dict[str, Any]:
    """Train without the newest products, add them to the bundle, and ask who took them in the window.

    Args:
        overrides: As of ``recsys train``.
        share: Of the products with an event before the window.
        window: ``val`` or ``test``.
        keep: Folder that the two bundles are left in; None: nowhere.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = keep or Path(scratch)
        cfg = compose("train", [*overrides, "ranker=none", *QUIET, f"run_dir={folder}"])
        prepared = prepare(cfg.data)
        held = hold_out(prepared, share, window)
        trained = train(cfg, held.shorter, window, folder / "before")
        start = perf_counter()
        add_items(folder / "before", held.products, folder / "after")
        seconds = perf_counter() - start
        begin = prepared.windows.val_start if window == "val" else prepared.windows.test_start
        found = ask(Bundle.load(folder / "after"), held, microseconds(begin))
    return {
        "data": cfg.data.name,
        "window": window,
        "share": share,
        "products": len(held.products),
        "catalogue": held.history.n_items,
        "train_seconds": trained,
        "add_seconds": seconds,
        **found,
    }


def train(cfg: Any, shorter: Prepared, window: str, folder: Path) -> float:
    """Fit the retriever on what came before the window and export it; returns the seconds."""
    start = perf_counter()
    until = shorter.windows.val_start if window == "val" else shorter.windows.test_start
    data = fit_data(shorter, interaction_log(shorter), until)
    model = fit(replace(cfg, objective=None), data)["model"]
    export(cfg, shorter, None, data, model, None, folder, "train" if window == "val" else "train_val", {})
    return perf_counter() - start


def ask(bundle: Bundle, held: HeldOut, cut: int) -> dict[str, Any]:
    """Measure the bundle beside baselines, in lists of the new products alone and of the whole catalogue."""
    assert bundle.item_ids.to_list()[-len(held.products) :] == held.products[ITEM_ID].to_list()
    n, new = held.history.n_items, len(held.products)
    encoder = Encoder.load(bundle.folder / VOCABULARIES)
    past = Past(held.history, cut, encoder.encode(bundle.items, "item"), torch.ones(n, dtype=torch.bool))
    rivals: list[Recommender] = [ContentKNN(), Popular()]
    for rival in rivals:
        rival.fit(past)
    recall: dict[str, dict[str, Recall]] = {}
    for name, eligible in zip(LISTS, (torch.arange(n) >= n - new, bundle.eligible), strict=True):
        targets = make_targets(held.history, held.truth, eligible)
        recall[name] = {OURS: _recall(BundleScorer(bundle), targets)}
        if name == LISTS[1]:
            recall[name][EXPLORING] = exploring(bundle, held.products[ITEM_ID], targets)
        recall[name] |= {rival.name: _recall(rival, targets) for rival in rivals}
    return {
        "users": len(targets.users),
        "taken": len(targets.truth_keys),
        "recall": {
            name: {
                model: {k: mean_interval(values).to_plain() for k, values in found.items()}
                for model, found in of.items()
            }
            for name, of in recall.items()
        },
        "less_content": {
            name: {
                model: {k: paired_difference(values, of["content_knn"][k]).to_plain() for k, values in found.items()}
                for model, found in of.items()
                if model in (OURS, EXPLORING)
            }
            for name, of in recall.items()
        },
    }


def exploring(bundle: Bundle, new: pl.Series, targets: Targets) -> Recall:
    """Return the recall of answers of k products with a share of the places for the new ones, through the reader."""
    users = bundle.user_ids.gather(targets.users.numpy())
    rows = {item: row for row, item in enumerate(bundle.item_ids.to_list())}
    found: Recall = {}
    for k in KS:
        answer = bundle.recommend(users, k, explore=EXPLORE, explore_among=new)
        rank = torch.from_numpy(answer["rank"].to_numpy().copy())
        item = torch.tensor([rows[i] for i in answer[ITEM_ID]])
        query = (rank == 1).cumsum(0) - 1
        scorer = PairScorer(EXPLORING, targets.n_items, targets.users, query, item, -rank.float())
        found |= _recall(scorer, targets, (k,))
    return found


def _recall(model: Scorer, targets: Targets, ks: Sequence[int] = KS) -> Recall:
    values = evaluate(model, targets, ks, ("all",)).per_user["all"]
    return {str(k): values[f"recall_at_{k}"] for k in ks}


def add_items_table(report: dict[str, Any]) -> Table:
    """Return the comparison as a table."""
    title = f"{report['data']}: {report['products']:,} newest products, {report['window']} window, {report['device']}"
    table = Table(title=title)
    for column in ("among", "model", *(f"Recall@{k}" for k in KS)):
        table.add_column(column, justify="left" if column in ("among", "model") else "right")
    for name in LISTS:
        for model, recall in report["recall"][name].items():
            table.add_row(name, model, *(f"{recall[str(k)]['mean']:.4f}" for k in KS))
        for model, less in report["less_content"][name].items():
            gaps = [f"{gap['mean']:+.4f}\n[{gap['low']:+.4f}, {gap['high']:+.4f}]" for gap in less.values()]
            table.add_row("", f"{model}\nless content_knn", *gaps, style="bold")
        table.add_section()
    table.caption = (
        f"{report['users']:,} users took {report['taken']:,} of them; 95 % paired intervals; add-items took"
        f" {report['add_seconds']:.1f} seconds, with a bundle of {report['catalogue']:,} products"
    )
    return table
