"""The index of a bundle: built, and widened until it finds what exact search finds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.bundle.index import MARGIN, ItemIndex, Matrix, set_width
from recsys.errors import BundleError, did_you_mean

KINDS = ("ivf", "hnsw", "flat")
LINKS, BUILD_WIDTH = 32, 200
"""Of the HNSW graph (Malkov and Yashunin 2018): neighbours of a node, candidates while building."""
ROUNDS, ITEMS_A_CLUSTER = 10, 39
"""Of the k-means behind ``ivf``."""
MEASURED_K, MEASURED_QUERIES = 100, 1000
ENOUGH = 0.99
"""Recall that an index with further items need not exceed."""


def build_index(
    vectors: Matrix, rows: NDArray[np.int64], queries: Matrix, kind: str, min_recall: float
) -> tuple[ItemIndex, dict[str, Any]]:
    """Build an index and widen its search until real queries find what exact search finds.

    Args:
        vectors: ``[N, D]``, of the items that may be recommended.
        rows: ``[N]``, their row numbers, ascending.
        queries: ``[U, D]``, user vectors; at most 1,000 of them are asked.
        kind: ``ivf`` (clusters), ``hnsw`` (graph: faster to search, slower to build) or ``flat`` (exact).
        min_recall: Least recall@100 against exact search.

    Returns:
        The index, and what the manifest says about it.

    Raises:
        BundleError: Unknown kind, no items, or the recall stays below ``min_recall``.
    """
    import faiss

    if kind not in KINDS:
        raise BundleError(f"bundle.index '{kind}' is not one of {', '.join(KINDS)}." + did_you_mean(kind, KINDS))
    if not len(vectors):
        raise BundleError("bundle: no item is eligible, so there is nothing to index.")
    core = _empty(kind, len(vectors), vectors.shape[1])
    lengths = np.einsum("nd,nd->n", vectors, vectors)
    level = np.sqrt(lengths.max() - lengths).astype(np.float32)
    points = np.ascontiguousarray(np.column_stack([vectors, level]), dtype=np.float32)
    core.train(points)
    index = faiss.IndexIDMap2(core)
    index.add_with_ids(points, rows)
    return _widened(index, kind, _widths(kind, index), vectors, rows, queries, min_recall)


def extend_index(
    built: ItemIndex, facts: Mapping[str, Any], vectors: Matrix, rows: NDArray[np.int64], n_new: int, queries: Matrix
) -> tuple[ItemIndex, dict[str, Any]]:
    """Add items to an index, and widen its search until it finds as much as it did.

    Args:
        built: Of the items before; it is changed.
        facts: What the manifest says about it.
        vectors: ``[N, D]``, of all items that may be recommended, the new ones last.
        rows: ``[N]``, their row numbers, ascending.
        n_new: New ones among them.
        queries: ``[U, D]``, as in :func:`build_index`.

    Returns:
        The index, and what the manifest says about it.

    Raises:
        BundleError: It finds less, at any width.
    """
    enough = min(facts["recall"], ENOUGH)
    lengths = np.einsum("nd,nd->n", vectors, vectors)
    longest = lengths[: len(lengths) - n_new].max(initial=0.0)
    if lengths.max() > longest * (1 + 1e-5):  # the further component of all others would be another one
        return build_index(vectors, rows, queries, facts["kind"], enough)
    if n_new:
        level = np.sqrt(np.maximum(longest - lengths[-n_new:], 0.0))
        points = np.ascontiguousarray(np.column_stack([vectors[-n_new:], level]), dtype=np.float32)
        built.index.add_with_ids(points, rows[-n_new:])
    widths = [width for width in _widths(facts["kind"], built.index) if width > built.search_width]
    return _widened(built.index, facts["kind"], [built.search_width, *widths], vectors, rows, queries, enough)


def _widened(
    index: Any,
    kind: str,
    widths: Sequence[int],
    vectors: Matrix,
    rows: NDArray[np.int64],
    queries: Matrix,
    min_recall: float,
) -> tuple[ItemIndex, dict[str, Any]]:
    """Take the first of the search widths at which the index finds enough; arguments as :func:`build_index` has them.

    Raises:
        BundleError: None of them does.
    """
    asked = queries[np.linspace(0, len(queries) - 1, min(len(queries), MEASURED_QUERIES)).astype(int)]
    k = min(MEASURED_K, len(vectors))
    kth = _kth_scores(vectors, asked, k)
    recall, search_width = 0.0, 0
    for search_width in widths:
        set_width(index, search_width)
        recall = _recall(ItemIndex(index, search_width), vectors, rows, asked, kth, k)
        if recall >= min_recall:
            break
    if recall < min_recall:
        raise BundleError(
            f"bundle.min_index_recall {min_recall}: the index finds {recall:.4f} of the exact top {k} even at "
            f"search width {search_width}; take bundle.index=flat (exact) or lower the limit."
        )
    facts = {
        "kind": kind,
        "library": "faiss",
        "items": len(vectors),
        "measured_k": k,
        "measured_queries": len(asked),
        "recall": round(recall, 6),
        "search_width": search_width,
    }
    return ItemIndex(index, search_width), facts


def _empty(kind: str, n: int, width: int) -> Any:
    """Return an index without items."""
    import faiss

    if kind == "flat":
        return faiss.IndexFlatL2(width + 1)
    if kind == "hnsw":
        graph: Any = faiss.IndexHNSWFlat(width + 1, LINKS)
        graph.hnsw.efConstruction = BUILD_WIDTH
        return graph
    clusters = max(1, min(round(2 * n**0.5), n // ITEMS_A_CLUSTER))
    core = faiss.IndexIVFFlat(faiss.IndexFlatL2(width + 1), width + 1, clusters)
    core.cp.niter = ROUNDS
    core.cp.min_points_per_centroid = 1  # a small catalogue is no reason for a warning
    return core


def _widths(kind: str, index: Any) -> list[int]:
    """Return the search widths to try, the cheapest first."""
    import faiss

    if kind == "ivf":
        clusters: int = faiss.downcast_index(index.index).nlist  # type: ignore[attr-defined]
        return sorted({min(8 * 2**i, clusters) for i in range(20)})  # all of them is exact
    return [128, 256, 512, 1024, 2048] if kind == "hnsw" else [0]


def _recall(index: ItemIndex, vectors: Matrix, rows: NDArray[np.int64], queries: Matrix, kth: Matrix, k: int) -> float:
    """Return the mean share of the exact best ``k`` that the index finds among its best ``MARGIN * k``.

    Items with equal vectors tie, so an item counts when its score reaches the exact k-th.
    """
    if not len(queries):
        return 1.0
    found = 0
    for query, limit, best in zip(queries, kth, index.search(queries, round(MARGIN * k)), strict=True):
        scores = vectors[np.searchsorted(rows, best[best >= 0])] @ query
        found += min(int((scores >= limit - 1e-6 * abs(limit)).sum()), k)
    return found / (k * len(queries))


def _kth_scores(vectors: Matrix, queries: Matrix, k: int) -> Matrix:
    """Return each query's k-th best score ``[U]`` by exact search, 64 queries at a time."""
    best = [np.empty(0, dtype=np.float32)]
    for start in range(0, len(queries), 64):
        scores = queries[start : start + 64] @ vectors.T
        best.append(-np.partition(-scores, k - 1, axis=1)[:, k - 1])
    return np.concatenate(best)
