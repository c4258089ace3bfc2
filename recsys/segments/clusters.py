"""Clusters of users by behaviour: K-Means, and trees by Ward's and by complete linkage.

All three are kept as centroids in one standardised space, so that whoever loads them assigns users with a matrix
product. How many clusters there are is chosen by the silhouette (Rousseeuw 1987), among the numbers for which no
cluster is tiny and, for K-Means, different seeds agree by the adjusted Rand index (Hubert and Arabie 1985).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl

AXES = ("frequency", "recency", "tenure", "gap", "spend", "basket_size", "variety", "repeat", "others")
"""Behaviour that clusters are made of, where the data have it; the first one orders the clusters."""
LINEAR = ("repeat",)
"""Shares; everything else has a long tail and is read as log(1 + x), with 0 for what is negative."""
LARGEST = 1e12
"""What a number counts as at most: infinite values would leave no space to the others."""
DIGITS = 6
CHUNK_ROWS = 2**18


@dataclass(frozen=True)
class Space:
    """Where clusters lie: one standardised axis a feature.

    Attributes:
        axes: Columns of the behaviour table that differ between users.
        center, spread: Mean and standard deviation of each (of its logarithm) over the users it was fitted on.
    """

    axes: tuple[str, ...]
    center: tuple[float, ...]
    spread: tuple[float, ...]

    def points(self, table: pl.DataFrame) -> np.ndarray:
        """Return the users of a behaviour table as float64 ``[U, axes]``; all must have bought."""
        return (_raw(table, self.axes) - np.array(self.center)) / np.array(self.spread)


@dataclass(frozen=True)
class Trial:
    """One number of clusters that was tried.

    Attributes:
        k: Clusters.
        silhouette: Mean over the users it was fitted on, -1 to 1.
        stability: Mean adjusted Rand index of each two seeds; None where no chance is involved.
        smallest: Share of the users in the smallest cluster.
    """

    k: int
    silhouette: float
    stability: float | None
    smallest: float


@dataclass(frozen=True)
class Clustering:
    """Clusters by one method.

    Attributes:
        centroids: ``[k, axes]``; the first cluster buys most often.
        trials: What the number of clusters was chosen from; empty where users do not differ enough.
        agreement: Share of the users it was fitted on whose nearest centroid is that of their own cluster.
        linkage: Of trees: SciPy's table of merges, float64 ``[n - 1, 4]``.
    """

    centroids: np.ndarray
    trials: tuple[Trial, ...]
    agreement: float
    linkage: np.ndarray | None = None

    def assign(self, points: np.ndarray) -> np.ndarray:
        """Return the number of the nearest centroid, from 1, int64 ``[U]``, of points ``[U, axes]``."""
        half = (self.centroids**2).sum(1) / 2
        nearest = [
            (half - points[start : start + CHUNK_ROWS] @ self.centroids.T).argmin(1)
            for start in range(0, len(points), CHUNK_ROWS)
        ]
        return np.concatenate([np.zeros(0, np.int64), *nearest]) + 1

    @property
    def height(self) -> float:
        """Distance at which the tree is cut: halfway between the last merge that is kept and the first that is not."""
        if self.linkage is None or len(self.linkage) == 0:
            return 0.0
        k, heights = len(self.centroids), self.linkage[:, 2]
        below = heights[-k] if k <= len(heights) else 0.0
        return float(below + (heights[1 - k] if k > 1 else heights[-1])) / 2


def fit_space(table: pl.DataFrame) -> Space:
    """Find the axes on which users who bought differ, and their scales.

    Args:
        table: Behaviour of users who bought, at least one.
    """
    axes = tuple(axis for axis in AXES if table[axis].null_count() == 0 and table[axis].n_unique() > 1)
    raw = _raw(table, axes)
    spread = raw.std(0)
    wide = np.flatnonzero(spread > 10.0**-DIGITS)
    return Space(
        tuple(axes[n] for n in wide),
        tuple(raw.mean(0)[wide].round(DIGITS).tolist()),
        tuple(spread[wide].round(DIGITS).tolist()),
    )


def fit_kmeans(
    points: np.ndarray, ks: Sequence[int], *, seeds: int, seed: int, min_share: float, min_stability: float
) -> Clustering:
    """Cluster by K-Means with the number of clusters that has the best silhouette.

    Args:
        points: ``[n, axes]``, in an order that means nothing but is always the same.
        ks: Numbers of clusters to try.
        seeds: Fits of each number; that of the least inertia counts, and how much they agree is their stability.
        seed: Of the first fit; the others count on.
        min_share: Numbers with a cluster smaller than this share are passed over, if there are others.
        min_stability: Likewise those on which the seeds agree less.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    trials, labels = [], {}
    for k in _possible(points, ks):
        fits = [KMeans(k, n_init=1, random_state=(seed + n) % 2**32).fit(points) for n in range(seeds)]
        best = min(fits, key=lambda fit: fit.inertia_).labels_
        pairs = [adjusted_rand_score(a.labels_, b.labels_) for a, b in combinations(fits, 2)]
        stability = float(np.mean(pairs)) if pairs else None
        trials.append(_trial(points, best, stability))
        labels[trials[-1].k] = best
    return _clustering(points, labels, trials, min_share, min_stability)


def fit_tree(points: np.ndarray, ks: Sequence[int], method: str, *, min_share: float) -> Clustering:
    """Cluster by merging what is nearest, and cut the tree where the silhouette is best.

    Args:
        points: ``[n, axes]``; memory is n² / 2 numbers.
        ks: Numbers of clusters to try.
        method: ``ward`` or ``complete``.
        min_share: Numbers with a cluster smaller than this share are passed over, if there are others.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    possible = _possible(points, ks)
    if not possible:
        return _clustering(points, {}, [], min_share, 0.0)
    merges = linkage(points, method)
    trials, labels = [], {}
    for k in possible:
        found = fcluster(merges, k, "maxclust")
        if len(np.unique(found)) == k:  # merges of one height cannot be parted
            trials.append(_trial(points, found, None))
            labels[k] = found
    return _clustering(points, labels, trials, min_share, 0.0, merges)


def choose(trials: Sequence[Trial], min_share: float, min_stability: float) -> Trial:
    """Return the trial with the best silhouette among those that pass both bars, or among all when none does."""
    passed = [
        trial
        for trial in trials
        if trial.smallest >= min_share and (trial.stability is None or trial.stability >= min_stability)
    ]
    return max(passed or trials, key=lambda trial: (trial.silhouette, -trial.k))


def _raw(table: pl.DataFrame, axes: Sequence[str]) -> np.ndarray:
    number = {axis: pl.col(axis).cast(pl.Float64).fill_nan(0).clip(0, LARGEST) for axis in axes}
    columns = [number[axis] if axis in LINEAR else number[axis].log1p() for axis in axes]
    return table.select(columns).to_numpy().reshape(len(table), len(axes))


def _possible(points: np.ndarray, ks: Sequence[int]) -> list[int]:
    """Return the numbers of clusters for which there are enough different points."""
    distinct = len(np.unique(points, axis=0)) if points.size else 1
    return sorted({k for k in ks if 2 <= k <= min(distinct, len(points) - 1)})


def _trial(points: np.ndarray, labels: np.ndarray, stability: float | None) -> Trial:
    from sklearn.metrics import silhouette_score

    sizes = np.unique(labels, return_counts=True)[1]
    return Trial(len(sizes), float(silhouette_score(points, labels)), stability, float(sizes.min() / len(labels)))


def _clustering(
    points: np.ndarray,
    labels: dict[int, np.ndarray],
    trials: list[Trial],
    min_share: float,
    min_stability: float,
    merges: np.ndarray | None = None,
) -> Clustering:
    """Turn the labels of the chosen trial into centroids, the most frequent buyers first."""
    own = np.zeros(len(points), np.int64)
    if trials:
        own = np.unique(labels[choose(trials, min_share, min_stability).k], return_inverse=True)[1]
    centroids = np.stack([points[own == n].mean(0) for n in range(own.max() + 1)]).round(DIGITS)
    order = sorted(range(len(centroids)), key=lambda n: (-centroids[n]).tolist())
    found = Clustering(centroids[order], tuple(trials), 1.0, merges)
    agreement = float((np.array(order)[found.assign(points) - 1] == own).mean())
    return Clustering(found.centroids, found.trials, agreement, merges)
