"""Places for new products: how many, where, which, and what they displace."""

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.bundle.explore import explored, quota
from recsys.bundle.reader import Bundle
from recsys.errors import BundleError


def answered(row: list[int], new: set[int], share: float, finds: list[int]) -> list[int]:
    """What becomes of one answer when these new items are found."""

    def find(some: object, n: int, taken: object) -> tuple[np.ndarray, np.ndarray]:
        found = np.array([(finds + [-1] * n)[:n]])
        return found, found.astype(np.float32) / 100

    scores = np.array([row], np.float32) / 100
    is_new = np.isin(np.arange(1000), list(new))
    rows, values = explored(np.array([row]), scores, [len(row)], share, is_new, find)
    assert values[0].tolist() == (rows[0].astype(np.float32) / 100).tolist()  # scores go with their items
    return rows[0].tolist()


@pytest.mark.parametrize(
    ("share", "k", "places"), [(0.1, 20, 2), (0.1, 5, 1), (0.3, 10, 3), (1.0, 7, 7), (0.0, 9, 0), (0.15, 20, 3)]
)
def test_quota_is_at_least_the_share(share: float, k: int, places: int) -> None:
    assert quota(share, k) == places


def test_the_last_others_give_way_and_new_ones_stand_evenly() -> None:
    assert answered([1, 2, 3, 4, 5, 6], {90, 91}, 1 / 3, [90, 91]) == [1, 2, 90, 3, 4, 91]
    assert answered([1, 2, 3, 4, 5, 6], {90, 91}, 1 / 6, [90, 91]) == [1, 2, 3, 4, 5, 90]
    assert answered([1, 90, 3, 4, 5, 6], {90, 91}, 1 / 3, [91]) == [1, 90, 3, 4, 5, 91]  # one was there by itself
    assert answered([1, 2, 3, 4, 5, 90], {90, 91}, 1 / 3, [91]) == [1, 2, 3, 4, 90, 91]  # and keeps its place in turn
    assert answered([1, 90, 3, 91, 5, 6], {90, 91}, 1 / 3, []) == [1, 90, 3, 91, 5, 6]
    assert answered([1, 2, 3, 4], {90}, 0.5, [90]) == [1, 2, 3, 90]  # only one is left
    assert answered([1, 2, -1, -1], {90, 91}, 0.5, [90, 91]) == [1, 90, 2, 91]  # free places first
    assert answered([1, 2, 3], set(), 1.0, []) == [1, 2, 3]


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=12, unique=True),
    st.integers(0, 3),
    st.floats(0, 1),
    st.integers(0, 12),
)
def test_never_more_than_the_quota_is_displaced(items: list[int], free: int, share: float, there: int) -> None:
    new = {item for item in range(61) if item % 3 == 0} | set(range(100, 100 + there))
    row = items + [-1] * free
    finds = list(range(100, 100 + there))
    out = answered(row, new, share, finds)
    kept = [item for item in out if item >= 0]
    before = [item for item in items if item in new]
    assert len(out) == len(row)
    assert len(set(kept)) == len(kept) >= len(items)
    assert set(before) <= set(kept)
    others = [item for item in items if item not in new]
    assert [item for item in kept if item not in new] == others[: len(kept) - sum(item in new for item in kept)]
    added = set(kept) - set(items)
    wanted = max(quota(share, len(row)) - len(before), 0)
    assert added == set(finds[: min(wanted, there)])
    assert out[len(kept) :] == [-1] * (len(row) - len(kept))


@pytest.fixture(scope="module")
def aged(bundle: Bundle) -> Bundle:
    """The shop's bundle as if item 1009 had never been sold, 1010 for 3 and 1011 for 40 days, and all others long."""
    age = [1000.0] * len(bundle.items)
    age[9], age[10], age[11] = float("nan"), 3.0, 40.0
    again = Bundle(bundle.folder, bundle.manifest)
    again.items = bundle.items.with_columns(pl.Series("asof/age", age, dtype=pl.Float32))
    return again


def test_new_items_of_a_bundle(aged: Bundle) -> None:
    plain, explored_ = aged.recommend(k=10), aged.recommend(k=10, explore=0.2)
    new = pl.col("item_id").is_in([1009, 1010])
    shares = explored_.group_by("user_id").agg(new.sum(), pl.len())
    assert shares["len"].to_list() == [10] * 40
    assert shares["item_id"].to_list() == [2] * 40
    assert not plain.equals(explored_)
    assert aged.recommend(k=10, explore=0.2).equals(explored_)
    without = explored_.filter(~new).join(plain.filter(~new), on=["user_id", "item_id"], how="left")
    assert without["rank_right"].null_count() == 0
    own = explored_.filter(new)
    exact = (aged.embed_users(own["user_id"]) * aged.embed_items(own["item_id"])).sum(1)
    torch.testing.assert_close(torch.from_numpy(own["score"].to_numpy().copy()), exact, rtol=1e-4, atol=1e-5)
    assert aged.recommend(k=10, explore=0.2, new_days=41.0)["item_id"].is_in([1011]).any()


def test_filters_hold_for_new_items(aged: Bundle) -> None:
    assert not aged.recommend(k=10, explore=0.2, exclude=[1009, 1010])["item_id"].is_in([1009, 1010]).any()
    allowed = [*range(1020, 1040), 1010]
    answer = aged.recommend(k=10, explore=0.2, allow=allowed)
    assert set(answer["item_id"]) <= set(allowed)
    assert answer.group_by("user_id").agg((pl.col("item_id") == 1010).sum())["item_id"].to_list() == [1] * 40
    seen = aged.recommend([None], 10, histories=[[1009, 1010]], explore=0.2, exclude_seen=True)
    assert not seen["item_id"].is_in([1009, 1010]).any()
    assert len(seen) == 10
    ks = [1, 3, 10]
    counts = aged.recommend([101, 102, 103], ks, explore=0.2).group_by("user_id", maintain_order=True).len()
    assert counts["len"].to_list() == ks


def test_the_shop_says_what_is_new(aged: Bundle) -> None:
    chosen = aged.recommend(k=10, explore=0.2, explore_among=[1020, 1021, 424242])
    shares = chosen.group_by("user_id").agg(pl.col("item_id").is_in([1020, 1021]).sum(), pl.len())
    assert shares["item_id"].to_list() == [2] * 40
    assert shares["len"].to_list() == [10] * 40
    assert aged.recommend(k=10, explore=0.2, explore_among=[]).equals(aged.recommend(k=10))


@pytest.mark.parametrize("share", [-0.1, 1.1, True, "a lot"])
def test_what_is_no_share(bundle: Bundle, share: object) -> None:
    with pytest.raises(BundleError, match="is not a share of the places from 0 to 1"):
        bundle.recommend(k=3, explore=share)  # type: ignore[arg-type]
