"""The rules that types cannot say, across all groups, before any data is read."""

import re
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any

from recsys.config.add_items import AddItemsConfig
from recsys.config.check_data import data_problems
from recsys.config.check_tune import tune_problems
from recsys.config.data import IMPUTATIONS, LOGS, SESSIONS_BY, SOURCES, TIMESTAMP_UNITS
from recsys.config.privacy import EraseConfig, erase_problems
from recsys.config.promote import PromoteConfig, RollbackConfig
from recsys.config.publish import PublishConfig
from recsys.config.schema import (
    BASELINES,
    CALIBRATIONS,
    CANDIDATE_SOURCES,
    DEEP_OPTIMIZERS,
    INDEXES,
    METRICS,
    MODEL_FORMS,
    MODES,
    NUMERIC_FORMS,
    RANKER_NORMS,
    RANKERS,
    RANKING_LOSSES,
    REFIT_WINDOWS,
    SEGMENTS,
    SEGMENTS_AS_OF,
    SLICES,
    VALIDATIONS,
    VARIANTS,
    WIDE_OPTIMIZERS,
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
Rule = tuple[Callable[[Any], bool], str]
POSITIVE: Rule = (lambda v: v > 0, "must be above 0")
POSITIVE_OR_NULL: Rule = (lambda v: v is None or v > 0, "must be above 0, or null")
NOT_NEGATIVE: Rule = (lambda v: v >= 0, "must be 0 or more")
AT_LEAST_1: Rule = (lambda v: v >= 1, "must be 1 or more")
SHARE: Rule = (lambda v: 0 <= v <= 1, "must be a share from 0 to 1")
OPEN_SHARE: Rule = (lambda v: 0 < v < 1, "must be a share above 0 and below 1")
LOSSY_SHARE: Rule = (lambda v: 0 <= v < 1, "must be a share from 0 to below 1")

CONFIG_RULES: dict[str, Rule] = {
    "data.max_reject_share": SHARE,
    "data.partitions": (lambda v: 1 <= v <= 9999, "must be from 1 to 9999"),
    "data.memory_gib": (lambda v: v is None or v >= 2, "must be 2 or more, or null"),
    "data.sessions.gap_minutes": POSITIVE,
    "data.sessions.cart_days": POSITIVE,
    "data.sessions.half_life_days": POSITIVE,
    "data.split.val": OPEN_SHARE,
    "data.split.test": OPEN_SHARE,
    "model.width": AT_LEAST_1,
    "model.heads": AT_LEAST_1,
    "model.history": AT_LEAST_1,
    "model.dropout": LOSSY_SHARE,
    "model.id_dropout": LOSSY_SHARE,
    "training.batch_moments": AT_LEAST_1,
    "training.negatives": NOT_NEGATIVE,
    "folds": (lambda v: v >= 2, "must be 2 or more"),
    "training.max_epochs": AT_LEAST_1,
    "training.patience": NOT_NEGATIVE,
    "training.learning_rate": POSITIVE,
    "training.embedding_learning_rate": POSITIVE,
    "training.weight_decay": NOT_NEGATIVE,
    "training.warm_rate": (lambda v: 0 < v <= 1, "must be a share above 0, at most 1"),
    "training.checkpoint_minutes": NOT_NEGATIVE,
    "ranker.candidates.limit": AT_LEAST_1,
    "ranker.training.snapshots": AT_LEAST_1,
    "ranker.training.stride_days": POSITIVE_OR_NULL,
    "ranker.training.horizon_days": POSITIVE_OR_NULL,
    "ranker.training.max_users": AT_LEAST_1,
    "ranker.training.negatives": (lambda v: 0 < v <= 1, "must be a share above 0, at most 1"),
    "ranker.training.bce_weight": NOT_NEGATIVE,
    "ranker.training.batch_groups": AT_LEAST_1,
    "ranker.training.max_epochs": AT_LEAST_1,
    "ranker.training.patience": NOT_NEGATIVE,
    "ranker.training.learning_rate": POSITIVE,
    "ranker.training.embedding_learning_rate": POSITIVE,
    "ranker.training.wide_learning_rate": POSITIVE,
    "ranker.training.wide_l1": NOT_NEGATIVE,
    "ranker.training.weight_decay": NOT_NEGATIVE,
    "ranker.width": AT_LEAST_1,
    "ranker.knots": (lambda v: v >= 2, "must be 2 or more"),
    "ranker.cross_buckets": (lambda v: 1 <= v <= 2**31, "must be from 1 to 2147483648"),
    "ranker.dropout": LOSSY_SHARE,
    "ranker.id_dropout": SHARE,
    "ranker.attention": NOT_NEGATIVE,
    "ranker.history": AT_LEAST_1,
    "segments.ks": (lambda v: v and all(k >= 2 for k in v), "must be one or more numbers of 2 or more"),
    "segments.seeds": AT_LEAST_1,
    "segments.min_stability": SHARE,
    "segments.min_share": LOSSY_SHARE,
    "segments.sample": (lambda v: 2 <= v <= 30_000, "must be from 2 to 30000; trees take sample² x 4 bytes"),
    "segments.recent_days": POSITIVE,
    "evaluation.importance": NOT_NEGATIVE,
    "evaluation.cold_users": NOT_NEGATIVE,
    "evaluation.bootstrap": AT_LEAST_1,
    "evaluation.chunk_users": AT_LEAST_1,
    "bundle.min_index_recall": SHARE,
    "seed": (lambda v: 0 <= v < 2**32, "must be from 0 to 4294967295"),
}
AUDIT_RULES: dict[str, Rule] = {
    "max_auc": (lambda v: 0.5 < v <= 1, "must be above 0.5, at most 1"),
    "max_users": AT_LEAST_1,
}
TOUCHPOINT_RULES: dict[str, Rule] = {"questions": AT_LEAST_1, "days": POSITIVE}
PROMOTE_RULES: dict[str, Rule] = {
    "gate.max_loss": NOT_NEGATIVE,
    "gate.max_slice_loss": NOT_NEGATIVE,
    "gate.min_coverage": (lambda v: v is None or v >= 0, "must be 0 or more, or null"),
    "gate.max_latency": POSITIVE_OR_NULL,
    "gate.max_milliseconds": POSITIVE_OR_NULL,
    "gate.max_calibration_error": POSITIVE_OR_NULL,
    "gate.max_size": POSITIVE_OR_NULL,
    "gate.requests": AT_LEAST_1,
}
EXPLAIN_RULES: dict[str, Rule] = {"top": AT_LEAST_1}
RECOMMEND_RULES: dict[str, Rule] = {"k": AT_LEAST_1, "batch_size": AT_LEAST_1, "users_a_part": AT_LEAST_1}
PUBLISH_RULES = {"k": AT_LEAST_1, "batch_size": AT_LEAST_1, "days": POSITIVE, "keep_seconds": NOT_NEGATIVE}
CHOICES: dict[str, tuple[str, ...]] = {
    "data.source": SOURCES,
    "data.timestamp_unit": TIMESTAMP_UNITS,
    "data.log": LOGS,
    "data.imputation.default": IMPUTATIONS,
    "data.imputation.items": IMPUTATIONS,
    "data.imputation.users": IMPUTATIONS,
    "data.sessions.by": SESSIONS_BY,
    "objective.mode": MODES,
    "validation": VALIDATIONS,
    "segments.kinds": SEGMENTS,
    "segments.features": SEGMENTS,
    "segments.slices": SEGMENTS,
    "segments.as_of": SEGMENTS_AS_OF,
    "evaluation.baselines": BASELINES,
    "evaluation.variants": VARIANTS,
    "evaluation.rankers": RANKERS,
    "ranker.training.loss": RANKING_LOSSES,
    "ranker.training.wide_optimizer": WIDE_OPTIMIZERS,
    "ranker.training.deep_optimizer": DEEP_OPTIMIZERS,
    "ranker.norm": RANKER_NORMS,
    "ranker.forms": NUMERIC_FORMS,
    "ranker.calibration": CALIBRATIONS,
    "bundle.index": INDEXES,
    "bundle.forms": MODEL_FORMS,
    "bundle.refit_on": REFIT_WINDOWS,
}
"""Legal values of a key, or of each element of a list or value of a map."""


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
    yield from touchpoint_problems(cfg.touchpoints)
    yield from _tracking(cfg.tracking)


def _ranges(cfg: Any, rules: dict[str, Rule]) -> Iterator[str]:
    for key, (holds, legal) in rules.items():
        value = attrgetter(key)(cfg)
        if not holds(value):
            yield f"{key}={value}: {legal}."


def _choices(cfg: Config) -> Iterator[str]:
    for key, legal in CHOICES.items():
        value = attrgetter(key)(cfg)
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


def _cutoffs(ks: Sequence[int]) -> Iterator[str]:
    if not ks or any(k < 1 for k in ks) or len(set(ks)) < len(ks):
        yield f"evaluation.ks={list(ks)}: must be one or more different cut-offs of 1 or more."


def _objective(objective: ObjectiveConfig, ks: Sequence[int]) -> Iterator[str]:
    metric = objective.metric
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
