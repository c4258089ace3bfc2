"""Promotion through a real registry: a first version, a worse one, one that breaks a guard rail, and the way back."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import mlflow
import pytest
import torch
from torch import Tensor, nn

from recsys.bundle import format as part
from recsys.bundle.format import read_manifest, seal
from recsys.bundle.parts import read_tower
from recsys.bundle.reader import Bundle
from recsys.bundle.sample import golden_sample
from recsys.config.compose import compose
from recsys.entries import promote, rollback
from recsys.errors import RecsysError
from recsys.export.parity import save_script, script
from recsys.tracking.registry import register_bundle
from recsys.tracking.server import quiet

NAME = "recsys-gate"


class Reversed(nn.Module):
    """A ranker that says the contrary of another."""

    def __init__(self, ranker: Any) -> None:
        super().__init__()
        self.ranker = ranker

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        logit = -self.ranker(features)[:, 0]
        return torch.stack([logit, torch.sigmoid(logit)], 1)


def contrary(bundle: Path, folder: Path) -> Path:
    """A whole bundle that orders every user's candidates the other way round."""
    shutil.copytree(bundle, folder)
    save_script(script(Reversed(read_tower(folder / part.RANKER))), folder / part.RANKER)
    content = read_manifest(folder).content
    sample = golden_sample(Bundle(folder, seal(folder, **content)))
    (folder / part.SAMPLE).write_text(json.dumps(sample))
    seal(folder, **content)
    return folder


@pytest.fixture
def registry(trained: Any, new_store: Callable[[Path], str], tmp_path: Path, outside: Path) -> Any:
    """A registry of its own, and a way to register a bundle there."""
    uri = new_store(tmp_path / "gate.db")
    mlflow.set_tracking_uri(uri)
    with quiet():
        experiment = mlflow.create_experiment("gate", artifact_location=(tmp_path / "artifacts").as_uri())

    def register(bundle: Path) -> str:
        with quiet(), mlflow.start_run(experiment_id=experiment):
            return f"models:/{NAME}/{register_bundle(bundle, NAME)[0]}"

    def decide(candidate: str, *overrides: str) -> Any:
        data = [*trained.data, f"data.cache_dir={trained.folder}/prepared"]
        own = [f"candidate={candidate}", f"tracking.uri={uri}", "debug=does_it_run", "gate.requests=5"]
        loose = ["gate.max_latency=null", "gate.max_calibration_error=null"]
        return promote.run(compose("promote", [*data, *own, *loose, f"run_dir={tmp_path}/run", *overrides]))

    register.decide, register.uri = decide, uri  # type: ignore[attr-defined]
    return register


def champion() -> int:
    with quiet():
        return int(mlflow.MlflowClient().get_registered_model(NAME).aliases["champion"])


def told(version: str) -> dict[str, str]:
    with quiet():
        return dict(mlflow.MlflowClient().get_model_version(NAME, version).tags)


@pytest.mark.slow
def test_who_serves_and_why(registry: Any, trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = registry(trained.bundle)
    assert registry.decide(first).granted  # no champion yet
    assert champion() == 1

    worse = registry(contrary(trained.bundle, tmp_path / "contrary"))
    with pytest.raises(SystemExit) as stopped:
        registry.decide(worse)
    assert stopped.value.code == 3
    assert champion() == 1
    decision = json.loads((tmp_path / "run" / "decision.json").read_text())
    assert not decision["granted"]
    assert "NDCG@20 all" in decision["why"]
    assert decision["champion"] == f"models:/{NAME}/1"
    assert told("2")["promotion"] == "refused"
    assert told("2")["promotion_why"] == decision["why"][:500]
    assert "refused" in (tmp_path / "run" / "decision.md").read_text()

    third = registry(trained.bundle)
    with pytest.raises(SystemExit):
        registry.decide(third, "gate.max_size=0.5")
    assert champion() == 1
    assert "size" in told("3")["promotion_why"]
    assert registry.decide(third).granted
    assert champion() == 3
    assert "granted: models:/recsys-gate@champion is models:/recsys-gate/3" in capsys.readouterr().out

    back = compose("rollback", [f"name={NAME}", f"tracking_uri={registry.uri}"])
    assert rollback.run(back) == 1
    assert champion() == 1
    with pytest.raises(RecsysError, match="nothing to go back to"):
        rollback.run(back)
    assert champion() == 1


@pytest.mark.slow
def test_another_champion_while_a_candidate_is_measured(
    registry: Any, trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate, measure = registry(trained.bundle), promote.measure

    def overtaken(*asked: Any) -> Any:
        with quiet():
            mlflow.MlflowClient().set_registered_model_alias(NAME, "champion", "1")
        return measure(*asked)

    monkeypatch.setattr(promote, "measure", overtaken)
    with pytest.raises(RecsysError, match="the champion changed meanwhile"):
        registry.decide(candidate)
    assert "promotion" not in told("1")
    assert not (tmp_path / "run" / "decision.json").exists()


def test_what_a_bundle_does_not_name_is_no_answer(trained: Any) -> None:
    bundle = Bundle.load(trained.bundle)
    ids, few = bundle.user_ids[:2], bundle.item_ids[-3:]
    answer = bundle.recommend(ids, 3, allow=few)
    asked = SimpleNamespace(bundle=bundle, ask=lambda some: answer.filter(answer["user_id"].is_in(some.implode())))
    prepared = SimpleNamespace(items=few.rename("item_id").to_frame().vstack(bundle.item_ids[:-3].to_frame("item_id")))
    targets: Any = SimpleNamespace(n_items=len(bundle.item_ids), users=torch.arange(2))
    scores = promote.Answers("a", cast("Any", asked), ids, cast("Any", prepared), targets).scorer.scores(
        torch.arange(2)
    )
    assert (scores[:, 3:] == -torch.inf).all()
    assert (scores[:, :3] > -torch.inf).all()


def test_what_cannot_be_promoted(registry: Any, trained: Any) -> None:
    with pytest.raises(RecsysError, match="models:/NAME/VERSION"):
        registry.decide(str(trained.bundle))
    with pytest.raises(RecsysError, match="recsys-gate"):
        registry.decide(f"models:/{NAME}/1")
