"""What is written about a study."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from rich.console import Console

from recsys.errors import DataError
from recsys.tuning.alive import try_again
from recsys.tuning.report import best_of, save, summarise, table
from recsys.tuning.study import begin, quiet
from recsys.tuning.worker import Plan, work

SPACE: dict[str, Any] = {
    "model.width": optuna.distributions.IntDistribution(1, 9),
    "model.dropout": optuna.distributions.FloatDistribution(0.0, 0.5),
    "ranker.norm": optuna.distributions.CategoricalDistribution(["layer", "none"]),
}
FIRST = {"model.width": 1, "model.dropout": 0.1, "ranker.norm": "layer"}


def made(values: Any, directions: list[str], trials: int = 8) -> optuna.Study:
    """A study whose third trial fails."""
    with quiet():
        study = optuna.create_study(directions=directions, sampler=optuna.samplers.RandomSampler(seed=3))
        study.pruner = optuna.pruners.NopPruner()
        begin(study, [FIRST])

        def objective(trial: optuna.Trial) -> list[float]:
            if trial.number == 2:
                raise ValueError("too wide")
            return values(trial.params)

        work(study, SPACE, objective, Plan(trials, None, 2, 5.0, 60.0), lambda trial: None)
    return study


@pytest.fixture(scope="module")
def one() -> optuna.Study:
    return made(lambda params: [params["model.width"] + params["model.dropout"]], ["maximize"])


def test_summary(one: optuna.Study) -> None:
    found = summarise(one, ["val/ndcg_at_20"])
    assert found["trials"] == {"complete": 7, "fail": 1}
    assert found["failures"] == {"2": "ValueError: too wide"}
    assert found["first"] == {"number": 0, "values": [1.1], "params": FIRST}
    assert found["best"]["values"] == [max(trial.value for trial in one.trials if trial.value is not None)]
    assert max(found["importance"], key=found["importance"].get) == "model.width"
    assert sum(found["importance"].values()) == pytest.approx(1.0)


def test_the_first_trial_is_the_configured_one_however_often_it_was_stopped() -> None:
    with quiet():
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=3))
        begin(study, [FIRST])
        for stop in (1, 2):
            trial = study.ask(SPACE)
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            try_again(study, study.trials[trial.number], stop)
        for value in (0.25, 0.75):  # the second is a proposal
            study.tell(study.ask(SPACE), value)
    found = summarise(study, ["val/ndcg_at_20"])
    assert found["first"] == {"number": 2, "values": [0.25], "params": FIRST}
    assert found["best"]["number"] == 3


def test_files(one: optuna.Study, tmp_path: Path) -> None:
    written = save(one, ["val/ndcg_at_20"], tmp_path / "study")
    names = {path.name for path in written}
    assert names == {
        *("summary.json", "trials.csv", "history.png", "importance.png", "parallel_coordinates.png", "slices.png")
    }
    assert all(path.stat().st_size > 100 for path in written)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "study" / "trials.csv").read_text())))
    assert [row["trial"] for row in rows] == [str(number) for number in range(8)]
    assert rows[2]["reason"] == "ValueError: too wide"
    assert float(rows[0]["val/ndcg_at_20"]) == 1.1
    assert json.loads((tmp_path / "study" / "summary.json").read_text())["best"]["number"] == best_of(one).number


def test_table(one: optuna.Study) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table(one, ["val/ndcg_at_20"]))
    text = console.export_text()
    assert "first, trial 0" in text
    assert f"best, trial {best_of(one).number}" in text
    assert "7 complete, 1 fail; 0 tried again" in text


def test_several_objectives_have_a_front(tmp_path: Path) -> None:
    study = made(lambda params: [params["model.width"], params["model.width"] + params["model.dropout"]],
                 ["maximize", "minimize"])  # fmt: skip
    found = summarise(study, ["val/ndcg_at_20", "milliseconds_a_user"])
    assert len(found["front"]) > 1
    assert found["best"]["values"][0] == max(entry["values"][0] for entry in found["front"])
    assert "front.png" in {path.name for path in save(study, ["val/ndcg_at_20", "milliseconds_a_user"], tmp_path)}


def test_one_trial_is_enough(tmp_path: Path) -> None:
    study = made(lambda params: [1.0], ["maximize"], trials=1)
    assert summarise(study, ["val/ndcg_at_20"])["importance"] == {}
    assert "importance.png" not in {path.name for path in save(study, ["val/ndcg_at_20"], tmp_path)}


def test_a_study_without_a_finished_trial_says_why() -> None:
    def fails(params: dict[str, Any]) -> list[float]:
        raise ValueError("too small")

    with pytest.raises(DataError, match=r"no trial came to its end: ValueError: too small \(2 trials\)"):
        best_of(made(fails, ["maximize"], trials=2))
