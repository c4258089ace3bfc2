"""``recsys evaluate``: the same numbers as the training run, or one clear message."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recsys.bundle.format import MANIFEST, Manifest, read_manifest
from recsys.bundle.reader import Bundle
from recsys.config.compose import compose
from recsys.config.schema import EvaluateConfig
from recsys.data.prepare import prepare
from recsys.entries import rank_window
from recsys.entries.evaluate import refuse_other_data, run
from recsys.errors import BundleError, ConfigError
from recsys.evaluation.report import metric_dict
from recsys.tracking.server import quiet

pytestmark = pytest.mark.usefixtures("outside")


@pytest.fixture
def config(trained: Any, tmp_path: Path) -> Callable[..., EvaluateConfig]:
    """Compose the verb for the bundle of the trained shop; what is given is added to the overrides."""

    def make(*overrides: str, bundle: str | Path = trained.bundle) -> EvaluateConfig:
        store = f"tracking.uri=sqlite:///{trained.folder}/mlflow.db"
        places = (f"data.cache_dir={trained.folder}/prepared", f"run_dir={tmp_path}/run", f"bundle_uri={bundle}")
        return compose("evaluate", [*trained.data, "debug=does_it_run", store, *places, *overrides])

    return make


def sealed_again(folder: Path, target: Path, **changes: Any) -> Path:
    """A whole bundle like the one in ``folder``, but for what its manifest says."""
    shutil.copytree(folder, target)
    plain = asdict(read_manifest(folder)) | changes
    manifest = Manifest(**(plain | {"fingerprint": Manifest(**plain).digest()}))
    (target / MANIFEST).write_text(json.dumps(asdict(manifest)))
    return target


def test_numbers_of_the_training_run_again(
    config: Callable[..., EvaluateConfig], trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    comparison = run(config(bundle="models:/debug-tables/1"))
    of_training = read_manifest(trained.bundle).metrics
    again = {key: value for key, value in metric_dict(comparison).items() if not key.endswith("_seconds")}
    assert len(again) > 100
    assert again == pytest.approx({key: of_training[key] for key in again}, abs=1e-12)

    shown = capsys.readouterr().out
    assert "whole catalogue" in shown
    assert "models:/debug-tables/1" in shown
    saved = json.loads((tmp_path / "run" / "evaluation" / "comparison.json").read_text())
    assert [row["name"] for row in saved["models"]] == ["wide_deep", "two_tower", "popular", "personal_frequency"]
    with quiet():
        client = MlflowClient(f"sqlite:///{trained.folder}/mlflow.db")
        experiment = client.get_experiment_by_name("debug")
        assert experiment is not None
        logged = client.search_runs([experiment.experiment_id], order_by=["start_time DESC"])[0]
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics["test/ndcg_at_20"] == pytest.approx(of_training["test/ndcg_at_20"])
    assert logged.data.tags["bundle_fingerprint"] == read_manifest(trained.bundle).fingerprint


def test_the_seconds_of_a_ranker_are_those_of_candidates_features_and_ranking(
    config: Callable[..., EvaluateConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of the second stage that strikes a thousand seconds whenever it is looked at."""
    monkeypatch.setattr(rank_window, "time", SimpleNamespace(perf_counter=count(0.0, 1000.0).__next__))
    ranked, retrieved, *_ = run(config("logger=none")).results
    assert ranked.score_seconds == pytest.approx(2000, abs=100)  # one chunk: two spans of the clock
    assert retrieved.score_seconds < 100


def test_some_of_the_users_stand_for_all_where_there_are_many(config: Callable[..., EvaluateConfig]) -> None:
    whole, some = (run(config("logger=none", *more)).results[0] for more in ((), ("evaluation.max_users=7",)))
    assert some.metrics["all"]["users"] == 7
    assert set(some.per_user["all"]["ndcg_at_20"].tolist()) <= set(whole.per_user["all"]["ndcg_at_20"].tolist())


def test_a_bundle_that_has_seen_the_test_window_is_refused(
    config: Callable[..., EvaluateConfig], trained: Any, tmp_path: Path
) -> None:
    served = sealed_again(trained.bundle, tmp_path / "served", fitted_on="all")
    with pytest.raises(BundleError, match=r"fitted_on is 'all' .* has seen the test window"):
        run(config("logger=none", bundle=served))
    assert not (tmp_path / "run").exists()


def test_other_data_are_refused(config: Callable[..., EvaluateConfig], trained: Any, tmp_path: Path) -> None:
    own = read_manifest(trained.bundle).data_fingerprint[:12]
    with pytest.raises(BundleError, match=f"made from prepared data {own}, but this configuration gives"):
        run(config("logger=none", "data.split.test=0.2", f"data.cache_dir={tmp_path}/prepared"))
    assert not (tmp_path / "run").exists()


def test_a_bundle_without_somebody_whom_the_data_have_is_refused(
    config: Callable[..., EvaluateConfig], trained: Any
) -> None:
    """Whoever comes behind the erased would be answered with the vector of another."""
    bundle, prepared = Bundle.load(trained.bundle), prepare(config("logger=none").data)
    refuse_other_data(bundle, "b", prepared)
    everybody = bundle.user_ids
    for some, n in ((everybody.filter(everybody != "u1"), 59), (everybody.reverse(), 60)):
        bundle.user_ids = some
        with pytest.raises(BundleError, match=rf"b: knows {n} users and the data 60, .* recsys erase has taken people"):
            refuse_other_data(bundle, "b", prepared)


def test_variants_belong_to_train(config: Callable[..., EvaluateConfig]) -> None:
    with pytest.raises(ConfigError, match="variants are fitted by recsys train"):
        config("evaluation.variants=[id_only]")


def test_no_bundle(config: Callable[..., EvaluateConfig], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        run(config("logger=none", bundle="nowhere"))
    with pytest.raises(BundleError, match=r"models:/debug-tables/9: not found at tracking server"):
        run(config(bundle="models:/debug-tables/9"))
