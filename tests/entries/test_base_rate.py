"""The mean probability of a bundle against the rate of positives: codes that mean something else are found."""

import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from recsys.bundle.format import read_manifest, seal
from recsys.bundle.reader import Bundle
from recsys.config.schema import Config
from recsys.data.dataset import microseconds
from recsys.data.snapshots import Snapshot, of_users, thin_out
from recsys.entries import serving
from recsys.entries.lesson import with_ids
from recsys.entries.rank_window import warn_if_off
from recsys.entries.ranker import SecondStage
from recsys.entries.ranker_fit import fit
from recsys.entries.serving import check_base_rate, check_served, is_off, served
from recsys.entries.snapshots import snapshot
from recsys.entries.train import export
from recsys.errors import BundleError
from recsys.export.bundle import ServedRanker
from recsys.tracking.run import Run
from recsys.training.fit_ranker import predict


@dataclass(frozen=True)
class Shipped:
    """A second stage in memory, how and from what it learned, and the bundle made of it."""

    cfg: Config
    second: ServedRanker
    window: Snapshot
    folder: Path


@pytest.fixture(scope="module")
def shipped(first_stage: Any, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    """Most pairs are of the first kind, which nobody takes; half of the others are taken. Numbers say nothing."""
    cfg, prepared, log, data, towers = first_stage.parts
    # A weight leaves 0 only where much speaks for it: kinds and segments get one, single items and users hardly.
    training = replace(cfg.ranker.training, loss="bce", wide_l1=0.5, wide_learning_rate=0.5)
    cfg = replace(cfg, ranker=replace(cfg.ranker, crosses=[], use_deep=False, training=training))
    folder = tmp_path_factory.mktemp("shipped")
    taken = snapshot(cfg, prepared, log, data, towers, first_stage.plan, data.cut, microseconds(prepared.windows.end))
    chance = torch.Generator().manual_seed(0)
    first = taken.item % 6 == 0
    rows = (first | (torch.rand(len(taken), generator=chance) < 0.04)).nonzero().squeeze(1)
    likes = (~first & (torch.rand(len(taken), generator=chance) < 0.8)).float()[:, None]
    window = replace(
        taken, query=taken.query[rows], item=taken.item[rows], numbers=torch.ones_like(taken.numbers[rows]),
        labels=likes[rows], rate=taken.rate[rows],
    )  # fmt: skip
    window = thin_out(window, 0.8, 0)
    fitted = fit(cfg, data, [window], Run(), folder / "ranker", epochs=20)
    stage = SecondStage(first_stage.plan, (window,), fitted, None)
    second = served(cfg, prepared, log, data, towers, stage, fitted.model)
    bundle = export(cfg, prepared, None, data, towers, second, folder / "bundle", "train_val", {})
    return Shipped(cfg, second, window, bundle)


def permuted(folder: Path, name: str, to: Path) -> Path:
    """The bundle with one vocabulary the other way round."""
    path = Path(shutil.copytree(folder, to)) / "vocabularies" / f"{name}.parquet"
    pl.read_parquet(path).reverse().write_parquet(path)
    return to


def resealed(folder: Path) -> Path:
    """The bundle as if it had been exported so: its fingerprint fits."""
    seal(folder, **read_manifest(folder).content)
    return folder


def test_the_mean_is_that_of_the_ranker_in_memory(
    first_stage: Any, shipped: Shipped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "CHUNK_USERS", 7)
    window = shipped.window
    mean, rate = check_base_rate(Bundle.load(shipped.folder), first_stage.prepared, window)
    weights = 1 / window.rate
    assert weights.unique().tolist() == [1.0, 1.25]
    with torch.no_grad():
        said = shipped.second.ranker.eval()(with_ids(first_stage.data, [window]).features)[:, 1]
    assert mean == pytest.approx(float(weights @ said / weights.sum()), rel=1e-4)
    assert rate == pytest.approx(float(weights @ window.labels[:, 0] / weights.sum()), rel=1e-4)
    assert mean == pytest.approx(rate, rel=0.2)


def test_the_codes_of_a_categorical_permuted_are_caught_by_every_guard(
    first_stage: Any, shipped: Shipped, tmp_path: Path
) -> None:
    _, prepared, log, data, towers = first_stage.parts
    folder = permuted(shipped.folder, "kind", tmp_path / "bundle")
    with pytest.raises(BundleError, match=r"part 'vocabularies/kind\.parquet' was changed"):
        Bundle.load(folder)
    bundle = Bundle.load(resealed(folder))
    with pytest.raises(BundleError, match="get the logit that the ranker gave them in training"):
        check_served(bundle, prepared, log, data, towers, shipped.second, first_stage.cfg.model.history)
    weights = 1 / shipped.window.rate
    rate = float(weights @ shipped.window.labels[:, 0] / weights.sum())
    message = rf"mean probability of 0\.\d+, but the rate of positives .* is {rate:.4g}.*train"
    with pytest.raises(BundleError, match=message):
        check_base_rate(bundle, prepared, shipped.window)


def test_codes_that_were_others_in_the_fit_alone(first_stage: Any, shipped: Shipped, tmp_path: Path) -> None:
    """By all that it is measured by in training the ranker is a good one, and it is served as it was fitted."""
    cfg, prepared, log, data, towers = first_stage.parts
    item = data.tables.item | {"kind": 9 - data.tables.item["kind"]}  # 2 to 7, the other way round
    scrambled = replace(data, tables=replace(data.tables, item=item))
    fitted = fit(shipped.cfg, scrambled, [shipped.window], Run(), tmp_path / "ranker", epochs=20)
    said = predict(fitted.model, with_ids(scrambled, [shipped.window]).features).sigmoid()
    weights = 1 / shipped.window.rate
    mean, rate = (float(weights @ x / weights.sum()) for x in (said, shipped.window.labels[:, 0]))
    assert mean == pytest.approx(rate, rel=0.2)

    second = served(*first_stage.parts, SecondStage(first_stage.plan, (shipped.window,), fitted, None), fitted.model)
    bundle = Bundle.load(export(cfg, prepared, None, data, towers, second, tmp_path / "bundle", "train_val", {}))
    assert check_served(bundle, prepared, log, data, towers, second, cfg.model.history) == 1.0
    with pytest.raises(BundleError, match="mean probability of"):
        check_base_rate(bundle, prepared, shipped.window)


@pytest.mark.parametrize(
    ("mean", "rate", "positives", "expected"),
    [
        (0.1, 0.1, 1000, False),
        (0.21, 0.1, 1000, False),  # 2 and what a count of 1000 leaves open, 6 %
        (0.22, 0.1, 1000, True),
        (0.048, 0.1, 1000, False),
        (0.046, 0.1, 1000, True),
        (0.4, 0.1, 8, False),
        (0.41, 0.1, 8, True),  # 2 * exp(2 / sqrt(8)) = 4.06
        (0.0, 0.1, 8, True),
        (float("nan"), 0.1, 1000, True),
        (0.9, 0.0, 0, False),
    ],
)
def test_what_is_off(mean: float, rate: float, positives: float, expected: bool) -> None:
    assert is_off(mean, rate, positives) == expected


def test_the_test_window_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "recsys.entries.rank_window"):
        warn_if_off({"mean_probability": 0.05, "base_rate": 0.06}, 500)
        assert not caplog.text
        warn_if_off({"mean_probability": 0.05, "base_rate": 0.2}, 500)
    assert "mean probability of the pairs ranked is 0.05, their base rate 0.2" in caplog.text


def test_a_window_without_anybody(first_stage: Any, shipped: Shipped) -> None:
    nobody = of_users(shipped.window, 0, 0)
    assert check_base_rate(Bundle.load(shipped.folder), first_stage.prepared, nobody) == (0.0, 0.0)
