"""``recsys plan``: what ``recsys train`` or ``recsys tune`` would do and need, in seconds; it trains nothing.

configuration ─► tables' columns, folders, packages ─► devices ─► a sample of rows, services ─► a few steps

Each stage finds all that is wrong in it; the next one begins where nothing was. Nothing is left behind.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.config.schema import Config
from recsys.config.tune import TuneConfig
from recsys.errors import RecsysError
from recsys.planning.plan import Plan

if TYPE_CHECKING:
    from rich.console import Console

    from recsys.data.prepared import Prepared
    from recsys.planning.tables import Header

PLANNED = ("train", "tune")
"""Verbs that can be planned."""
UNFIT = ("data.source", "data.events has", "data.columns")
"""How problems of the configuration begin after which there is no table to look at."""


def run(cfg: Config, found: Sequence[str] = (), console: "Console | None" = None) -> Plan:
    """Find out what a run would do, show it, and say that it is ready.

    Args:
        cfg: Of ``recsys train``, or a :class:`~recsys.config.tune.TuneConfig` of ``recsys tune``.
        found: What is wrong with it already.
        console: To show the plan on.

    Raises:
        RecsysError: Something would stop the run; everything that is known of it is named.
    """
    from rich.console import Console

    from recsys.planning.show import show

    plan, console = Plan(problems=list(found)), console or Console()
    verb = "tune" if isinstance(cfg, TuneConfig) else "train"
    _configuration(plan, cfg, verb)
    headers = _headers(plan, cfg)
    _places(plan, cfg)
    if plan.is_ready:
        with tempfile.TemporaryDirectory(prefix="recsys-plan-") as folder:
            _beyond(plan, cfg, headers, Path(folder))
    show(plan, console)
    if not plan.is_ready:
        count = len(plan.problems)
        raise RecsysError(f"not ready: {count} problem{'s' * (count > 1)}\n" + "\n".join(plan.problems))
    console.print(f"ready: recsys {verb} with the same settings", style="bold green")
    return plan


def _beyond(plan: Plan, cfg: Config, headers: "Sequence[Header]", folder: Path) -> None:
    """Do all that takes more than a look at names."""
    from recsys.entries.plan_models import probe_models
    from recsys.entries.plan_tables import find_windows, look_at_tables

    trained = trained_of(cfg)
    _devices(plan, cfg)
    if not plan.is_ready:
        return
    glimpses, sampled, known = look_at_tables(plan, cfg, headers, folder)
    _services(plan, cfg, known)
    if plan.is_ready and sampled is not None:
        basis = find_windows(plan, trained, glimpses, sampled, known)
        if basis is not None:
            probe_models(plan, cfg, trained, basis, sampled, glimpses, known is not None)


def trained_of(cfg: Config) -> Config:
    """Return what is really fitted: trials have a ranker only where its keys are searched."""
    from recsys.entries.tune import for_trials

    return for_trials(cfg) if isinstance(cfg, TuneConfig) else cfg


def _configuration(plan: Plan, cfg: Config, verb: str) -> None:
    models = "two-tower and ranker" if trained_of(cfg).ranker.enabled else "two-tower"
    plan.say("configuration", "job", f"recsys {verb}: {models}, objective {cfg.objective.metric}, seed {cfg.seed}")
    if isinstance(cfg, TuneConfig):
        size = f"{cfg.trials} trials" if cfg.trials is not None else f"{cfg.minutes} minutes"
        plan.say("configuration", "study", f"{cfg.study}: {size} over {len(cfg.search)} keys, {cfg.sampler.name}")
    count = len(plan.problems)
    plan.say("configuration", "rules", f"{count} broken" if count else "all hold")


def _headers(plan: Plan, cfg: Config) -> "list[Header]":
    from recsys.data.sources import paths_of, resolve
    from recsys.planning.tables import header

    found: list[Header] = []
    if any(problem.startswith(UNFIT) for problem in plan.problems):
        return found
    with plan.trying():
        resolved = resolve(cfg.data)
        for key, path in paths_of(resolved):
            with plan.trying():
                found.append(header(key, path, resolved))
    return found


def _places(plan: Plan, cfg: Config) -> None:
    from recsys.planning.places import checkpoint_problem, folder_problem, package_problems

    folders = {"hydra.run.dir": (cfg.run_dir, False), "data.cache_dir": (cfg.data.cache_dir, False)}
    if cfg.data.privacy.access_log is not None:
        folders["data.privacy.access_log"] = cfg.data.privacy.access_log, True
    for key, (place, is_file) in folders.items():
        problem = folder_problem(key, place, of_file=is_file)
        plan.problems += [problem] if problem else []
    problem = checkpoint_problem(cfg.ckpt_path) if not isinstance(cfg, TuneConfig) else None
    plan.problems += [problem] if problem else []
    plan.problems += package_problems(cfg)


def _services(plan: Plan, cfg: Config, known: "Prepared | None") -> None:
    from recsys.entries.tune import for_trials, settings
    from recsys.planning.services import storage_place, storage_problems, store_place, tracking_problem

    if not cfg.tracking.enabled:
        plan.say("services", "tracking", "off: nothing is logged, and no model registered")
    with plan.trying():
        problem = tracking_problem(cfg.tracking)
        plan.problems += [problem] if problem else []
        if cfg.tracking.enabled and not problem:
            plan.say(
                "services",
                "tracking",
                f"{_state(store_place(cfg.tracking), cfg.tracking.uri)}, experiment {cfg.tracking.experiment}",
            )
            if not isinstance(cfg, TuneConfig):
                plan.say("services", "model", f"registered as {cfg.tracking.model_name}")
    if isinstance(cfg, TuneConfig):
        fingerprint = None if known is None else known.fingerprint
        common = None if fingerprint is None else settings(for_trials(cfg), fingerprint)
        with plan.trying():
            found = list(storage_problems(cfg.storage, cfg.study, common))
            plan.problems += found
            if not found:
                plan.say("services", "storage", _state(storage_place(cfg.storage), cfg.storage))


def _state(place: Path | None, uri: str | None) -> str:
    """Return what is to be said of a service that a run can use."""
    name = uri or f"MLflow's own store, {place}"
    return f"answers: {name}" if place is None or place.exists() else f"not there yet, can be made: {name}"


def _devices(plan: Plan, cfg: Config) -> None:
    from recsys.planning.foreign import foreign_problems
    from recsys.planning.places import device_problems, trainer_problem

    foreign = {"trainer": cfg.trainer, **{f"callbacks.{name}": made for name, made in cfg.callbacks.items()}}
    problems = list(device_problems(cfg.trainer))
    problems += [problem for key, settings in foreign.items() for problem in foreign_problems(key, settings)]
    problem = None if problems else trainer_problem(cfg)
    plan.problems += problems + ([problem] if problem else [])
