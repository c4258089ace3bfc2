"""From YAML files and overrides to typed, checked objects; below this door nobody sees a DictConfig."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recsys.config import conf_dir
from recsys.config.check import check
from recsys.config.data import DataConfig
from recsys.config.explain import explain
from recsys.config.privacy import EraseConfig
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
)
from recsys.config.tune import TuneConfig
from recsys.errors import ConfigError, did_you_mean

VERSION_BASE = "1.3"
"""Of Hydra's behaviour."""
SCHEMAS = {
    "config_schema": Config,
    "evaluate_schema": EvaluateConfig,
    "recommend_schema": RecommendConfig,
    "explain_schema": ExplainConfig,
    "audit_schema": AuditConfig,
    "prepare_schema": PrepareConfig,
    "erase_schema": EraseConfig,
    "tune_schema": TuneConfig,
    "data/schema": DataConfig,
    "model/schema": ModelConfig,
    "ranker/schema": RankerConfig,
    "evaluation/schema": EvaluationConfig,
}
"""What the YAML files extend, by the name in their defaults lists."""
OPEN_KEYS = (
    *("candidates.sizes", "candidates.shares", "columns", "item_columns", "user_columns", "tracking.tags"),
    *("weights", "cleaning.unit_words", "imputation.items", "imputation.users", "sessions.weights"),
    *("item_times", "user_times", "search"),
    "privacy.consent_columns",
)
"""Maps whose keys are the user's own: no ``+`` is needed to add one."""


def register_schemas() -> None:
    """Make the schemas known to Hydra; doing it again changes nothing."""
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
        verb: prepare, train, evaluate or recommend.
        overrides: As on the command line, for example ``["data=tables", "data.events=sales.parquet"]``.
        config_dir: A folder of your own YAML files, as ``--config-dir``.

    Returns:
        A :class:`~recsys.config.schema.Config`, ``EvaluateConfig`` or ``RecommendConfig``; ``run_dir`` is
        ``runs/VERB/TIME`` unless overridden.

    Raises:
        ConfigError: An unknown key or option, a wrong type or an illegal value.
    """
    import hydra
    from hydra.errors import HydraException

    if config_dir is not None and not Path(config_dir).is_dir():
        raise ConfigError(f"the configuration folder '{config_dir}' does not exist.")
    register_schemas()
    search = [] if config_dir is None else [f"hydra.searchpath=['file://{Path(config_dir).resolve()}']"]
    try:
        with _aside(), hydra.initialize_config_dir(str(conf_dir()), version_base=VERSION_BASE):
            cfg = hydra.compose(verb, [*overrides, *search])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
    if "run_dir" in cfg and OmegaConf.is_interpolation(cfg, "run_dir"):
        cfg.run_dir = str(Path("runs", verb, f"{datetime.now():%Y-%m-%d_%H-%M-%S}").absolute())
    return to_typed(cfg)


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
    for key, legal in _added_keys(cfg):
        raise ConfigError(f"{key}: no such key.{did_you_mean(key, legal)} Legal: {', '.join(legal)}.")
    try:
        typed: Any = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    if isinstance(typed, Config):
        typed.tracking.tags = {**dict.fromkeys(typed.tags, "true"), **typed.tracking.tags}
    check(typed)
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
