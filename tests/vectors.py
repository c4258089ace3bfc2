"""Vectors that lie in clusters, and exact search among them."""

import numpy as np
from numpy.typing import NDArray


def clustered(n: int, seed: int) -> NDArray[np.float32]:
    chance = np.random.default_rng(0)
    centers = chance.normal(size=(20, 24))
    chance = np.random.default_rng(seed)
    points = centers[chance.integers(20, size=n)] + 0.6 * chance.normal(size=(n, 24))
    return (points * chance.uniform(0.3, 1.0, size=(n, 1))).astype(np.float32)


def exact(vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    return np.argsort(-(queries.astype(np.float64) @ vectors.T.astype(np.float64)), axis=1)[:, :k]
