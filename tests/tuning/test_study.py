"""Where a study lies, who joins it, and who proposes its trials."""

import socket
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest

from recsys.config.tune import PRUNERS, SAMPLERS, PrunerConfig, SamplerConfig
from recsys.errors import ConfigError, TrackingError
from recsys.tuning import study as studies
from recsys.tuning.study import begin, make_pruner, make_sampler, open_study, quiet, storage_at

SETTINGS: dict[str, Any] = {"model.width": 64, "ranker.hidden": [256, 128], "seed": 42}


@pytest.mark.parametrize("scheme", ["sqlite", "journal"])
def test_a_study_is_made_once_and_joined_after(scheme: str, tmp_path: Path) -> None:
    url = f"{scheme}:///{tmp_path}/study"
    for is_first in (True, False):
        with storage_at(url) as storage:
            study, mine = open_study(storage, "shop", ["maximize", "minimize"], SETTINGS)
            assert mine is is_first
            if mine:
                begin(study, [{"x": 1}, {"x": 2}])
            assert [trial.system_attrs["fixed_params"] for trial in study.trials] == [{"x": 1}, {"x": 2}]
    assert (tmp_path / "study").is_file()


def test_others_wait_for_the_first_trial(tmp_path: Path) -> None:
    with storage_at(f"sqlite:///{tmp_path}/study") as storage:
        study, _ = open_study(storage, "shop", ["maximize"], SETTINGS)
        later = threading.Timer(0.8, begin, (study, [{"x": 1}]))
        later.start()
        start = time.monotonic()
        joined, mine = open_study(storage, "shop", ["maximize"], SETTINGS)
        assert time.monotonic() - start > 0.5
        assert (mine, len(joined.trials)) == (False, 1)
        later.join()


def test_a_study_that_nobody_began_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "START_SECONDS", 0.1)
    with storage_at(f"sqlite:///{tmp_path}/study") as storage:
        open_study(storage, "shop", ["maximize"], {})  # and then its process dies
        _, mine = open_study(storage, "shop", ["maximize"], SETTINGS)
        assert mine


def test_other_settings_are_refused(tmp_path: Path) -> None:
    with storage_at(f"sqlite:///{tmp_path}/study") as storage:
        study, _ = open_study(storage, "shop", ["maximize"], SETTINGS)
        begin(study, [{"x": 1}])
        with pytest.raises(ConfigError, match=r"study=shop: .*model.width was 64, is 32. Repeat its settings, or give"):
            open_study(storage, "shop", ["maximize"], SETTINGS | {"model.width": 32})


def test_a_storage_that_cannot_be_used_is_said_within_seconds(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    urls = [f"sqlite:///{tmp_path}/nowhere/study", f"postgresql://me@127.0.0.1:{port}/db"]
    for url in urls:
        start = time.monotonic()
        with pytest.raises(TrackingError, match=r"the study cannot be kept there"), storage_at(url):
            pass
        assert time.monotonic() - start < 20


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_proposes(name: str) -> None:
    if name == "cmaes":
        pytest.importorskip("cmaes")
    space: dict[str, Any] = {
        "x": optuna.distributions.FloatDistribution(0.0, 1.0),
        "kind": optuna.distributions.CategoricalDistribution(["a", "b"]),
    }
    proposed = []
    for _ in range(2):
        with quiet():
            study = optuna.create_study(direction="maximize", sampler=make_sampler(SamplerConfig(name, 2, 3), seed=1))
            for _ in range(5):
                trial = study.ask(space)
                study.tell(trial, trial.params["x"])
        proposed.append([trial.params for trial in study.trials])
    assert proposed[0] == proposed[1]
    assert len({params["x"] for params in proposed[0]}) >= 4  # a child may have all from one parent


def test_without_a_seed_workers_differ() -> None:
    space: dict[str, Any] = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}
    with quiet():
        values = {
            optuna.create_study(sampler=make_sampler(SamplerConfig(), None)).ask(space).params["x"] for _ in range(3)
        }
    assert len(values) == 3


@pytest.mark.parametrize("name", PRUNERS)
def test_every_pruner_judges(name: str) -> None:
    """The last four of twelve trials are worse than all before, and get worse: some are stopped, but by ``none``."""
    with quiet():
        pruner = make_pruner(PrunerConfig(name, startup=1, patience=1, reduction=2), epochs=8)
        study = optuna.create_study(direction="maximize", sampler=make_sampler(SamplerConfig("random"), 0))
        study.pruner = pruner
        stopped = []
        for number in range(12):
            trial = study.ask()
            is_bad = number >= 8
            for epoch in range(8):
                trial.report(-epoch if is_bad else 10 + epoch + number / 100, epoch)
                if trial.should_prune():
                    stopped.append(number)
                    break
            if number in stopped:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                study.tell(trial, 1.0)
    assert bool({8, 9, 10, 11} & set(stopped)) is (name != "none")
