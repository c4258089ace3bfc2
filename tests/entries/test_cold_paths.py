"""Strangers on the test window: asked without their ids, told nothing from after the cut, and counted right."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from rich.console import Console

from recsys.bundle.format import read_manifest
from recsys.bundle.reader import Bundle
from recsys.config.compose import compose
from recsys.data.dataset import FittedData, fit_data, interaction_log, microseconds
from recsys.data.prepare import prepare
from recsys.data.prepared import Prepared
from recsys.entries.cold_paths import CLICKS, OTHER, ColdPaths, cold_paths, derived, evenly_spaced, last_events
from recsys.evaluation.recommender import Past
from recsys.evaluation.slices import Targets, make_targets
from recsys.segments.fit import fit_segments
from recsys.segments.store import save_segments

NAMES = ("cold_clicks", "cold_attributes", "cold_nothing")


class Window:
    """The test window of the small shop, with its bundle."""

    def __init__(self, trained: Any) -> None:
        overrides = [*trained.data, "debug=does_it_run", "logger=none", f"run_dir={trained.folder}/cold"]
        self.cfg = compose("train", [*overrides, f"data.cache_dir={trained.folder}/prepared"])
        self.prepared: Prepared = prepare(self.cfg.data)
        log = interaction_log(self.prepared)
        self.data: FittedData = fit_data(self.prepared, log, self.prepared.windows.test_start)
        truth = log.between(self.data.cut, microseconds(self.prepared.windows.end))
        self.targets: Targets = make_targets(self.data.log, truth, self.data.eligible)
        self.past = Past(self.data.log, self.data.cut, self.data.tables.item, self.data.eligible)
        self.bundle = Bundle.load(trained.bundle)


@pytest.fixture(scope="module")
def window(trained: Any) -> Window:
    return Window(trained)


@pytest.fixture(scope="module")
def found(window: Window) -> ColdPaths:
    return cold_paths(window.cfg, window.bundle, window.targets, window.past)


def before(window: Window) -> pl.DataFrame:
    return window.prepared.events.filter(pl.col("timestamp") < window.prepared.windows.test_start)


def test_clicks_are_the_last_events_before_the_cut(window: Window) -> None:
    clicks = last_events(window.bundle, window.past, window.targets.users)
    ids = window.prepared.users["user_id"].gather(window.targets.users.numpy())
    for user, events in zip(ids, clicks, strict=True):
        own = before(window).filter(pl.col("user_id") == user).tail(CLICKS)
        assert events == [(*event, None) for event in own.select("item_id", "timestamp").iter_rows()]


def test_clicks_that_are_no_purchases_are_told_as_such(window: Window) -> None:
    history = window.past.history
    views = torch.arange(len(history)) % 3 == 0
    past = replace(window.past, history=replace(history, relevant=~views))
    users = window.targets.users
    kinds = [kind for events in last_events(window.bundle, past, users) for _, _, kind in events]
    last = [
        torch.arange(*ends)[-CLICKS:] for ends in zip(history.offsets[users], history.offsets[users + 1], strict=True)
    ]
    assert kinds == [OTHER if view else None for view in views[torch.cat(last)].tolist()]
    assert OTHER in kinds
    assert None in kinds


def test_ndcg_by_hand(window: Window, found: ColdPaths) -> None:
    """Asked one by one, through the reader, and counted with plain Python."""
    assert [path.name for path in found.paths] == list(NAMES)
    cut, k = window.prepared.windows.test_start, found.k
    after = window.prepared.events.filter(pl.col("timestamp") >= cut)
    taken = {user: set(items) for user, items in after.group_by("user_id").agg("item_id").iter_rows()}
    segments = dict(window.bundle.users.select("user_id", "segment").iter_rows())
    clicks = {
        user: list(zip(items, times, strict=True))
        for user, items, times in before(window)
        .group_by("user_id", maintain_order=True)
        .agg(pl.col("item_id", "timestamp").tail(CLICKS))
        .iter_rows()
    }
    for path in found.paths:
        values = []
        for user, truth in taken.items():
            given: dict[str, Any] = {}
            if path.name == "cold_clicks":
                if user not in clicks:
                    continue
                given = {"histories": [clicks[user]]}
            elif path.name == "cold_attributes":
                given = {"attributes": pl.DataFrame({"segment": [segments[user]]})}
            answer = window.bundle.recommend([None], k, **given)["item_id"].to_list()
            gain = sum(1 / math.log2(place + 2) for place, item in enumerate(answer) if item in truth)
            values.append(gain / sum(1 / math.log2(place + 2) for place in range(min(k, len(truth)))))
        assert path.users == len(values)
        assert path.ndcg == pytest.approx(sum(values) / len(values), abs=2e-3)
        assert path.gain.mean == pytest.approx(path.ndcg - path.rival_ndcg, abs=1e-6)


def test_what_the_bundle_knows_of_them_plays_no_part(window: Window, found: ColdPaths) -> None:
    forgetful = Bundle(window.bundle.folder, window.bundle.manifest)
    forgetful.user_vectors = torch.full_like(forgetful.user_vectors, float("nan"))
    forgetful._user_rows = {}
    assert cold_paths(window.cfg, forgetful, window.targets, window.past) == found
    assert int(window.past.history.time.max()) < window.data.cut


def test_it_is_part_of_the_report(trained: Any, found: ColdPaths, tmp_path: Path) -> None:
    metrics = read_manifest(trained.bundle).metrics
    for name in NAMES:
        for key in ("users", "ndcg_at_20", "recall_at_20", "popular_ndcg_at_20", "difference_ndcg_at_20_low"):
            assert metrics[f"test/{name}/{key}"] == pytest.approx(found.metrics[f"test/{name}/{key}"], abs=1e-6)
    assert "cold start" in trained.output
    assert "attributes alone" in trained.output
    saved = json.loads((trained.folder / "run" / "evaluation" / "cold.json").read_text())
    assert {path["name"] for path in saved["paths"]} >= set(NAMES)
    (path,) = found.save(tmp_path)
    assert path.name == "cold.json"
    found.show(Console(width=100))


def test_none_are_asked_where_none_are_wanted(window: Window, tmp_path: Path) -> None:
    cfg = replace(window.cfg, evaluation=replace(window.cfg.evaluation, cold_users=0))
    nobody = cold_paths(cfg, window.bundle, window.targets, window.past)
    assert (nobody.paths, nobody.metrics, nobody.save(tmp_path)) == ((), {}, [])
    few = replace(window.cfg, evaluation=replace(window.cfg.evaluation, cold_users=7))
    found = cold_paths(few, window.bundle, window.targets, window.past)
    assert max(path.users for path in found.paths) == 7
    assert f"test/cold_nothing/difference_ndcg_at_{found.k}" in found.metrics
    assert all(math.isfinite(value) for value in found.metrics.values())  # bounds need more users
    (path,) = found.save(tmp_path)
    saved = json.loads(path.read_text(), parse_constant=pytest.fail)  # strict JSON knows no Infinity
    assert {one["gain"]["low"] for one in saved["paths"]} == {None}


def test_strangers_are_spread_over_the_users_of_the_window() -> None:
    assert evenly_spaced(10, 4).tolist() == [0, 2, 5, 7]
    assert evenly_spaced(3, 500).tolist() == [0, 1, 2]
    assert evenly_spaced(0, 500).tolist() == []


def test_what_follows_from_a_history_is_not_told(window: Window, tmp_path: Path) -> None:
    """Whatever segments the command is configured with: they are those of the bundle."""
    assert derived(window.bundle) == []
    bundle = Bundle(window.bundle.folder, window.bundle.manifest)
    bundle.folder = tmp_path
    settings = replace(window.cfg.segments, features=["rfm"], kinds=["rfm"])
    save_segments(fit_segments(before(window), window.prepared.users, window.data.cut, settings), tmp_path / "segments")
    assert derived(bundle) == ["segment_rfm"]


def test_people_without_attributes_are_not_asked_by_them(window: Window) -> None:
    bundle = Bundle(window.bundle.folder, window.bundle.manifest)
    bundle.users = bundle.users.with_columns(segment=pl.lit(None, pl.String))
    paths = cold_paths(window.cfg, bundle, window.targets, window.past).paths
    assert [path.name for path in paths] == ["cold_clicks", "cold_nothing"]
    assert torch.isfinite(torch.tensor([path.ndcg for path in paths])).all()
