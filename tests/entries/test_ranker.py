"""What the ranker reads of ids, by the vocabularies that it is fitted with."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from recsys.data.dataset import data_before, fit_data
from recsys.data.log import DAY
from recsys.entries import ranker
from recsys.entries.cuts import cuts
from recsys.entries.folds import SPREAD, holdout, make_folds, said
from recsys.entries.lesson import TowerTables, lessons, ranker_ids
from recsys.entries.ranker import (
    SecondStage,
    choose_ranker,
    fit_again,
    fit_rankers,
)
from recsys.entries.ranker_fit import crosses, id_inputs, tower_starts
from recsys.entries.retriever import choose_epochs, refit
from recsys.entries.snapshots import snapshot
from recsys.models.embeddings import brought_to
from recsys.models.ranking_losses import spread_within
from recsys.models.wide import Cross
from recsys.tracking.run import Run
from recsys.training import boosting
from recsys.training.boosting import Boosting
from recsys.training.epochs import Fitted
from recsys.training.fit_ranker import predict


def test_ids_are_those_of_items_and_users(first_stage: Any) -> None:
    items, users = ranker_ids(first_stage.data)
    assert list(items) == ["item_id", "kind"]
    assert list(users) == ["user_id", "segment"]
    assert torch.equal(items["kind"], first_stage.data.tables.item["kind"])
    assert len(items["item_id"]) == 48
    assert len(users["segment"]) == 40
    inputs = {one.name: one for one in id_inputs(first_stage.data)}
    assert list(inputs) == ["item_id", "kind", "user_id", "segment"]
    assert (inputs["kind"].rows, inputs["kind"].slots) == (2 + 6, 0)
    assert inputs["segment"].rows == 2 + 3


def test_crosses_by_default_join_the_user_with_each_attribute_of_the_item(first_stage: Any) -> None:
    settings = first_stage.cfg.ranker
    assert crosses(settings, first_stage.data) == (Cross(("user_id", "kind"), 1024),)
    tags = torch.zeros(48, 2, dtype=torch.int64)
    tables = replace(first_stage.data.tables, item=first_stage.data.tables.item | {"kind": tags})
    assert crosses(settings, replace(first_stage.data, tables=tables)) == ()  # a list of values is not crossed


def test_configured_crosses(first_stage: Any) -> None:
    settings = replace(first_stage.cfg.ranker, crosses=[["segment", "kind"], ["user_id", "kind", "segment"]])
    assert crosses(settings, first_stage.data) == (
        Cross(("segment", "kind"), 1024),
        Cross(("user_id", "kind", "segment"), 1024),
    )
    assert crosses(replace(settings, crosses=[]), first_stage.data) == ()


def test_a_ranker_is_fitted_again_with_the_ids_of_other_vocabularies(first_stage: Any, tmp_path: Path) -> None:
    prepared, log = first_stage.prepared, first_stage.log
    cut = first_stage.data.cut
    taken = snapshot(*first_stage.parts, first_stage.plan, cut, cut + 2 * DAY)
    stage = SecondStage(first_stage.plan, (taken,), Fitted(None, 1, 0.0), None)  # type: ignore[arg-type]
    fewer = prepared.with_events(prepared.events.filter(prepared.events["item_id"] % 6 != 1))
    other = replace(fit_data(fewer, log, prepared.windows.test_start), cut=cut)
    for data in (first_stage.data, other):
        model = fit_again(first_stage.cfg, data, stage, Run(), tmp_path / str(data is other))
        wanted = {one.name: one.rows for one in id_inputs(data)}
        tables = zip(model.deep.names, model.deep.embeddings, strict=True)
        assert {name: len(next(iter(table.parameters()))) for name, table in tables} == wanted
    assert {one.name: one.rows for one in id_inputs(other)}["kind"] == 2 + 5


def embedding(model: Any, name: str) -> torch.Tensor:
    return model.deep.embeddings[model.deep.names.index(name)].table.weight.detach()


def test_embeddings_start_from_the_vectors_of_their_values(first_stage: Any, tmp_path: Path) -> None:
    """Towers and ranker of two windows: a code of the one is another value's code of the other."""
    cfg, prepared, log, data, towers = first_stage.parts
    half = prepared.events.filter(pl.col("item_id") % 2 == 1)
    other = replace(fit_data(prepared.with_events(half), log, prepared.windows.test_start), cut=data.cut)
    start = TowerTables(towers.id_tables(), data.encoder)
    assert set(start.tables) == {"item_id", "user_id", "kind", "segment"}

    slow = replace(
        cfg.ranker.training, learning_rate=1e-9, embedding_learning_rate=1e-9, wide_learning_rate=1e-9, max_epochs=1
    )
    cfg = replace(cfg, ranker=replace(cfg.ranker, training=slow))
    taken = snapshot(cfg, *first_stage.parts[1:], first_stage.plan, data.cut, data.cut + 2 * DAY)
    for fitted_with in (data, other):
        stage = SecondStage(first_stage.plan, (taken,), Fitted(None, 1, 0.0), None, start)  # type: ignore[arg-type]
        model = fit_again(cfg, fitted_with, stage, Run(), tmp_path / str(fitted_with is data))
        for name in ("kind", "item_id"):
            mine, theirs = (one.encoder.vocabularies[name].values.to_list() for one in (fitted_with, data))
            places = [theirs.index(value) + 2 for value in mine]
            expected = brought_to(start.tables[name][places], 8, 0.1)
            torch.testing.assert_close(embedding(model, name)[2:], expected, atol=1e-5, rtol=1e-3)
        assert (places == list(range(2, 2 + len(places)))) == (fitted_with is data)
    by_chance = fit_again(cfg, data, replace(stage, start=None), Run(), tmp_path / "chance")
    assert (embedding(by_chance, "kind") - brought_to(start.tables["kind"], 8, 0.1)).abs().max() > 0.05


def test_what_embeddings_start_from_has_not_seen_a_label(first_stage: Any, tmp_path: Path) -> None:
    cfg, prepared, log, _, _ = first_stage.parts
    cfg = replace(cfg, ranker=replace(cfg.ranker, start_from_towers=True, training=replace(cfg.ranker.training)))
    data = fit_data(prepared, log, prepared.windows.val_start)
    first = data_before(data, cuts(cfg, prepared)[0], prepared.has_item_table)
    # The same fits that the choice makes: the seed and the data decide.
    early, towers = (refit(cfg, one, cfg.model, 1, Run(), tmp_path / str(one.cut)) for one in (first, data))
    main, chosen = holdout(prepared, log), Fitted(towers, 1, 0.0)
    tables = early.id_tables()
    stage = choose_ranker(cfg, main, [main], data, chosen, Run(), tmp_path)
    assert stage.start is not None
    assert stage.start.encoder is data.encoder
    for name, table in stage.start.tables.items():
        assert torch.equal(table, tables[name])
        assert not torch.equal(table, towers.id_tables()[name])
    starts = tower_starts(stage.start, data)
    assert list(starts) == ["item_id", "kind", "user_id", "segment"]
    assert all(torch.equal(ids, torch.arange(len(ids))) for ids, _ in starts.values())
    default = choose_ranker(first_stage.cfg, main, [main], data, chosen, Run(), tmp_path / "default")
    assert default.start is None


def test_epochs_are_chosen_on_all_folds(first_stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first fold is for three epochs and the last for two, the mean for two; the ranker is that of two epochs."""
    cfg, prepared, log, _, _ = first_stage.parts
    settings = replace(cfg.ranker, trees=False, training=replace(cfg.ranker.training, max_epochs=3, patience=5))
    cfg = replace(cfg, validation="expanding", folds=2, ranker=settings)
    main, folds = make_folds(cfg, prepared, prepared, log)
    values = iter([0.1, 0.2, 0.3, 0.1, 0.8, 0.2])
    monkeypatch.setattr(ranker, "validator", lambda *_: lambda logits: {cfg.objective.metric: next(values)})
    data, chosen = choose_epochs(cfg, main, [main], cfg.model, Run(), tmp_path)
    stage = choose_ranker(cfg, main, folds, data, chosen, Run(), tmp_path)
    assert list(values) == []  # the last fit is of all that was learned, and is not validated
    assert (stage.fitted.epochs, stage.fitted.best) == (2, pytest.approx(0.5))
    assert stage.fitted.metrics[cfg.objective.metric + SPREAD] == pytest.approx(0.6 / 2**0.5)
    assert stage.fitted.model.training is False
    assert [s.cut for s in stage.snapshots][-1] == data.cut
    assert (tmp_path / "checkpoints" / "fold1_ranker" / "best.ckpt").exists()
    saved = torch.load(tmp_path / "checkpoints" / "ranker" / "last.ckpt", weights_only=True)
    assert saved["epoch"] == 1
    assert said(stage.fitted, cfg.objective).startswith("best of 3 epochs: 2, val/ndcg_at_20 0.5000 ± 0.4243")


def test_trees_join_and_move_the_order_half_as_far_as_the_model(
    first_stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation measures both together; the model, its refit and its parts follow."""
    cfg, prepared, log, _, _ = first_stage.parts
    main = holdout(prepared, log)
    data, chosen = choose_epochs(cfg, main, [main], cfg.model, Run(), tmp_path)
    asked: list[torch.Tensor] = []

    def measure(logits: torch.Tensor) -> dict[str, float]:
        asked.append(logits)
        return {cfg.objective.metric: float(len(asked))}  # the last epoch is the best

    monkeypatch.setattr(ranker, "validator", lambda *_: measure)
    monkeypatch.setattr(boosting, "Boosting", partial(Boosting, leaf_rows=2, rounds=20, threads=1))
    stage = choose_ranker(cfg, main, [main], data, chosen, Run(), tmp_path)
    model = stage.fitted.model
    assert model.has_trees
    assert float(model.tree_share) == pytest.approx(stage.share)
    joined = asked[-1]
    ((_, _, lesson),) = lessons(cfg, main, [main], data, chosen, Run(), tmp_path / "lesson")
    group, scores = lesson.pairs.group, lesson.trees.scores
    plain = joined - stage.share * scores
    assert spread_within(stage.share * scores, group) == pytest.approx(0.5 * spread_within(plain, group), rel=1e-4)
    torch.testing.assert_close(predict(model, lesson.pairs.features), joined, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(lesson.trees.forest(lesson.pairs.features), scores, atol=1e-5, rtol=1e-5)

    rankers = fit_rankers(cfg, data, stage, Run(), tmp_path / "again")
    assert {name: len(model.forest) for name, model in rankers.items()} == {"wide_deep": stage.boosting.rounds}
    assert len(stage.forest) == stage.boosting.rounds
    assert float(rankers["wide_deep"].tree_share) == pytest.approx(stage.share)
