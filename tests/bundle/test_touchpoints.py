"""Touchpoints through the reader: whatever the filters, the answer has as many items as there may be."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from recsys.bundle.filters import Filters
from recsys.bundle.profiles import Profile, read_profiles
from recsys.bundle.reader import Bundle
from recsys.errors import BundleError
from tests.bundle.shop import write_touchpoints


@pytest.fixture(scope="module")
def ranked(trained: Any) -> Bundle:
    """The bundle of the main job, with the default touchpoints: 80 items of 7 categories, prices 0 to 118.5."""
    return Bundle.load(trained.bundle)


def rows(frame: pl.DataFrame, user: str) -> list[str]:
    return frame.filter(pl.col("user_id") == user)["item_id"].to_list()


def test_the_bundle_says_what_its_touchpoints_are(ranked: Bundle) -> None:
    profiles, price = read_profiles(ranked.folder)
    assert list(profiles) == ["home", "product_page", "cart", "upsell", "post_purchase", "email"]
    assert price == "price"
    assert profiles["upsell"].filters == Filters(band=(1.1, 3.0), same="category")
    assert profiles["email"].filters.caps == {"category": 2}
    assert all(profile.left_out == () for profile in profiles.values())
    assert "touchpoints.json" in ranked.manifest.parts


def test_home_is_what_is_recommended_without_a_touchpoint(ranked: Bundle) -> None:
    plain = ranked.recommend(["u1", None, "u7"], 12)
    home = ranked.recommend(["u1", None, "u7"], 12, touchpoint="home")
    assert home["item_id"].to_list() == plain["item_id"].to_list()
    assert home["score"].to_list() == pytest.approx(plain["score"].to_list())
    assert len(ranked.recommend(["u1"], touchpoint="home")) == len(ranked.recommend(["u1"])) == 20


@pytest.mark.parametrize("touchpoint", ["product_page", "cart", "post_purchase"])
def test_what_the_request_brings_is_never_answered(ranked: Bundle, touchpoint: str) -> None:
    brought = [["i1", "i2", "i1", "nobody knows"], []]
    found = ranked.recommend(["u1", "u2"], 78, touchpoint=touchpoint, items=brought)
    assert len(rows(found, "u1")) == len(set(rows(found, "u1"))) == 78  # all that is left
    assert not {"i1", "i2"} & set(rows(found, "u1"))
    assert len(rows(found, "u2")) == 78
    assert found.group_by("user_id").agg(pl.col("rank").max())["rank"].to_list() == [78, 78]


def test_the_items_of_a_request_are_no_history(ranked: Bundle) -> None:
    """Order by what is personal alone: only what was brought is missing."""
    filters = Filters(diversity=1.0)
    plain = ranked.recommend(["u1"], 20, filters=filters)["item_id"].to_list()
    found = ranked.recommend(["u1"], 19, items=[[plain[3]]], filters=filters)["item_id"].to_list()
    assert found == plain[:3] + plain[4:]


def test_upsell_is_dearer_and_of_the_category(ranked: Bundle) -> None:
    found = ranked.recommend(["u1", "u2"], 20, touchpoint="upsell", items=[["i10", "i13"], []])
    facts = ranked.items.select("item_id", "category", "price")
    answer = found.join(facts, on="item_id").filter(pl.col("user_id") == "u1")
    expected = [
        f"i{i}" for i in range(80)
        if any(i % 7 == a % 7 and 1.1 * 1.5 * a <= 1.5 * i <= 3.0 * 1.5 * a for a in (10, 13)) and i not in (10, 13)
    ]  # fmt: skip
    assert sorted(answer["item_id"]) == sorted(expected)
    assert rows(found, "u2") == []  # an empty cart has nothing to be better than


def test_email_has_two_of_a_category_and_fills_up(ranked: Bundle) -> None:
    found = ranked.recommend(["u1", None], 20, touchpoint="email").join(ranked.items, on="item_id")
    counts = found.group_by("user_id", "category").len()
    assert counts["len"].to_list() == [2] * 14  # 7 categories: 14 items are all that there may be


def test_caps_reach_beyond_the_candidates(ranked: Bundle) -> None:
    """With one item as the only candidate, caps and filters are filled from the rest of the catalogue."""
    ranked_profile = Profile(request="item", sources=("similar",), order=("similar",), depth=1,
                             filters=Filters(caps={"category": 3}))  # fmt: skip
    bundle = Bundle.load(ranked.folder)
    bundle.touchpoints.profiles = {"deep": ranked_profile}
    found = bundle.recommend(["u1"], 20, touchpoint="deep", items=[["i5"]], exclude=["i0", "i7"])
    assert len(found) == 20
    counts = found.join(bundle.items, on="item_id").group_by("category").len()["len"]
    assert counts.max() == 3
    assert not {"i0", "i5", "i7"} & set(found["item_id"])


def test_stock_and_what_was_bought(ranked: Bundle) -> None:
    stock = [f"i{i}" for i in range(0, 80, 4)]
    some = ranked.recommend(["u1"], 20, touchpoint="cart", items=[["i4"]], allow=stock)
    assert set(some["item_id"]) == set(stock) - {"i4"}
    bought = Filters(without_bought=True)
    assert rows(ranked.recommend(["u1"], 80, filters=bought), "u1") == rows(
        ranked.recommend(["u1"], 80, exclude_seen=True), "u1"
    )
    fresh = ranked.recommend(["u1"], 80, filters=bought, histories=[["i79"]])
    assert "i79" not in set(fresh["item_id"])


def test_an_answer_does_not_depend_on_who_else_asks(ranked: Bundle) -> None:
    users = [f"u{i}" for i in range(12)]
    items = [[f"i{i}"] for i in range(12)]
    for touchpoint in ("product_page", "email", "post_purchase"):
        together = ranked.recommend(users, 9, touchpoint=touchpoint, items=items)
        bundle = Bundle.load(ranked.folder)
        bundle.touchpoints.at_once = 5
        apart = bundle.recommend(users, 9, touchpoint=touchpoint, items=items)
        assert together["item_id"].to_list() == apart["item_id"].to_list()


def test_mistakes_are_named(ranked: Bundle) -> None:
    with pytest.raises(
        BundleError, match=r"touchpoint: 'carts' is none of this bundle's: home, .*Did you mean 'cart'\?"
    ):
        ranked.recommend(["u1"], touchpoint="carts")
    with pytest.raises(BundleError, match="items: 1 lists given for 2 users"):
        ranked.recommend(["u1", "u2"], touchpoint="cart", items=[["i1"]])
    with pytest.raises(BundleError, match=r"items: 'i1' is no list; give a list .* such as \[\['i1'\]\]"):
        ranked.recommend(["u1"], touchpoint="cart", items=["i1"])
    with pytest.raises(BundleError, match="items have no attribute 'colour'"):
        ranked.recommend(["u1"], filters=Filters(caps={"colour": 1}))


def test_a_bundle_without_profiles_answers_as_before(ranked: Bundle, exported: Any, tmp_path: Path) -> None:
    folder = exported[0]
    old = Bundle.load(folder)
    assert dict(old.touchpoints.profiles) == {}
    assert len(old.recommend(old.user_ids[:2], 5)) == 10
    with pytest.raises(BundleError, match="none; train with touchpoints=default"):
        old.recommend(old.user_ids[:1], touchpoint="home")
    shutil.copytree(folder, tmp_path / "bundle")
    profile = Profile("item", ("similar",), ("similar",), filters=Filters(price=(None, 10.0), caps={"category": 2}))
    write_touchpoints(tmp_path / "bundle", {"page": profile}, "price")
    new = Bundle.load(tmp_path / "bundle")
    assert new.check_sample() > 0
    assert new.touchpoints.profiles == {"page": profile}
    found = new.recommend([None], 10, touchpoint="page", items=[[1001]]).join(new.items, on="item_id")
    assert len(found) == 10
    assert found["price"].max() <= 10.0  # type: ignore[operator]
    assert found.group_by("category").len()["len"].max() == 2
    like = torch.nn.functional.cosine_similarity(new.item_vectors[1][None], new.item_vectors)
    assert found["score"][0] == pytest.approx(float(like[new.item_ids.to_list().index(found["item_id"][0])]), abs=1e-6)


def test_without_a_ranker_what_needs_one_is_named(exported: Any) -> None:
    bundle = Bundle.load(exported[0])
    for word in ("together", "due"):
        sources = ("together",) if word == "together" else ("personal",)
        bundle.touchpoints.profiles = {"cart": Profile("cart", sources, (word,))}
        with pytest.raises(BundleError, match="is known to bundles with a ranker alone"):
            bundle.recommend([None], 5, touchpoint="cart", items=[[1001]])


def test_profiles_come_back_from_json() -> None:
    profile = Profile("cart", ("together",), ("personal", "due"), 9, 7, Filters(caps={"brand": 2}), ("band: none",))
    plain = json.loads(json.dumps(profile.to_plain()))
    assert Profile.from_plain(plain) == profile
