"""What the ranker reads of ids, by the vocabularies that it is fitted with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from recsys.data.dataset import fit_data
from recsys.data.log import DAY
from recsys.entries.ranker import SecondStage, crosses, fit_again, id_inputs, ranker_ids
from recsys.entries.snapshots import snapshot
from recsys.models.wide import Cross
from recsys.tracking.run import Run
from recsys.training.epochs import Fitted


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
    stage = SecondStage(first_stage.plan, (taken,), Fitted(None, 1, 0.0, ()), None)  # type: ignore[arg-type]
    fewer = replace(prepared, events=prepared.events.filter(prepared.events["item_id"] % 6 != 1))
    other = replace(fit_data(fewer, log, prepared.windows.test_start), cut=cut)
    for data in (first_stage.data, other):
        model = fit_again(first_stage.cfg, data, stage, Run(), tmp_path / str(data is other))
        wanted = {one.name: one.rows for one in id_inputs(data)}
        tables = zip(model.deep.names, model.deep.embeddings, strict=True)
        assert {name: len(next(iter(table.parameters()))) for name, table in tables} == wanted
    assert {one.name: one.rows for one in id_inputs(other)}["kind"] == 2 + 5
