"""From YAML files and overrides to typed, checked objects; below this door nobody sees a DictConfig."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from recsys.config import conf_dir
from recsys.config.add_items import AddItemsConfig
from recsys.config.check import check, problems_of
from recsys.config.data import DataConfig
from recsys.config.explain import explain
from recsys.config.privacy import EraseConfig
from recsys.config.promote import PromoteConfig, RollbackConfig
from recsys.config.publish import PublishConfig
from recsys.config.schema import (
    AuditConfig,
    Config,
    EvaluateConfig,
    EvaluationConfig,
    ExplainConfig,
    ModelConfig,
    PrepareConfig,
    RankerConfig,
    RecommendConfig,
    SyncConfig,
    TouchpointsEvaluationConfig,
)
from recsys.config.touchpoints import TouchpointsConfig
from recsys.config.tune import TuneConfig
from recsys.errors import ConfigError, did_you_mean

VERSION_BASE = "1.3"
"""Of Hydra's behaviour."""
SCHEMAS = {
    "config_schema": Config,
    "evaluate_schema": EvaluateConfig,
    "touchpoints_schema": TouchpointsEvaluationConfig,
    "recommend_schema": RecommendConfig,
    "add_items_schema": AddItemsConfig,
    "explain_schema": ExplainConfig,
    "audit_schema": AuditConfig,
    "prepare_schema": PrepareConfig,
    "erase_schema": EraseConfig,
    "sync_schema": SyncConfig,
    "promote_schema": PromoteConfig,
    "publish_schema": PublishConfig,
    "rollback_schema": RollbackConfig,
    "tune_schema": TuneConfig,
    "data/schema": DataConfig,
    "model/schema": ModelConfig,
    "ranker/schema": RankerConfig,
    "evaluation/schema": EvaluationConfig,
    "touchpoints/schema": TouchpointsConfig,
}
"""What the YAML files extend, by the name in their defaults lists."""
OPEN_KEYS = (
    *("candidates.sizes", "candidates.shares", "columns", "item_columns", "user_columns", "tracking.tags"),
    *("weights", "cleaning.unit_words", "imputation.items", "imputation.users", "sessions.weights"),
    *("item_times", "user_times", "search"),
    *("privacy.consent_columns", "profiles"),
)
"""Maps whose keys are the user's own: no ``+`` is needed to add one."""


@cache
def register_schemas() -> None:
    """Make the schemas known to Hydra, once in a process."""
    from hydra.core.config_store import ConfigStore

    for path, schema in SCHEMAS.items():
        node = OmegaConf.structured(schema)
        for key in OPEN_KEYS:
            opened = OmegaConf.select(node, key, throw_on_missing=False)
            if opened is not None:
                OmegaConf.set_struct(opened, False)
        group, _, name = path.rpartition("/")
        ConfigStore.instance().store(name=name, node=node, group=group or None)


def compose(verb: str, overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> Any:
    """Return what the console composes for ``recsys VERB OVERRIDES``.

    Args:
        verb: A file of ``conf/`` without its ending, such as ``train`` or ``add_items``.
        overrides: As on the command line, for example ``["data=tables", "data.events=sales.parquet"]``.
        config_dir: A folder of your own YAML files, as ``--config-dir``.

    Returns:
        The dataclass of the verb, such as :class:`~recsys.config.schema.Config`; where it has a ``run_dir``, that is
        ``runs/VERB/TIME`` unless overridden.

    Raises:
        ConfigError: An unknown key or option, a wrong type or an illegal value.
    """
    typed = _composed(verb, overrides, config_dir)
    check(typed)
    return typed


def compose_with_problems(
    verb: str, overrides: Sequence[str] = (), config_dir: str | Path | None = None
) -> tuple[Any | None, list[str]]:
    """Do as :func:`compose`, and return all that is wrong in place of raising the first of it.

    Returns:
        The configuration, None where an override cannot be composed; and a message for every such override, or for
        every rule that is broken.
    """
    good, problems, is_same = list(overrides), list[str](), True
    while True:
        try:
            typed = _composed(verb, good, config_dir)
            break
        except ConfigError as error:
            message = str(error)
        culprit = _suspect(message, good) if message not in problems else None
        culprit = _first_bad(verb, good, config_dir) if culprit is None else culprit
        if culprit is None:  # the configuration is at fault before any override
            return None, [*problems, message]
        problems += [message] * (message not in problems)
        # Without the file that it chose, other values would be checked.
        is_same &= not (conf_dir() / good.pop(culprit).lstrip("+~").partition("=")[0]).is_dir()
    if not problems:
        return typed, problems_of(typed)
    return None, problems + (problems_of(typed) if is_same else [])


def _suspect(message: str, overrides: Sequence[str]) -> int | None:
    """Return the place of the override whose key a message begins with, or that it quotes."""
    named = re.match(r"[\w.]*", message)
    for place, override in enumerate(overrides):
        key = override.lstrip("+~").partition("=")[0]
        if (named and (named[0] == key or f"{key}.".startswith(f"{named[0]}."))) or f"'{override}'" in message:
            return place
    return None


def _first_bad(verb: str, overrides: Sequence[str], config_dir: str | Path | None) -> int | None:
    """Return the place of the override that the first failure comes with; None where it comes without any."""
    low, high = 0, len(overrides)  # the first `low` of them compose, the first `high` do not
    try:
        _composed(verb, (), config_dir)
    except ConfigError:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        try:
            _composed(verb, overrides[:middle], config_dir)
            low = middle
        except ConfigError:
            high = middle
    return low


def _composed(verb: str, overrides: Sequence[str], config_dir: str | Path | None) -> Any:
    """Return the typed configuration; the rules across its groups are not checked yet."""
    cfg = untyped(verb, overrides, config_dir)
    try:
        folder = Path(cfg.hydra.run.dir).absolute()
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    with open_dict(cfg):
        del cfg["hydra"]
    if "run_dir" in cfg and OmegaConf.is_interpolation(cfg, "run_dir"):
        cfg.run_dir = str(folder)
    return _typed(cfg)


def untyped(verb: str, overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> DictConfig:
    """Return what :func:`compose` starts from, with Hydra's own part; values may be missing.

    Raises:
        ConfigError: An unknown key or option, or a wrong type.
    """
    import hydra
    from hydra.errors import HydraException

    if config_dir is not None and not Path(config_dir).is_dir():
        raise ConfigError(f"the configuration folder '{config_dir}' does not exist.")
    register_schemas()
    search = [] if config_dir is None else [f"hydra.searchpath=['file://{Path(config_dir).resolve()}']"]
    try:
        with _aside(), hydra.initialize_config_dir(str(conf_dir()), version_base=VERSION_BASE):
            return hydra.compose(verb, [*overrides, *search], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error


@contextmanager
def _aside() -> Iterator[None]:
    """Within it, a Hydra application that this process may be in the middle of is out of the way."""
    from hydra.core.global_hydra import GlobalHydra

    one = GlobalHydra.instance()
    before = one.hydra
    one.clear()
    try:
        yield
    finally:
        one.hydra = before


def to_typed(cfg: DictConfig) -> Any:
    """Turn a composed configuration into its checked dataclass.

    Raises:
        ConfigError: A key was added that the schema does not have, a value is missing or illegal.
    """
    typed = _typed(cfg)
    check(typed)
    return typed


def _typed(cfg: DictConfig) -> Any:
    for key, legal in _added_keys(cfg):
        raise ConfigError(f"{key}: no such key.{did_you_mean(key, legal)} Legal: {', '.join(legal)}.")
    try:
        typed: Any = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    if isinstance(typed, Config):
        typed.tracking.tags = {**dict.fromkeys(typed.tags, "true"), **typed.tracking.tags}
    return typed


def _added_keys(cfg: DictConfig, prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yield keys that ``+key=value`` smuggled past a schema, with the legal ones beside them."""
    schema = OmegaConf.get_type(cfg)
    legal = [f.name for f in fields(schema)] if is_dataclass(schema) else None
    for key in map(str, cfg):
        if legal is not None and key not in legal:
            yield f"{prefix}{key}", [f"{prefix}{name}" for name in legal]
        elif OmegaConf.is_missing(cfg, key) or OmegaConf.is_interpolation(cfg, key):
            continue
        elif isinstance(cfg[key], DictConfig):
            yield from _added_keys(cfg[key], f"{prefix}{key}.")
