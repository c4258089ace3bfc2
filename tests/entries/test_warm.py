"""Yesterday's bundle for today's fits: rows by value, and nothing that knows the future."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from recsys.data.dataset import fit_data, interaction_log, microseconds
from recsys.entries.retriever import refit
from recsys.entries.train import export
from recsys.entries.warm import warm_start
from recsys.errors import BundleError, ConfigError
from recsys.features import FeatureSpec
from recsys.tracking.run import Run


@pytest.fixture(scope="module")
def bundle(first_stage: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the retriever that knows the events before the test window."""
    cfg, prepared, _, data, towers = first_stage.parts
    return export(cfg, prepared, None, data, towers, None, tmp_path_factory.mktemp("warm") / "bundle", "train_val", {})


def test_rows_are_those_of_the_same_values(first_stage: Any, bundle: Path, tmp_path: Path) -> None:
    cfg, prepared, _, _, towers = first_stage.parts
    cfg = replace(cfg, init_from=str(bundle))
    few = prepared.with_events(prepared.events.filter(pl.col("item_id") >= 10))  # so that ids are other ones
    data = fit_data(few, interaction_log(few), prepared.windows.end)
    start = warm_start(cfg, data)
    assert start is not None
    assert start.cut == microseconds(prepared.windows.test_start)
    old, new = (one.encoder.vocabularies["item_id"].values.to_list() for one in (first_stage.data, data))
    rows = start.rows["item_id"]
    for place, value in enumerate(old):
        assert rows[place + 2] == (new.index(value) + 2 if value in new else 1)
    fitted = refit(replace(cfg, training=replace(cfg.training, warm_rate=1e-9)), data, cfg.model, 1, Run(), tmp_path)
    ours, theirs = fitted.encoder.code.table.weight, towers.encoder.code.table.weight
    for place, value in enumerate(old):
        if value in new:
            torch.testing.assert_close(ours[new.index(value) + 2], theirs[place + 2])


def test_a_fit_does_not_start_from_what_knows_its_future(first_stage: Any, bundle: Path) -> None:
    cfg = replace(first_stage.cfg, init_from=str(bundle))
    for until in (first_stage.prepared.windows.val_start, first_stage.prepared.windows.test_start):
        assert warm_start(cfg, fit_data(first_stage.prepared, first_stage.log, until)) is None
    assert warm_start(first_stage.cfg, first_stage.data) is None


def test_other_features_and_no_bundle_say_so(first_stage: Any, bundle: Path, tmp_path: Path) -> None:
    cfg, prepared, log, _, _ = first_stage.parts
    other = FeatureSpec(tuple(replace(f, min_count=2) if f.name == "kind" else f for f in prepared.spec))
    data = fit_data(replace(prepared, spec=other), log, prepared.windows.end)
    with pytest.raises(ConfigError, match=r"feature 'kind' was .* and is .* now; features must be the same"):
        warm_start(replace(cfg, init_from=str(bundle)), data)
    with pytest.raises(BundleError, match="nowhere"):
        warm_start(replace(cfg, init_from=str(tmp_path / "nowhere")), data)
