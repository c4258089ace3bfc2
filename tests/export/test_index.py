"""The index as built, against exact search, written out here once more."""

import numpy as np
import pytest

from recsys.errors import BundleError
from recsys.export.index import build_index
from tests.vectors import clustered, exact


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_recall_in_the_manifest_is_the_recall_against_exact_search(kind: str) -> None:
    vectors, queries = clustered(3000, 1), clustered(200, 2)
    rows = np.arange(3000) * 2 + 1  # the payload is not the position
    index, facts = build_index(vectors, rows, queries, kind, 0.99)
    found = index.search(queries, 120)
    best = exact(vectors, queries, 100) * 2 + 1
    recall = np.mean([len(set(a) & set(b)) / 100 for a, b in zip(found, best, strict=True)])
    assert recall == pytest.approx(facts["recall"], abs=1e-6)
    assert facts["recall"] >= 0.99
    # long vectors win by inner product though others are nearer: the order is by inner product
    assert (found[:, 0] == best[:, 0]).mean() > 0.98


def test_items_with_one_vector_tie() -> None:
    vectors = np.ones((300, 4), dtype=np.float32)
    _, facts = build_index(vectors, np.arange(300), np.ones((5, 4), dtype=np.float32), "ivf", 1.0)
    assert facts["recall"] == 1.0


def test_too_little_recall_is_refused() -> None:
    with pytest.raises(BundleError, match=r"min_index_recall 1\.5: the index finds .* take bundle\.index=flat"):
        build_index(clustered(500, 1), np.arange(500), clustered(20, 2), "hnsw", 1.5)


def test_unknown_kind_and_empty_catalogue() -> None:
    with pytest.raises(BundleError, match=r"'hnws' is not one of ivf, hnsw, flat\. Did you mean 'hnsw'"):
        build_index(clustered(5, 1), np.arange(5), clustered(2, 2), "hnws", 0.9)
    with pytest.raises(BundleError, match="no item is eligible"):
        build_index(clustered(0, 1), np.arange(0), clustered(2, 2), "hnsw", 0.9)
