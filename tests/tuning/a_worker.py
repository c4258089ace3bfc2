"""A worker of a study whose trials sleep: ``python a_worker.py STORAGE NAME SECONDS TRIALS``."""

import sys
import time

import optuna

from recsys.config.tune import SamplerConfig
from recsys.tuning.study import begin, make_sampler, open_study, storage_at
from recsys.tuning.worker import Plan, work


def main(url: str, name: str, seconds: str, trials: str) -> None:
    def objective(trial: optuna.Trial) -> list[float]:
        print("began", trial.number, flush=True)
        time.sleep(float(seconds))
        return [trial.params["x"]]

    with storage_at(url) as storage:
        study, is_first = open_study(storage, name, ["maximize"], {"model.width": 64})
        if is_first:
            begin(study, [{"x": 0.5}])
        study.sampler = make_sampler(SamplerConfig(), 7 if is_first else None)
        space = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}
        work(study, space, objective, Plan(int(trials), None, 2, 0.1, 1.0), lambda trial: None)


if __name__ == "__main__":
    main(*sys.argv[1:])
