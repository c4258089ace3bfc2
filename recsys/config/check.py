"""The rules that types cannot say, across all groups, before any data is read."""

import re
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any

from recsys.config.add_items import AddItemsConfig
from recsys.config.check_data import data_problems
from recsys.config.check_tune import tune_problems
from recsys.config.legal import (
    AUDIT_RULES,
    CHOICES,
    CONFIG_RULES,
    EXPLAIN_RULES,
    PROMOTE_RULES,
    PUBLISH_RULES,
    RECOMMEND_RULES,
    TOUCHPOINT_RULES,
    Rule,
)
from recsys.config.privacy import EraseConfig, erase_problems
from recsys.config.promote import PromoteConfig, RollbackConfig
from recsys.config.publish import PublishConfig
from recsys.config.schema import (
    CANDIDATE_SOURCES,
    METRICS,
    SLICES,
    AuditConfig,
    Config,
    EvaluateConfig,
    ExplainConfig,
    ModelConfig,
    ObjectiveConfig,
    RankerConfig,
    RecommendConfig,
    SyncConfig,
    TouchpointsEvaluationConfig,
    TrackingConfig,
)
from recsys.config.touchpoints import touchpoint_problems
from recsys.config.tune import TuneConfig
from recsys.errors import ConfigError, did_you_mean

Verb = (
    Config
    | RecommendConfig
    | ExplainConfig
    | EraseConfig
    | SyncConfig
    | RollbackConfig
    | PublishConfig
    | AddItemsConfig
)
"""The configuration of any verb."""


def check(cfg: Verb) -> None:
    """Check everything that can be checked before data is read.

    Raises:
        ConfigError: One or more rules are broken; each line names the key, its value and what is legal.
    """
    if problems := problems_of(cfg):
        raise ConfigError("\n".join(problems))


def problems_of(cfg: Verb) -> list[str]:
    """Return a message for every rule that is broken; each names the key, its value and what is legal."""
    problems: list[str] = []
    if isinstance(cfg, RecommendConfig):
        problems += _ranges(cfg, RECOMMEND_RULES)
    elif isinstance(cfg, ExplainConfig):
        problems += _ranges(cfg, EXPLAIN_RULES)
    elif isinstance(cfg, PublishConfig):
        problems += _ranges(cfg, PUBLISH_RULES)
    elif isinstance(cfg, EraseConfig):
        problems += erase_problems(cfg)
    elif isinstance(cfg, SyncConfig):
        problems += [] if cfg.runs else ["runs=[]: name run folders, or folders of them, such as runs=[runs]."]
    elif isinstance(cfg, Config):
        problems += config_problems(cfg)
    if isinstance(cfg, TuneConfig):
        problems += tune_problems(cfg, config_problems)
    if isinstance(cfg, AuditConfig):
        problems += _ranges(cfg, AUDIT_RULES)
    if isinstance(cfg, TouchpointsEvaluationConfig):
        problems += _ranges(cfg, TOUCHPOINT_RULES)
    if isinstance(cfg, PromoteConfig):
        problems += _ranges(cfg, PROMOTE_RULES)
    if isinstance(cfg, EvaluateConfig) and cfg.evaluation.variants:
        problems.append(
            f"evaluation.variants={cfg.evaluation.variants}: variants are fitted by recsys train; "
            "for recsys evaluate leave evaluation.variants=[]."
        )
    return problems


def config_problems(cfg: Config) -> Iterator[str]:
    """Yield a message for every rule that is broken of those that all verbs share which read data."""
    yield from _ranges(cfg, CONFIG_RULES)
    yield from _choices(cfg)
    yield from data_problems(cfg.data)
    yield from _model(cfg.model)
    yield from _ranker(cfg.ranker)
    yield from _cutoffs(cfg.evaluation.ks)
    yield from _objective(cfg.objective, cfg.evaluation.ks)
    if cfg.validation == "kfold" and cfg.segments.features:
        yield (
            f"validation=kfold with segments.features={cfg.segments.features}: segments are fitted on all users, and "
            "would know those who are asked; take a validation in time (expanding, rolling), or no segments."
        )
    yield from _filled_folds(cfg)
    yield from touchpoint_problems(cfg.touchpoints)
    yield from _tracking(cfg.tracking)


def _filled_folds(cfg: Config) -> Iterator[str]:
    filling = cfg.data.imputation
    methods = {filling.default, *filling.items.values(), *filling.users.values()} - {"none", "missing"}
    if cfg.validation in ("expanding", "rolling") and methods:
        yield (
            f"validation={cfg.validation} with data.imputation ({', '.join(sorted(methods))}): what fills attributes is"
            " fitted on the whole training window, and would know what earlier folds are asked about; take"
            " validation=holdout or kfold, or data.imputation.default=missing."
        )


def _ranges(cfg: Any, rules: dict[str, Rule]) -> Iterator[str]:
    for key, (holds, legal) in rules.items():
        value = attrgetter(key)(cfg)
        if not holds(value):
            yield f"{key}={value}: {legal}."


def _choices(cfg: Config) -> Iterator[str]:
    for key, legal in CHOICES.items():
        value = attrgetter(key)(cfg)
        if isinstance(value, list) and len(set(value)) < len(value):
            yield f"{key}={list(value)}: one is named twice; name each once."
        for found in [value] if isinstance(value, str) else value.values() if isinstance(value, dict) else value:
            if found not in legal:
                yield f"{key}: '{found}' is not one of {', '.join(legal)}.{did_you_mean(found, legal)}"


def _model(model: ModelConfig) -> Iterator[str]:
    if not (model.use_ids or model.use_content):
        yield "model.use_ids=false and model.use_content=false: nothing is left to learn from; one must be true."
    if model.hidden < 1:
        yield f"model.hidden={model.hidden}: the hidden layer needs 1 unit or more."
    bounds = model.temperature_bounds
    if len(bounds) != 2 or not 0 < bounds[0] <= model.temperature <= bounds[1]:
        yield (
            f"model.temperature_bounds={bounds}: must be two numbers with "
            f"0 < low <= model.temperature={model.temperature} <= high."
        )


def _ranker(ranker: RankerConfig) -> Iterator[str]:
    if not (ranker.use_wide or ranker.use_deep):
        yield "ranker.use_wide=false and ranker.use_deep=false: nothing is left to rank by; one must be true."
    for key in ("attention", "start_from_towers"):
        value = getattr(ranker, key)
        if value and not ranker.use_deep:
            yield f"ranker.{key}={str(value).lower()}: is of the deep part; leave it out with ranker.use_deep=false."
    if not ranker.hidden or any(width < 1 for width in ranker.hidden):
        yield f"ranker.hidden={list(ranker.hidden)}: one or more widths of 1 or more."
    candidates = ranker.candidates
    for key, legal in (("sizes", CANDIDATE_SOURCES), ("shares", (*candidates.sizes,))):
        for name, value in getattr(candidates, key).items():
            if name not in legal:
                yield f"ranker.candidates.{key}: '{name}' is not one of {', '.join(legal)}.{did_you_mean(name, legal)}"
            elif value < 0 or (value == 0 and key == "shares"):
                yield f"ranker.candidates.{key}.{name}={value}: must be above 0{', or 0 for none' * (key == 'sizes')}."
    if not any(candidates.sizes.values()):
        yield f"ranker.candidates.sizes: no source; give one or more of {', '.join(CANDIDATE_SOURCES)}."
    if candidates.sizes.get("popular_in_group") and candidates.group is None:
        yield "ranker.candidates.group has no value; the source popular_in_group needs a user attribute or context."
    if candidates.group is not None and not candidates.sizes.get("popular_in_group"):
        yield (
            f"ranker.candidates.group={candidates.group}: its popular items are candidates of the source "
            "popular_in_group; say how many, such as ranker.candidates.sizes.popular_in_group=100."
        )


def _cutoffs(ks: Sequence[int]) -> Iterator[str]:
    if not ks or any(k < 1 for k in ks) or len(set(ks)) < len(ks):
        yield f"evaluation.ks={list(ks)}: must be one or more different cut-offs of 1 or more."


def _objective(objective: ObjectiveConfig, ks: Sequence[int]) -> Iterator[str]:
    metric = objective.metric
    if objective.mode != "max":
        yield f"objective.mode={objective.mode}: of all these metrics more is better. Leave it max."
    if metric.startswith("test/"):
        yield (
            f"objective.metric={metric}: choices made on the test window spoil it as evidence; "
            f"use a validation metric, such as val/{metric.removeprefix('test/')}."
        )
        return
    found = re.fullmatch(rf"val/(?:(?:{'|'.join(SLICES)})/)?(?:{'|'.join(METRICS)})_at_(\d+)", metric)
    if not found:
        legal = [
            f"val/{part}{name}_at_{k}" for part in ("", *(f"{s}/" for s in SLICES)) for name in METRICS for k in ks
        ]
        yield (
            f"objective.metric={metric}: must be val/METRIC_at_K or val/SLICE/METRIC_at_K with METRIC one of "
            f"{', '.join(METRICS)} and SLICE one of {', '.join(SLICES)}.{did_you_mean(metric, legal)}"
        )
    elif ks and int(found[1]) not in ks:
        yield f"objective.metric={metric}: its cut-off must be one of evaluation.ks={list(ks)}."


def _tracking(tracking: TrackingConfig) -> Iterator[str]:
    """What MLflow would refuse when the model is registered, after everything has been fitted."""
    name = tracking.model_name
    if not name.strip() or any(letter in name for letter in "/:"):
        yield f"tracking.model_name='{name}': must be a name without '/' and ':'; MLflow takes no other."
    if not tracking.experiment.strip():
        yield f"tracking.experiment='{tracking.experiment}': must be a name."
