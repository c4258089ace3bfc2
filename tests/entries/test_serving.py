"""A bundle answers as its ranker was trained, or is refused."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from recsys.bundle.format import read_manifest, seal
from recsys.bundle.reader import Bundle
from recsys.data.dataset import microseconds
from recsys.data.pair_plan import PairPlan
from recsys.entries.ranker import SecondStage
from recsys.entries.ranker_fit import fit
from recsys.entries.serving import check_served, served
from recsys.entries.snapshots import pair_plan, snapshot
from recsys.entries.train import export
from recsys.errors import BundleError
from recsys.export.bundle import ServedRanker
from recsys.tracking.run import Run


@dataclass(frozen=True)
class Shipped:
    """A second stage in memory, and the bundle made of it."""

    second: ServedRanker
    stage: SecondStage
    folder: Path


def ship(first_stage: Any, plan: PairPlan, folder: Path) -> Shipped:
    cfg, prepared, log, data, towers = first_stage.parts
    taken = snapshot(cfg, prepared, log, data, towers, plan, data.cut, microseconds(prepared.windows.end))
    fitted = fit(cfg, data, [taken], Run(), folder / "ranker", epochs=3)
    stage = SecondStage(plan, (taken,), fitted, None)
    second = served(cfg, prepared, log, data, towers, stage, fitted.model)
    bundle = export(cfg, prepared, None, data, towers, second, folder / "bundle", "train_val", {})
    return Shipped(second, stage, bundle)


@pytest.fixture(scope="module")
def shipped(first_stage: Any, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    """A ranker that has learned what the segments buy."""
    return ship(first_stage, first_stage.plan, tmp_path_factory.mktemp("shipped"))


def check(first_stage: Any, shipped: Shipped, folder: Path) -> float:
    _, prepared, log, data, towers = first_stage.parts
    bundle = Bundle.load(folder)
    return check_served(bundle, prepared, log, data, towers, shipped.second, first_stage.cfg.model.history)


def test_what_was_trained_is_what_is_served(first_stage: Any, shipped: Shipped) -> None:
    assert check(first_stage, shipped, shipped.folder) == 1.0


def test_sessions_are_served_as_they_were_trained(first_stage: Any, tmp_path: Path) -> None:
    cfg = replace(first_stage.cfg, ranker=replace(first_stage.cfg.ranker, sessions=True))
    plan = pair_plan(cfg, first_stage.prepared)
    shipped = ship(first_stage, plan, tmp_path)
    assert check(first_stage, shipped, shipped.folder) == 1.0
    bundle = Bundle.load(shipped.folder)
    assert bundle.ranking is not None
    assert bundle.ranking.state.plan == plan
    requests = bundle.requests(bundle.user_ids)
    found = bundle.ranking.candidates(requests)
    assert (found.numbers[:, found.names.index("user_sessions")] > 1).any()


def test_the_probability_of_a_ranker_without_calibration_is_the_sigmoid(shipped: Shipped) -> None:
    bundle = Bundle.load(shipped.folder)
    assert bundle.ranking is not None
    requests = bundle.requests(bundle.user_ids.head(5))
    scores = bundle.ranking.score(requests, bundle.ranking.candidates(requests))
    torch.testing.assert_close(scores[:, 1], scores[:, 0].sigmoid())


def test_typical_values_are_medians_of_training_pairs(shipped: Shipped) -> None:
    bundle = Bundle.load(shipped.folder)
    assert bundle.ranking is not None
    last = shipped.stage.snapshots[-1]
    typical = bundle.ranking.typical
    assert set(typical) == set(last.names)
    for place, name in enumerate(last.names):
        torch.testing.assert_close(typical[name], last.numbers[:, place].nanmedian(), equal_nan=True, msg=name)


def test_the_whole_past_is_stored_with_what_features_read(first_stage: Any, shipped: Shipped) -> None:
    stored = pl.read_parquet(shipped.folder / "histories.parquet")
    past = first_stage.prepared.events.filter(pl.col("timestamp") < first_stage.prepared.windows.test_start)
    columns = ["basket_id", "event_type", "quantity", "value"]
    assert stored.columns == ["user_row", "item_row", "timestamp", *columns, "repeats", "taken"]
    assert_frame_equal(stored.select("timestamp", *columns), past.select("timestamp", *columns))


def test_what_a_request_tells_of_its_types_is_what_it_would_be_if_it_were_stored(shipped: Shipped) -> None:
    """A view is no purchase: to the features of pairs, and to what is left out because the user has had it."""
    bundle = Bundle.load(shipped.folder)
    stored = pl.read_parquet(shipped.folder / "histories.parquet")
    kinds = stored.group_by("user_row").agg(pl.col("event_type").n_unique()).filter(event_type=2)
    row = int(kinds["user_row"].min())  # type: ignore[arg-type]
    own = stored.filter(user_row=row)
    items = bundle.item_ids.gather(own["item_row"]).to_list()
    with_types = [[*zip(items, own["timestamp"], own["event_type"], strict=True)]]
    without = [[*zip(items, own["timestamp"], strict=True)]]

    def counts(users: list[Any], histories: Any = None) -> dict[int, tuple[float, float]]:
        assert bundle.ranking is not None
        found = bundle.ranking.candidates(bundle.requests(users, histories))
        names = [found.names.index(name) for name in ("pair_other_count", "user_others_28d")]
        return dict(zip(found.item.tolist(), map(tuple, found.numbers[:, names].tolist()), strict=True))

    known, told, untold = counts([bundle.user_ids[row]]), counts([None], with_types), counts([None], without)
    both = known.keys() & told.keys() & untold.keys()
    assert {item: known[item] for item in both} == {item: told[item] for item in both}
    assert any(known[item][0] > 0 for item in both)
    assert {untold[item] for item in both} == {(0.0, 0.0)}

    bought = set(bundle.item_ids.gather(own.filter(event_type="buy")["item_row"]))
    assert set(items) - bought
    for users, histories in (([bundle.user_ids[row]], None), ([None], with_types)):
        answer = bundle.recommend(users, len(bundle.item_ids), histories, exclude_seen=True)
        assert set(bundle.item_ids) - set(answer["item_id"]) == bought


@pytest.mark.parametrize("name", ["kind", "segment", "item_id"])
def test_the_codes_of_one_categorical_permuted(first_stage: Any, shipped: Shipped, name: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shipped.folder, tmp_path / "bundle"))
    path = folder / "vocabularies" / f"{name}.parquet"
    values = pl.read_parquet(path)
    values.reverse().write_parquet(path)
    with pytest.raises(BundleError, match=rf"part 'vocabularies/{name}\.parquet' was changed"):
        Bundle.load(folder)

    seal(folder, **read_manifest(folder).content)
    answer = Bundle.load(folder).recommend(k=5)  # it loads, and its answers look like answers
    assert answer["score"].is_between(0, 1).all()
    with pytest.raises(BundleError, match=r"only \d+\.\d% of \d+ pairs of 32 users get the logit"):
        check(first_stage, shipped, folder)


def test_events_that_the_ranker_was_not_fitted_with(first_stage: Any, shipped: Shipped, tmp_path: Path) -> None:
    stored = shutil.copytree(shipped.folder, tmp_path / "bundle") / "histories.parquet"
    pl.read_parquet(stored).filter(pl.col("item_row") % 6 > 0).write_parquet(stored)
    seal(stored.parent, **read_manifest(stored.parent).content)
    with pytest.raises(BundleError, match="get the logit"):
        check(first_stage, shipped, stored.parent)
