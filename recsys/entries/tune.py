"""``recsys tune``: a search space in; trials on the validation window; the best as a file for ``recsys train`` out.

Any number of processes with the same ``study`` and ``storage`` share the trials. The test window is not there: trials
get data that end where it begins.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.config.schema import Config
from recsys.config.tune import LATENCY, TuneConfig

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial
    from rich.console import Console

    from recsys.entries.trial import Bench
    from recsys.tracking.run import Run
    from recsys.tuning.study import Direction
    from recsys.tuning.worker import Objective

MACHINE = ("default_root_dir", "accelerator", "devices", "num_nodes", "profiler", "log_every_n_steps")
"""Arguments of the Trainer that workers of one study may have of their own, beside those of what is shown."""
IN_BEST = (
    "data", "model", "training", "ranker", "segments", "objective", "validation", "folds", "seed", "init_from",
    "trainer",
)  # fmt: skip
"""Groups whose differences from the defaults of ``recsys train`` belong into the file of the best."""


def run(cfg: TuneConfig) -> "Study":
    """Work on a study until its budget is spent, and write what it found.

    Raises:
        RecsysError: Data, configuration, storage or tracking server cannot be used, or no trial came to its end.
        SystemExit: Ctrl-C or SIGTERM, with 128 + signal; the same command goes on with the study.
    """
    from rich.console import Console

    from recsys.config.search import with_values
    from recsys.data.dataset import require_judged
    from recsys.data.prepare import prepare
    from recsys.data.sources import check_paths
    from recsys.entries.cuts import require_labels
    from recsys.entries.prepare import note_access
    from recsys.entries.snapshots import refuse_unknown
    from recsys.entries.train import run as train
    from recsys.entries.trial import make_bench
    from recsys.tracking.run import start_run
    from recsys.tracking.server import connect
    from recsys.tuning.report import best_of
    from recsys.tuning.space import distributions, values_of
    from recsys.tuning.study import make_pruner, make_sampler, open_study, storage_at
    from recsys.tuning.worker import Plan, work

    console, folder = Console(), Path(cfg.run_dir)
    check_paths(cfg.data)  # a mistyped path shall not leave a run, or even a store, behind
    if cfg.tracking.enabled:
        # nor shall a server that is away leave a study without trials
        connect(cfg.tracking.uri, may_be_away=cfg.tracking.allow_offline)
    trial_cfg = for_trials(cfg)
    objectives = [cfg.objective.metric, *cfg.also]
    prepared = prepare(cfg.data)
    note_access(cfg, prepared, "tune")
    require_judged(prepared, "train", "val")
    bench, points = make_bench(prepared), first_points(trial_cfg)
    if trial_cfg.ranker.enabled:
        refuse_unknown(trial_cfg, bench.prepared)  # it would fail in every trial
        require_labels(trial_cfg, bench.prepared)
    trials = cfg.trials if cfg.sampler.name != "grid" else min(cfg.trials or len(points), len(points))
    plan = Plan(trials, cfg.minutes, cfg.retries, cfg.heartbeat_seconds, cfg.grace_seconds)
    with storage_at(cfg.storage) as storage:
        study, is_first = open_study(storage, cfg.study, directions(cfg), settings(trial_cfg, prepared.fingerprint))
        study.sampler = make_sampler(cfg.sampler, cfg.seed if is_first else None)
        study.pruner = make_pruner(cfg.pruner, most_epochs(trial_cfg))
        with start_run(cfg.tracking, folder, shared_run(study, cfg)) as tracked, on_device(trial_cfg) as placed:
            join(study, placed, tracked, prepared, points if is_first else [])
            console.rule(f"study {cfg.study}: {cfg.objective.metric} on the validation window")
            objective = objective_of(placed, bench, tracked, folder / "trials")
            try:
                work(study, distributions(placed, cfg.search), objective, plan, teller(console, tracked, objectives))
            except (SystemExit, KeyboardInterrupt):
                console.print(f"stopped; the same command goes on with study '{cfg.study}' at {cfg.storage}")
                raise
            best = with_values(cfg, values_of(best_of(study).params, cfg.search))
            finish(study, best, objectives, tracked, folder, console)
        if cfg.final_fit:
            train(replace(as_config(best), run_dir=str(folder / "final")))
    return study


def for_trials(cfg: TuneConfig) -> TuneConfig:
    """Return the configuration of trials: without ranker, where none of its keys is searched."""
    searched = any(key.startswith("ranker.") for key in cfg.search)
    return replace(cfg, ranker=replace(cfg.ranker, enabled=searched))


def directions(cfg: TuneConfig) -> "list[Direction]":
    """Return where each objective shall go: metrics up, time down."""
    return ["maximize", *("minimize" if name == LATENCY else "maximize" for name in cfg.also)]


def settings(cfg: TuneConfig, fingerprint: str) -> dict[str, Any]:
    """Return what all trials of a study have in common, as flat JSON data: other settings, other study."""
    from recsys.tracking.names import flatten

    groups = ("model", "training", "ranker", "segments", "objective")
    common: dict[str, Any] = {name: asdict(getattr(cfg, name)) for name in groups}
    common |= {"data": {"fingerprint": fingerprint, "sessions": asdict(cfg.data.sessions)}, "seed": cfg.seed}
    common |= {"validation": cfg.validation, "folds": cfg.folds, "init_from": cfg.init_from}
    common |= {"trainer": {k: v for k, v in cfg.trainer.items() if matters(k)}}
    flat = flatten(common) | {"also": cfg.also}
    flat |= {f"search.{key}": asdict(spread) for key, spread in cfg.search.items()}
    return json.loads(json.dumps(flat, default=str))


def matters(argument: str) -> bool:
    """Return whether an argument of the Trainer changes what is fitted, not where and how it is shown."""
    return argument not in MACHINE and not argument.startswith("enable_")


def first_points(cfg: TuneConfig) -> list[dict[str, Any]]:
    """Return the parameters of the trials to begin with: the configured ones, and after them those of a grid."""
    from recsys.tuning.space import configured, grid

    rest = grid(cfg, cfg.search) if cfg.sampler.name == "grid" else []
    return [configured(cfg, cfg.search), *rest]


def most_epochs(cfg: TuneConfig) -> int:
    """Return how many epochs a trial may take."""
    key = "ranker.training.max_epochs" if cfg.ranker.enabled else "training.max_epochs"
    own = cfg.ranker.training.max_epochs if cfg.ranker.enabled else cfg.training.max_epochs
    spread = cfg.search.get(key)
    return int(max([own, *(spread.choices or [spread.high or own])])) if spread else own


def shared_run(study: "Study", cfg: TuneConfig) -> str | None:
    """Return the MLflow run that the first worker opened in the same store; None where there is none, or no more."""
    import mlflow

    from recsys.tracking.server import bounded_http

    run_id: str | None = study.user_attrs.get("runs", {}).get(mlflow.get_tracking_uri())
    if run_id is None or not cfg.tracking.enabled:
        return None
    try:
        with bounded_http():
            return str(mlflow.get_run(run_id).info.run_id)
    except mlflow.MlflowException:  # the store has been deleted since, or is away
        return None


@contextmanager
def on_device(cfg: TuneConfig) -> "Iterator[TuneConfig]":
    """Give a worker a GPU of its own, where the trainer asks for one."""
    import torch

    from recsys.tuning.device import own_device

    if cfg.trainer.get("accelerator") not in ("gpu", "cuda") or not torch.cuda.is_available():
        yield cfg
        return
    with own_device(torch.cuda.device_count()) as number:
        yield replace(cfg, trainer={**cfg.trainer, "devices": [number]})


def join(study: "Study", cfg: TuneConfig, tracked: "Run", prepared: Any, points: "Sequence[dict[str, Any]]") -> None:
    """Describe the study where this worker is its first, queue its first trials, and name the run for the others."""
    from recsys.tracking.environment import describe
    from recsys.tracking.run import Run
    from recsys.tuning.study import begin

    runs = study.user_attrs.get("runs", {})
    is_new = tracked.run_id is None or runs.get(tracked.uri) != tracked.run_id
    describe(tracked if is_new else Run(), cfg, prepared, Path(cfg.run_dir))
    if tracked.run_id and is_new:
        study.set_user_attr("runs", {**runs, tracked.uri: tracked.run_id})
    if points:
        begin(study, points)


def objective_of(cfg: TuneConfig, bench: "Bench", tracked: "Run", folder: Path) -> "Objective":
    """Return what runs one trial: its configuration checked, fitted, and measured on the validation window."""
    import optuna

    from recsys.config.check import config_problems
    from recsys.config.search import with_values
    from recsys.entries.trial import run_trial
    from recsys.errors import ConfigError
    from recsys.tracking.run import nested_run
    from recsys.tuning.space import values_of

    def objective(trial: "Trial") -> list[float]:
        values = values_of(trial.params, cfg.search)
        own, place, steps, pruned = with_values(cfg, values), folder / str(trial.number), count(), False
        if problems := list(config_problems(own)):
            raise ConfigError("; ".join(problems))

        def watch(metrics: dict[str, float]) -> None:
            if not cfg.also:
                trial.report(metrics[cfg.objective.metric], next(steps))
                if trial.should_prune():
                    raise optuna.TrialPruned

        with nested_run(tracked, f"trial {trial.number}") as child:
            child.log_params(values)
            try:
                found = run_trial(bench, own, child, place, watch)
                # beside the course of the epochs, whose last value is not that of the best epoch
                child.log_metrics({f"best/{name}": value for name, value in found.items()})
            except optuna.TrialPruned:
                pruned = True
                child.log_tags({"pruned": True})
            except Exception as error:
                child.log_tags({"reason": error})
                raise
            finally:
                shutil.rmtree(place, ignore_errors=True)
        if pruned:
            raise optuna.TrialPruned
        return [found[cfg.objective.metric], *(found[LATENCY if n == LATENCY else f"val/{n}"] for n in cfg.also)]

    return objective


def teller(console: "Console", tracked: "Run", objectives: "Sequence[str]") -> "Any":
    """Return what says how each trial ended, on the console and in the run of the study."""
    from recsys.tuning.worker import why_failed

    def told(trial: "FrozenTrial") -> None:
        state, seconds = trial.state.name.lower(), trial.duration.total_seconds() if trial.duration else 0.0
        values = dict(zip(objectives, trial.values or [], strict=False))
        shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        reason = why_failed(trial) if state == "fail" else ""
        console.print(
            f"trial {trial.number:>3}  {state:<8}  {seconds:6.1f} s  {shown}{reason}", markup=False, soft_wrap=True
        )
        tracked.log_metrics({f"trials/{name}": value for name, value in values.items()}, step=trial.number)

    return told


def as_config(cfg: TuneConfig) -> Config:
    """Return what ``recsys train`` takes of the configuration of a study."""
    return Config(**{f.name: getattr(cfg, f.name) for f in fields(Config)})


def finish(
    study: "Study", best: TuneConfig, objectives: "Sequence[str]", tracked: "Run", folder: Path, console: "Console"
) -> None:
    """Write, log and show what the study found."""
    from recsys.files import write_whole
    from recsys.tuning.report import save, summarise, table

    save(study, objectives, folder / "study")
    found = summarise(study, objectives)
    path = write_whole(folder / "experiment" / "best.yaml", best_yaml(best, found).encode(), "best configuration")
    tracked.log_metrics({f"best/{n}": v for n, v in zip(objectives, found["best"]["values"], strict=True)})
    tracked.log_file(folder / "study", "study")
    tracked.log_file(path)
    console.print(table(study, objectives))
    console.print(
        f"tables and plots  {folder / 'study'}\nbest              {path}\n"
        f"next              recsys train --config-dir {folder} experiment=best",
        markup=False,
        soft_wrap=True,
    )


def leaves(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Return path of keys -> value for nested mappings; a key of a map, such as an event type, may hold dots."""
    found: dict[tuple[str, ...], Any] = {}
    for key, value in tree.items():
        path = (*above, key)
        found |= leaves(value, path) if isinstance(value, Mapping) and value else {path: value}
    return found


def best_yaml(best: TuneConfig, found: dict[str, Any]) -> str:
    """Return an experiment for ``recsys train``: all that differs from its defaults, the best values among it."""
    import yaml

    from recsys.config.compose import compose

    whole = leaves(asdict(best))
    default = leaves(asdict(compose("train")))
    changed = {
        path: value
        for path, value in whole.items()
        if path[0] in IN_BEST
        and value != default.get(path)
        and path != ("data", "cache_dir")
        and (path[0] != "trainer" or matters(path[:2][-1]))
    }
    changed |= {path: value for path, value in whole.items() if ".".join(path) in best.search}
    if best.evaluation.ks != compose("tune").evaluation.ks:  # the objective may be at a cut-off that is not a default
        changed["evaluation", "ks"] = list(best.evaluation.ks)
    tree: dict[str, Any] = {}
    for (*parents, name), value in changed.items():
        inside = tree
        for parent in parents:
            inside = inside.setdefault(parent, {})
        inside[name] = value
    values = ", ".join(f"{n} {v:.4f}" for n, v in zip(found["objectives"], found["best"]["values"], strict=True))
    head = f"# @package _global_\n# Trial {found['best']['number']} of study {found['study']}: {values}\n"
    return head + "#   recsys train --config-dir FOLDER_ABOVE_THIS_ONE experiment=best\n" + yaml.safe_dump(tree)
