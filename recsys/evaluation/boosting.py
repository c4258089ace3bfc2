"""A second stage of boosted trees, LightGBM, to compare rankers with on the same candidates and features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys.errors import ConfigError, DataError

if TYPE_CHECKING:
    from lightgbm import Booster

OBJECTIVES = ("rank_xendcg", "lambdarank")
LONGEST_GROUP = 10_000
"""Rows of one group that LightGBM can rank."""


@dataclass(frozen=True)
class Boosting:
    """How trees are grown.

    Attributes:
        objective: ``rank_xendcg`` (Bruch 2020, arXiv 1911.09798) or ``lambdarank`` (Burges 2010).
        rounds: Trees, at most.
        patience: Trees without a gain in NDCG@20 of the validation rows after which growing stops.
        learning_rate: Weight of a tree.
        leaves: Of a tree.
        leaf_rows: Rows that a leaf has at least.
        feature_share: Features that a tree may look at, in (0, 1].
        row_share: Rows that a tree grows on, in (0, 1].
        l2: Penalty of leaf values.
        threads: 0 takes all cores.
        seed: Of the draws; the same seed and rows give the same trees.
    """

    objective: str = "rank_xendcg"
    rounds: int = 500
    patience: int = 50
    learning_rate: float = 0.05
    leaves: int = 63
    leaf_rows: int = 100
    feature_share: float = 0.8
    row_share: float = 0.8
    l2: float = 1.0
    threads: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Rows:
    """Candidates with features, group by group: a group is one user at one cut.

    Attributes:
        features: Float32 ``[P, F]``; NaN is missing.
        labels: 0 or 1, ``[P]``.
        groups: Rows of each group, in the order of the rows, ``[Q]``, summing to P.
    """

    features: np.ndarray
    labels: np.ndarray
    groups: np.ndarray


@dataclass(frozen=True)
class BoostedRanker:
    """Fitted trees.

    Attributes:
        booster: LightGBM's model.
        names: Of the features, in the order of the columns.
    """

    booster: "Booster"
    names: tuple[str, ...]

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return scores float32 ``[P]`` for features float32 ``[P, F]``, higher is better; they are no probabilities.

        Raises:
            DataError: The number of features is not the one that the trees were grown on.
        """
        if features.ndim != 2 or features.shape[1] != len(self.names):
            raise DataError(
                f"boosting: features have shape {features.shape}, needed is [P, {len(self.names)}], "
                "the columns that the trees were grown on."
            )
        if not len(features):
            return np.zeros(0, dtype=np.float32)  # LightGBM refuses an empty table
        return np.asarray(self.booster.predict(features), dtype=np.float32)


def fit(
    train: Rows,
    names: Sequence[str],
    settings: Boosting | None = None,
    validation: Rows | None = None,
) -> BoostedRanker:
    """Grow trees that rank the rows of each group.

    Args:
        train: What they learn from.
        names: Of the features, ``[F]``.
        settings: How they are grown; the defaults without.
        validation: Rows that decide how many trees are kept; without them all are.

    Raises:
        ConfigError: LightGBM is not installed, or the objective is unknown.
        DataError: Shapes, labels or groups do not fit, or there is no positive row.
    """
    try:
        import lightgbm
    except ImportError as missing:
        raise ConfigError("boosting: LightGBM is not installed; pip install 'recsys[baselines]'.") from missing
    settings = settings or Boosting()
    if settings.objective not in OBJECTIVES:
        raise ConfigError(f"boosting: objective '{settings.objective}' is not one of {', '.join(OBJECTIVES)}.")

    def dataset(rows: Rows, what: str, reference: "lightgbm.Dataset | None" = None) -> "lightgbm.Dataset":
        _check(rows, len(names), what)
        return lightgbm.Dataset(
            rows.features,
            rows.labels.astype(np.float32),
            group=rows.groups,
            feature_name=[f"f{place}" for place in range(len(names))],  # ours may hold what LightGBM refuses
            categorical_feature=[],
            params=parameters,
            reference=reference,
        )

    parameters = _parameters(settings)
    grown = dataset(train, "training rows")
    watched = [dataset(validation, "validation rows", grown)] if validation else None
    stop: list[Callable[..., Any]] = []
    if validation:
        stop.append(lightgbm.early_stopping(settings.patience, verbose=False))
    booster = lightgbm.train(parameters, grown, settings.rounds, valid_sets=watched, callbacks=stop)
    return BoostedRanker(booster, tuple(names))


def _parameters(settings: Boosting) -> dict[str, Any]:
    return {
        "objective": settings.objective,
        "metric": "ndcg",
        "eval_at": [20],
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.leaves,
        "min_data_in_leaf": settings.leaf_rows,
        "feature_fraction": settings.feature_share,
        "bagging_fraction": settings.row_share,
        "bagging_freq": 1,
        "lambda_l2": settings.l2,
        "num_threads": settings.threads,
        "seed": settings.seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }


def _check(rows: Rows, n_features: int, what: str) -> None:
    n = len(rows.features)
    if rows.features.ndim != 2 or rows.features.shape[1] != n_features or rows.labels.shape != (n,):
        raise DataError(
            f"boosting: {what} have features {rows.features.shape} and labels {rows.labels.shape}; "
            f"needed are [P, {n_features}] and [P]."
        )
    if rows.groups.sum() != n or (rows.groups < 1).any():
        raise DataError(f"boosting: {what} are {n}, their groups sum to {rows.groups.sum()}; each holds 1 row or more.")
    if n and rows.groups.max() > LONGEST_GROUP:
        raise DataError(
            f"boosting: a group of the {what} has {rows.groups.max()} rows, at most {LONGEST_GROUP} can be."
        )
    if not np.isin(rows.labels, (0, 1)).all():
        raise DataError(f"boosting: labels of the {what} must be 0 or 1.")
    if not rows.labels.any():
        raise DataError(
            f"boosting: none of the {n} {what} is positive; take more users, candidates or a longer horizon."
        )
