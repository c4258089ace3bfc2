"""The index against exact search, written out here once more."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.bundle import index as module
from recsys.bundle.index import ItemIndex, best_items
from recsys.errors import BundleError
from recsys.export.index import build_index
from tests.vectors import clustered, exact


def test_flat_is_exact_and_short_catalogues_are_padded() -> None:
    vectors, queries = clustered(30, 1), clustered(5, 2)
    index, facts = build_index(vectors, np.arange(30), queries, "flat", 1.0)
    assert facts["recall"] == 1.0
    found = index.search(queries, 40)
    np.testing.assert_array_equal(found[:, :30], exact(vectors, queries, 30))
    assert (found[:, 30:] == -1).all()


def test_round_trip_and_not_an_index(tmp_path: Path) -> None:
    vectors, queries = clustered(400, 1), clustered(10, 2)
    index, facts = build_index(vectors, np.arange(400), queries, "hnsw", 0.9)
    index.save(tmp_path / "item.index")
    loaded = ItemIndex.load(tmp_path / "item.index", facts["search_width"])
    np.testing.assert_array_equal(index.search(queries, 20), loaded.search(queries, 20))
    (tmp_path / "no.index").write_bytes(b"no index at all")
    with pytest.raises(BundleError, match=r"part 'no\.index': faiss cannot read it"):
        ItemIndex.load(tmp_path / "no.index", 128)


def test_faiss_and_torch_share_a_process() -> None:
    """Two OpenMP runtimes take turns, with several threads each, and neither hangs nor changes an answer."""
    vectors, queries = clustered(2000, 1), clustered(64, 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        index, _ = build_index(vectors, np.arange(2000), queries, "flat", 1.0)
        for _ in range(20):
            product = torch.from_numpy(queries) @ torch.from_numpy(vectors).T
            rows = index.search(queries, 10)
            np.testing.assert_array_equal(rows[:, 0], product.argmax(1).numpy())
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", ["ivf", "hnsw", "flat"])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_filter_takes_no_place_of_the_answer(kind: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of the catalogue is left out: as many items come, and they are those of exact search under the filter."""
    monkeypatch.setattr(module, "FEW", 0)  # few enough here to be scored one by one
    vectors, queries = clustered(4000, 1), clustered(60, 2)
    index, _ = build_index(vectors, np.arange(4000), queries, kind, 0.99)
    allowed = np.random.default_rng(3).random(4000) >= share
    everything = torch.ones(4000, dtype=torch.bool)
    found, scores = best_items(
        index, torch.from_numpy(vectors), everything, torch.from_numpy(queries), 20, allowed=torch.from_numpy(allowed)
    )
    assert (found >= 0).all()
    assert allowed[found].all()
    left = np.flatnonzero(allowed)
    best = left[exact(vectors[left], queries, 20)]
    agree = np.mean([len(set(a) & set(b)) / 20 for a, b in zip(found, best, strict=True)])
    assert agree >= 0.99
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ vectors.T, found, 1), rtol=1e-5, atol=1e-5)

    monkeypatch.setattr(module, "FEW", 4000)
    one_by_one, _ = best_items(
        index, torch.from_numpy(vectors), everything, torch.from_numpy(queries), 20, allowed=torch.from_numpy(allowed)
    )
    np.testing.assert_array_equal(one_by_one, best)


def test_a_filter_goes_together_with_what_single_users_leave_out() -> None:
    vectors, queries = clustered(500, 1), clustered(3, 2)
    index, _ = build_index(vectors, np.arange(500), queries, "ivf", 0.99)
    allowed = np.arange(500) % 5 == 0
    eligible = torch.from_numpy(np.arange(500) % 10 == 0)
    own = [[0, 10, 20], [], list(range(0, 500, 10))]
    found, _ = best_items(
        index, torch.from_numpy(vectors), eligible, torch.from_numpy(queries), 60, own, torch.from_numpy(allowed)
    )
    assert set(found[0]) == set(range(30, 500, 10)) | {-1}
    assert set(found[1]) == set(range(0, 500, 10)) | {-1}
    assert (found[2] == -1).all()
