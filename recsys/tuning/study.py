"""A study that any number of processes share: where it is stored, who proposes trials and who stops them early."""

import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from recsys.config.tune import PrunerConfig, SamplerConfig
from recsys.errors import ConfigError, TrackingError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage

Direction = Literal["maximize", "minimize"]
log = logging.getLogger(__name__)

SETTINGS, READY = "settings", "ready"
"""Attributes of a study: what its trials have in common, and whether its first trials have been queued."""
TRIES, PAUSE = 6, 0.5
"""How often a storage is asked before it counts as unusable, and the seconds between; tables may just be in making."""
START_SECONDS = 60.0
"""How long others wait for the process that has made the study to queue its first trial."""


@contextmanager
def quiet() -> Iterator[None]:
    """Within it, Optuna does not say which of its parts are young, nor what it does."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


@contextmanager
def storage_at(url: str) -> "Iterator[BaseStorage]":
    """Open a database or a journal file by its URL, with its tables made where there are none, and close it.

    Args:
        url: ``sqlite:///FILE``, ``journal:///FILE`` or ``postgresql://USER@HOST/DATABASE``.

    Raises:
        TrackingError: It cannot be reached, or refuses; known within seconds.
    """
    from optuna.storages import RDBStorage

    storage = _open(url)
    try:
        yield storage
    finally:
        if isinstance(storage, RDBStorage):
            storage.remove_session()
            storage.engine.dispose()


def _open(url: str) -> "BaseStorage":
    import sqlalchemy.exc
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    scheme, _, rest = url.partition(":///")
    for again in range(TRIES):
        try:
            if scheme == "journal":
                return JournalStorage(JournalFileBackend(rest))
            connect = {"timeout": 60} if scheme == "sqlite" else {"connect_timeout": 5}
            return RDBStorage(url, {"connect_args": connect, "pool_pre_ping": True})
        except (sqlalchemy.exc.SQLAlchemyError, RuntimeError, ImportError, OSError) as error:
            if again + 1 == TRIES or isinstance(error, ImportError | sqlalchemy.exc.ArgumentError):
                text = str(error.__cause__ or error).strip().splitlines()[0]
                raise TrackingError(
                    f"storage '{url}': the study cannot be kept there ({text}). Start the server, correct the URL, "
                    "install its driver (pip install 'recsys[tuning]' for PostgreSQL), or take storage=sqlite:///tune.db."
                ) from error
        time.sleep(PAUSE)
    raise AssertionError("a storage neither opened nor failed")


def open_study(
    storage: "BaseStorage", name: str, directions: "Sequence[Direction]", settings: Mapping[str, Any]
) -> "tuple[Study, bool]":
    """Make a study, or join the one of that name.

    Args:
        storage: From :func:`storage_at`.
        name: Of the study.
        directions: ``maximize`` or ``minimize``, one for each objective.
        settings: What all its trials have in common, JSON data.

    Returns:
        The study, and whether its first trials are for the caller to queue, with :func:`begin`.

    Raises:
        ConfigError: The study has been made with other settings.
    """
    import optuna

    with quiet():
        try:
            study = optuna.create_study(storage=storage, study_name=name, directions=list(directions))
            study.set_user_attr(SETTINGS, dict(settings))
            return study, True
        except optuna.exceptions.DuplicatedStudyError:
            study = optuna.load_study(storage=storage, study_name=name)
    until = time.monotonic() + START_SECONDS
    while not study.user_attrs.get(READY):
        if time.monotonic() > until:
            log.warning("study '%s' was made, but not begun for %d s; this process begins it", name, START_SECONDS)
            study.set_user_attr(SETTINGS, dict(settings))
            return study, True
        time.sleep(PAUSE)
    refuse_other_settings(study, settings)
    return study, False


def refuse_other_settings(study: "Study", settings: Mapping[str, Any]) -> None:
    """Refuse to add trials to a study whose trials would not be comparable.

    Raises:
        ConfigError: Naming the first settings that differ.
    """
    before = study.user_attrs.get(SETTINGS, {})
    keys = [key for key in {**before, **settings} if before.get(key) != settings.get(key)]
    if keys:
        shown = "; ".join(f"{key} was {before.get(key)}, is {settings.get(key)}" for key in keys[:3])
        raise ConfigError(
            f"study={study.study_name}: was made with other settings, so its trials cannot be compared with new ones: "
            f"{shown}{' ...' if len(keys) > 3 else ''}. Repeat its settings, or give another name: study=..."
        )


def begin(study: "Study", points: Sequence[Mapping[str, Any]]) -> None:
    """Queue the first trials, in order; from then on others may take them."""
    for point in points:
        study.enqueue_trial(dict(point))
    study.set_user_attr(READY, True)


def make_sampler(config: SamplerConfig, seed: int | None) -> "BaseSampler":
    """Make who proposes trials; a grid is queued as a whole, and what comes after it is random.

    Args:
        config: Name and sizes.
        seed: Of the first process of a study; None for the others, which must not propose the same.

    Raises:
        ConfigError: A package is missing.
    """
    from optuna import samplers

    with quiet():
        if config.name == "tpe":
            return samplers.TPESampler(n_startup_trials=config.startup, seed=seed)
        if config.name == "gp":
            return samplers.GPSampler(n_startup_trials=config.startup, seed=seed)
        if config.name == "nsga2":
            return samplers.NSGAIISampler(population_size=config.population, seed=seed)
        if config.name == "cmaes":
            try:
                import cmaes  # noqa: F401
            except ImportError as error:
                raise ConfigError(
                    "sampler.name=cmaes: the package 'cmaes' is not installed; pip install 'recsys[tuning]'."
                ) from error
            return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        return samplers.RandomSampler(seed=seed)


def make_pruner(config: PrunerConfig, epochs: int) -> "BasePruner":
    """Make what stops trials early.

    Args:
        config: Name and settings.
        epochs: The most that a trial may take.
    """
    from optuna import pruners

    with quiet():
        if config.name == "median":
            return pruners.MedianPruner(n_startup_trials=config.startup, n_warmup_steps=config.warmup)
        if config.name == "hyperband":
            return pruners.HyperbandPruner(
                min_resource=1, max_resource=max(1, epochs), reduction_factor=config.reduction
            )
        if config.name == "patience":
            return pruners.PatientPruner(None, patience=config.patience)
        return pruners.NopPruner()
