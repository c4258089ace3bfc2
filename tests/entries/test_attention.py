"""Attention over what a user had last: from the log to the answers of a bundle."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from recsys.bundle.format import read_manifest, seal
from recsys.bundle.reader import Bundle
from recsys.config.schema import Config
from recsys.data.dataset import data_before, interaction_log
from recsys.data.log import DAY, as_time
from recsys.data.snapshots import RankingSet, Snapshot
from recsys.data.topk import NONE
from recsys.entries.lesson import with_ids
from recsys.entries.rank_window import importances
from recsys.entries.ranker import SecondStage
from recsys.entries.ranker_fit import fit
from recsys.entries.serving import check_base_rate, check_served, served
from recsys.entries.snapshots import snapshot
from recsys.entries.train import export
from recsys.errors import BundleError
from recsys.export.bundle import ServedRanker
from recsys.models.explanation import explain
from recsys.tracking.run import Run
from tests.models.trained import as_if_trained

LENGTH = 5
HISTORIES = {"request", "history/age", "history/item_id", "history/kind"}


def attentive(cfg: Config) -> Config:
    return replace(cfg, ranker=replace(cfg.ranker, attention=4, history=LENGTH))


def take(stage: Any, cfg: Config, change: Callable[[pl.DataFrame], pl.DataFrame] = lambda events: events) -> Snapshot:
    """A snapshot of three days, as if other events had been prepared."""
    prepared = stage.prepared.with_events(change(stage.prepared.events))
    log, cut = interaction_log(prepared), stage.data.cut
    return snapshot(cfg, prepared, log, stage.data, stage.towers, stage.plan, cut, cut + 3 * DAY)


@dataclass(frozen=True)
class Shipped:
    """A ranker with attention in memory, what it learned from, and the bundle made of it."""

    second: ServedRanker
    pairs: RankingSet
    folder: Path


@pytest.fixture(scope="module")
def shipped(first_stage: Any, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    _, prepared, log, data, towers = first_stage.parts
    cfg, folder = attentive(first_stage.cfg), tmp_path_factory.mktemp("attentive")
    taken = take(first_stage, cfg)
    fitted = fit(cfg, data, [taken], Run(), folder / "ranker", epochs=1)
    as_if_trained(fitted.model.deep)  # for long: histories matter
    second = served(
        cfg, prepared, log, data, towers, SecondStage(first_stage.plan, (taken,), fitted, None), fitted.model
    )
    every = replace(cfg, bundle=replace(cfg.bundle, forms="torch.export"))
    bundle = export(every, prepared, None, data, towers, second, folder / "bundle", "train_val", {})
    return Shipped(second, with_ids(data, [taken]), bundle)


@pytest.fixture(scope="module")
def bundle(shipped: Shipped) -> Bundle:
    return Bundle.load(shipped.folder)


def test_off_by_default(first_stage: Any) -> None:
    assert first_stage.cfg.ranker.attention == 0
    plain, with_history = (take(first_stage, cfg) for cfg in (first_stage.cfg, attentive(first_stage.cfg)))
    assert plain.recent is None
    read, more = (with_ids(first_stage.data, [taken]).features for taken in (plain, with_history))
    assert set(more) - set(read) == HISTORIES
    for name, values in read.items():
        torch.testing.assert_close(values, more[name], rtol=0, atol=0, equal_nan=True)


def test_histories_are_the_last_items_before_the_cut(first_stage: Any) -> None:
    taken = take(first_stage, attentive(first_stage.cfg))
    people, items = first_stage.prepared.users["user_id"], first_stage.prepared.items["item_id"]
    cut = as_time(first_stage.data.cut)
    past = first_stage.prepared.events.filter(pl.col("timestamp") < cut)
    assert taken.recent is not None
    for place, user in enumerate(people.gather(taken.users)):
        baskets = past.filter(user_id=user).group_by("item_id", "basket_id").agg(pl.col("timestamp").min())
        last = baskets.group_by("item_id").agg(pl.col("timestamp").max())
        last = last.sort("timestamp", "item_id", descending=[True, False]).head(LENGTH)
        found = [int(item) for item in taken.recent.item[place] if item != NONE]
        assert items.gather(found).to_list() == last["item_id"].to_list()
        days = [(cut - when).total_seconds() / 86400 for when in last["timestamp"]]
        assert taken.recent.age[place].tolist()[: len(days)] == pytest.approx(days, rel=1e-5)


def test_nothing_at_or_after_the_cut_matters(first_stage: Any) -> None:
    cfg, after = attentive(first_stage.cfg), pl.col("timestamp") >= as_time(first_stage.data.cut)
    other = (pl.col("item_id") + 5) % 48
    whole = take(first_stage, cfg)
    later = take(first_stage, cfg, lambda e: e.with_columns(pl.when(after).then(other).otherwise("item_id")))
    earlier = take(first_stage, cfg, lambda e: e.with_columns(pl.when(after).then("item_id").otherwise(other)))
    assert whole.recent is not None
    assert later.recent is not None
    assert earlier.recent is not None
    assert torch.equal(whole.recent.item, later.recent.item)
    assert torch.equal(whole.recent.age, later.recent.age)
    assert not torch.equal(whole.labels, later.labels)
    assert not torch.equal(whole.recent.item, earlier.recent.item)


def check(first_stage: Any, shipped: Shipped, folder: Path) -> float:
    _, prepared, log, data, towers = first_stage.parts
    bundle = Bundle.load(folder)
    return check_served(bundle, prepared, log, data, towers, shipped.second, first_stage.cfg.model.history)


def test_what_was_trained_is_what_is_served(first_stage: Any, shipped: Shipped) -> None:
    assert check(first_stage, shipped, shipped.folder) == 1.0


def test_labelled_pairs_keep_their_histories_in_the_bundle(first_stage: Any, shipped: Shipped, bundle: Bundle) -> None:
    """Those of the bundle know what was taken after the cut of the snapshot."""
    prepared, log = first_stage.prepared, first_stage.log
    early = first_stage.data.cut - 6 * DAY
    data = data_before(first_stage.data, early, prepared.has_item_table)
    cfg = attentive(first_stage.cfg)
    window = snapshot(cfg, prepared, log, data, first_stage.towers, first_stage.plan, early, first_stage.data.cut)
    with torch.no_grad():
        said = shipped.second.ranker.eval()(with_ids(first_stage.data, [window]).features)[:, 1]
    window.labels.fill_(float(said.mean()))  # this ranker has learned nothing of use
    mean, _ = check_base_rate(bundle, prepared, window)
    assert mean == pytest.approx(float(said.mean()), rel=1e-4)


def test_another_history_than_in_training_is_refused(first_stage: Any, shipped: Shipped, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shipped.folder, tmp_path / "bundle"))
    state = folder / "ranking" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"history": 1}))
    seal(folder, **read_manifest(folder).content)
    with pytest.raises(BundleError, match="get the logit"):
        check(first_stage, shipped, folder)


@pytest.mark.filterwarnings("ignore")  # of the compiler, about its own internals
def test_every_form_gives_the_logits_of_the_eager_ranker(shipped: Shipped, bundle: Bundle) -> None:
    ranking = bundle.ranking
    assert ranking is not None
    program = torch.export.load(shipped.folder / "ranker.pt2").module()
    for users in (["u00"], ["u00", "u17", "u31", None]):
        requests = bundle.requests(users)
        pairs = ranking.candidates(requests)
        features = ranking.inputs(requests, pairs, torch.arange(len(pairs)))
        assert set(features) >= HISTORIES
        assert features["history/item_id"].shape == (len(users), LENGTH)
        with torch.no_grad():
            eager = shipped.second.ranker.eval()(features)
        torch.testing.assert_close(ranking.run(features), eager)
        torch.testing.assert_close(program(features), eager)
        without = features | {"history/item_id": torch.zeros_like(features["history/item_id"])}
        assert (ranking.run(without) - eager).abs().max() > 1e-3
    signature = bundle.manifest.signatures["ranker"]
    assert signature["history/item_id"] == {"dtype": "int64", "shape": ["R", "L"]}
    assert signature["request"] == {"dtype": "int64", "shape": ["B"]}
    proven = json.loads((shipped.folder / "parity.json").read_text())["cases"]
    assert {case["form"] for case in proven if case["tower"] == "ranker"} == {"torchscript", "torch.export"}


def test_pairs_are_scored_the_same_in_pieces(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    ranking = bundle.ranking
    assert ranking is not None
    requests = bundle.requests(["u00", "u17", None, "u31"])
    pairs = ranking.candidates(requests)
    whole = ranking.score(requests, pairs)
    alone = pairs.query == 3
    monkeypatch.setattr("recsys.bundle.ranking.CHUNK", 37)
    torch.testing.assert_close(ranking.score(requests, pairs), whole)
    request = bundle.requests(["u31"])
    torch.testing.assert_close(ranking.score(request, ranking.candidates(request)), whole[alone])


def test_fresh_events_come_first(bundle: Bundle) -> None:
    known, told = bundle.requests(["u00"]), bundle.requests(["u00", None], [[7, 30, 7], [12]])
    assert known.recent is not None
    assert told.recent is not None
    assert told.recent.item[0, :2].tolist() == [7, 30]  # of one time, by row
    assert told.recent.age[0, :2].tolist() == pytest.approx([0, 0], abs=1e-6)
    before = [item for item in known.recent.item[0].tolist() if item not in (7, 30)]
    assert told.recent.item[0, 2:].tolist() == before[: LENGTH - 2]
    assert told.recent.item[1].tolist() == [12] + [NONE] * (LENGTH - 1)


def test_it_answers_everybody(bundle: Bundle) -> None:
    assert bundle.check_sample() > 0
    answer = bundle.recommend(["u00", "nobody", None], k=6, histories=[None, [3, 4], None])
    assert len(answer) == 18
    assert answer["score"].is_between(0, 1).all()


def test_what_the_history_is_worth(first_stage: Any, shipped: Shipped, bundle: Bundle) -> None:
    ranking = bundle.ranking
    assert ranking is not None
    features, queries, labels = [], [], []
    for start in (0, 20):
        requests = bundle.requests(bundle.user_ids.slice(start, 20))
        pairs = ranking.candidates(requests)
        features.append(ranking.inputs(requests, pairs, torch.arange(len(pairs))))
        queries.append(pairs.query + start)
        labels.append((pairs.item % 6 == pairs.query % 3).float())
    cfg = replace(first_stage.cfg, evaluation=replace(first_stage.cfg.evaluation, importance=40))
    found = {row.name: row for row in importances(ranking, features, torch.cat(labels), torch.cat(queries), cfg)}
    assert found["history"].features == ("history",)
    assert found["history"].loss != 0
    assert not any("request" in name or "/" in name for name in found)
    assert "history" not in found["ids (4)"].features

    one = {name: values[:1] for name, values in features[0].items()}
    nothing = {n: torch.tensor(0) for n, x in one.items() if not x.is_floating_point()}
    (explained,) = explain(ranking.model, one, ranking.typical | nothing)
    (moved,) = [entry for entry in explained.contributions if entry.name == "history"]
    assert moved.amount != 0
    assert explained.logit == pytest.approx(float(ranking.run(one)[0, 0]), abs=1e-5)
