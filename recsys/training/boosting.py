"""Boosted trees (LightGBM) that rank pairs by their numbers: part of the ranker, and a rival of it.

::

    RankingSet ─► LightGBM ─► BoostedRanker ─► Forest, tensors that need no LightGBM
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recsys.errors import ConfigError, DataError, did_you_mean
from recsys.features import HISTORY
from recsys.models.forest import Forest, Tree

if TYPE_CHECKING:
    from lightgbm import Booster, Dataset

    from recsys.data.snapshots import RankingSet  # brings Polars, which a bare training node lacks

OBJECTIVES = ("rank_xendcg", "lambdarank")
LONGEST_GROUP = 10_000
"""Rows of one group that LightGBM can rank."""
PAIRS = 2**18
"""Pairs scored at a time."""


@dataclass(frozen=True)
class Boosting:
    """How trees are grown.

    Attributes:
        objective: ``rank_xendcg`` (Bruch 2020, arXiv 1911.09798) or ``lambdarank`` (Burges 2010).
        rounds: Trees, at most.
        patience: Trees without a gain in NDCG@20 of the validation rows after which growing stops.
        learning_rate: Weight of a tree.
        leaves: Of a tree.
        depth: The most questions on the way to a leaf.
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
    depth: int = 7
    leaf_rows: int = 100
    feature_share: float = 0.8
    row_share: float = 0.8
    l2: float = 1.0
    threads: int = 0
    seed: int = 0


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

    def forest(self) -> Forest:
        """Return the trees as a module that scores named numbers as :meth:`predict` does."""
        best = self.booster.best_iteration
        grown = self.booster.dump_model(num_iteration=best if best > 0 else None)["tree_info"]
        return Forest(self.names, [_tree(one["tree_structure"]) for one in grown])


def numbers(features: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the names of the numeric features of pairs, in their order."""
    return tuple(n for n, values in features.items() if values.is_floating_point() and not n.startswith(HISTORY))


def fit_boosting(
    train: "RankingSet",
    validation: "RankingSet | None" = None,
    settings: Boosting | None = None,
) -> BoostedRanker:
    """Grow trees that rank the pairs of each group by the label of the first task, from the numbers of the pairs.

    Ids are left out, for an order of ids says nothing.

    Args:
        train: What they learn from.
        validation: Decides how many trees are kept; without it all are.
        settings: How they are grown; the defaults without.

    Raises:
        ConfigError: The objective is unknown.
        DataError: The pairs have no number, ``validation`` lacks one, a group is too long, or no pair is positive.
    """
    import lightgbm

    settings = settings or Boosting()
    if settings.objective not in OBJECTIVES:
        raise ConfigError(f"boosting: objective '{settings.objective}' is not one of {', '.join(OBJECTIVES)}.")
    names, parameters = numbers(train.features), _parameters(settings)
    grown = _dataset(train, names, "training rows", parameters)
    watched, stop = None, list[Callable[..., Any]]()
    if validation is not None:
        watched = [_dataset(validation, names, "validation rows", parameters, grown)]
        stop.append(lightgbm.early_stopping(settings.patience, verbose=False))
    booster = lightgbm.train(parameters, grown, settings.rounds, valid_sets=watched, callbacks=stop)
    return BoostedRanker(booster, names)


def predict_boosting(ranker: BoostedRanker, features: Mapping[str, Tensor]) -> Tensor:
    """Return the trees' scores of pairs, float32 ``[P]``; features as :class:`RankingSet` holds them, in any order.

    Raises:
        DataError: A feature that the trees were grown on is missing.
    """
    chunks = range(0, len(next(iter(features.values()))), PAIRS)
    some = [ranker.predict(_matrix(features, ranker.names, slice(start, start + PAIRS))) for start in chunks]
    return torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.float32), *some]))


def _parameters(settings: Boosting) -> dict[str, Any]:
    return {
        "objective": settings.objective,
        "metric": "ndcg",
        "eval_at": [20],
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.leaves,
        "max_depth": settings.depth,
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


def _dataset(
    pairs: "RankingSet",
    names: Sequence[str],
    what: str,
    parameters: Mapping[str, Any],
    reference: "Dataset | None" = None,
) -> "Dataset":
    """Return pairs as LightGBM takes them."""
    import lightgbm

    features = _matrix(pairs.features, names, slice(None))
    labels = np.ascontiguousarray(pairs.labels[:, 0])  # LightGBM takes no strides
    groups = pairs.group.unique_consecutive(return_counts=True)[1].numpy()
    if groups.max(initial=0) > LONGEST_GROUP:
        raise DataError(f"boosting: a group of the {what} has {groups.max()} rows, at most {LONGEST_GROUP} can be.")
    if not labels.any():
        raise DataError(
            f"boosting: none of the {len(labels)} {what} is positive; take more users, candidates or a longer horizon."
        )
    return lightgbm.Dataset(
        features,
        labels,
        group=groups,
        feature_name=[f"f{place}" for place in range(len(names))],  # ours may hold what LightGBM refuses
        categorical_feature=[],
        params=dict(parameters),
        reference=reference,
    )


def _matrix(features: Mapping[str, Tensor], names: Sequence[str], rows: slice) -> np.ndarray:
    """Put columns side by side, float32 ``[P, F]``."""
    for name in names:
        if name not in features:
            raise DataError(f"boosting: the pairs have no feature '{name}'." + did_you_mean(name, features))
    if not names:
        raise DataError("boosting: the pairs have no numeric feature.")
    out = np.empty((len(features[names[0]][rows]), len(names)), dtype=np.float32)
    for place, name in enumerate(names):
        out[:, place] = features[name][rows].numpy()
    return out


def _tree(root: Mapping[str, Any]) -> Tree:
    """Flatten a tree of LightGBM, whose nodes are nested."""
    nodes: list[Mapping[str, Any]] = []
    values: dict[int, float] = {}
    left, right = [], []

    def place(node: Mapping[str, Any]) -> int:
        if "split_feature" not in node:
            number = node.get("leaf_index", 0)  # a tree that found nothing to ask is one leaf, without a number
            values[number] = node["leaf_value"]
            return -1 - number
        nodes.append(node)
        own = len(nodes) - 1
        left.append(0)
        right.append(0)
        left[own], right[own] = place(node["left_child"]), place(node["right_child"])
        return own

    place(root)
    return Tree(
        feature=[node["split_feature"] for node in nodes],
        threshold=[_rounded_down(node["threshold"]) for node in nodes],
        # Where a number was never missing, LightGBM takes a missing one for 0.
        missing_left=[
            node["default_left"] if node["missing_type"] == "NaN" else node["threshold"] >= 0.0 for node in nodes
        ],
        left=left,
        right=right,
        values=[values[number] for number in range(len(values))],
    )


def _rounded_down(threshold: float) -> float:
    """Return the largest float32 that is not above a float64: float32 numbers fall on the same side of both."""
    largest = float(np.finfo(np.float32).max)
    if abs(threshold) > largest:  # which parts the missing from all others
        return largest if threshold > 0 else -np.inf
    near = np.float32(threshold)
    return float(near if float(near) <= threshold else np.nextafter(near, np.float32(-np.inf)))
