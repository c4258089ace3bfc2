"""Which values of a single key are legal: ranges of numbers, and choices."""

from collections.abc import Callable
from typing import Any

from recsys.config.data import IMPUTATIONS, LOGS, SESSIONS_BY, SOURCES, TIMESTAMP_UNITS
from recsys.config.schema import (
    BASELINES,
    CALIBRATIONS,
    DEEP_OPTIMIZERS,
    INDEXES,
    MODEL_FORMS,
    NUMERIC_FORMS,
    RANKER_NORMS,
    RANKERS,
    RANKING_LOSSES,
    REFIT_WINDOWS,
    SEGMENTS,
    SEGMENTS_AS_OF,
    VALIDATIONS,
    VARIANTS,
    WIDE_OPTIMIZERS,
)

Rule = tuple[Callable[[Any], bool], str]
"""Whether a value is legal, and what is."""
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
    "model.code_width": AT_LEAST_1,
    "model.heads": AT_LEAST_1,
    "model.history": AT_LEAST_1,
    "model.dropout": LOSSY_SHARE,
    "model.id_dropout": LOSSY_SHARE,
    "model.user_id_dropout": SHARE,
    "model.history_dropout": LOSSY_SHARE,
    "model.context_dropout": SHARE,
    "model.factor_width": NOT_NEGATIVE,
    "model.factor_weight": NOT_NEGATIVE,
    "model.factor_confidence": POSITIVE,
    "model.factor_decay": NOT_NEGATIVE,
    "model.factor_regularization": POSITIVE,
    "training.batch_moments": AT_LEAST_1,
    "training.moments_per_block": AT_LEAST_1,
    "training.epoch_batches": AT_LEAST_1,
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
    "ranker.training.epoch_batches": AT_LEAST_1,
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
    "segments.kinds": (bool, "must be one or more kinds"),
    "segments.ks": (lambda v: v and all(k >= 2 for k in v), "must be one or more numbers of 2 or more"),
    "segments.seeds": AT_LEAST_1,
    "segments.min_stability": SHARE,
    "segments.min_share": LOSSY_SHARE,
    "segments.sample": (lambda v: 2 <= v <= 30_000, "must be from 2 to 30000; trees take sample² x 4 bytes"),
    "segments.recent_days": POSITIVE,
    "evaluation.importance": NOT_NEGATIVE,
    "evaluation.cold_users": NOT_NEGATIVE,
    "evaluation.bootstrap": (lambda v: v >= 100, "must be 100 or more: the bounds are its 2.5 and 97.5 % points"),
    "evaluation.max_users": (lambda v: v is None or v >= 1, "must be 1 or more, or null"),
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
PUBLISH_RULES: dict[str, Rule] = {
    "name": (lambda v: v.strip() and ":" not in v, "must be a name without ':', which divides the parts of a key"),
    "k": AT_LEAST_1,
    "batch_size": AT_LEAST_1,
    "days": POSITIVE,
    "keep_seconds": NOT_NEGATIVE,
}
CHOICES: dict[str, tuple[str, ...]] = {
    "data.source": SOURCES,
    "data.timestamp_unit": TIMESTAMP_UNITS,
    "data.log": LOGS,
    "data.imputation.default": IMPUTATIONS,
    "data.imputation.items": IMPUTATIONS,
    "data.imputation.users": IMPUTATIONS,
    "data.sessions.by": SESSIONS_BY,
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
