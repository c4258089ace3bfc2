"""What is picked from candidates: against hand-made tables, and against a plain loop on random ones."""

import polars as pl
import pytest
import torch
from torch import Tensor

from recsys.bundle.filters import Filters, ItemFacts, allowed_items
from recsys.bundle.picking import Picked, full_values, pick
from recsys.errors import BundleError

ITEMS = pl.DataFrame(
    {
        "item_id": list(range(6)),
        "kind": ["a", "a", "a", "b", "b", None],
        "brand": ["x", "y", "x", "x", "y", "y"],
        "asof/age": [0.0] * 6,
    }
)
PRICES = torch.tensor([1.0, 2.0, 3.0, 4.0, torch.nan, 6.0])
FACTS = ItemFacts(ITEMS, PRICES)
ONES = torch.ones(6, dtype=torch.bool)


def picked(scores: list[float], k: int, filters: Filters, vectors: Tensor | None = None) -> list[int]:
    items = torch.arange(len(scores))[None]
    values = torch.tensor([scores])
    found = pick(items, values, values, torch.tensor([k]), filters, FACTS, torch.eye(6) if vectors is None else vectors)
    return [item for item in found.items[0].tolist() if item >= 0]


def test_without_filters_the_best_come_in_order_and_of_equal_ones_the_first() -> None:
    assert picked([0.1, 0.9, 0.9, 0.0, 0.5, 0.2], 4, Filters()) == [1, 2, 4, 5]


def test_a_cap_counts_each_value_and_not_what_has_none() -> None:
    scores = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    assert picked(scores, 6, Filters(caps={"kind": 1})) == [0, 3, 5]
    assert picked(scores, 6, Filters(caps={"kind": 2, "brand": 2})) == [0, 1, 3, 4]
    assert picked(scores, 2, Filters(caps={"kind": 2})) == [0, 1]


def test_diversity_by_hand() -> None:
    """0 and 1 are the same thing, 2 is something else: after 0, at 0.5, 1 has 0.5 * 0.9 - 0.5 and 2 has 0.5 * 0.2."""
    vectors = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    scores = [1.0, 0.9, 0.2, 0.0]
    assert picked(scores, 3, Filters(diversity=0.5), vectors) == [0, 2, 1]
    assert picked(scores, 3, Filters(diversity=0.95), vectors) == [0, 1, 2]


@pytest.mark.parametrize("diversity", [1.0, 0.6, 0.0])
@pytest.mark.parametrize("caps", [{}, {"kind": 3}, {"kind": 4, "brand": 5}])
def test_the_same_as_a_plain_loop(diversity: float, caps: dict[str, int]) -> None:
    chance = torch.Generator().manual_seed(1)
    n, k = 60, 12
    vectors = torch.randn(n, 5, generator=chance)
    kind, brand = (torch.randint(6, (n,), generator=chance).tolist() for _ in range(2))
    items = pl.DataFrame({"item_id": range(n), "kind": [c or None for c in kind], "brand": [f"b{c}" for c in brand]})
    facts, filters = ItemFacts(items, None), Filters(caps=caps, diversity=diversity)
    pool = torch.stack([torch.randperm(n, generator=chance)[:30] for _ in range(4)])
    pool[1, 20:] = -1
    scores = torch.randn(4, 30, generator=chance)
    ks = torch.tensor([k, k, 5, k])
    found = pick(pool, scores, scores * 10, ks, filters, facts, vectors)
    for row in range(4):
        expected = plainly(row, pool, scores, int(ks[row]), items, filters, vectors)
        own = [item for item in found.items[row].tolist() if item >= 0]
        assert own == expected
        place = [pool[row].tolist().index(item) for item in own]
        assert found.scores[row, : len(own)].tolist() == pytest.approx((scores[row, place] * 10).tolist())
        # half of them first, and then the rest: nothing is forgotten in between
        first = pick(pool, scores, scores, (ks // 2), filters, facts, vectors, Picked.nothing(4, k))
        left = torch.where((pool[:, :, None] == first.items[:, None]).any(2), -1, pool)
        again = pick(left, scores, scores, ks, filters, facts, vectors, first)
        assert sorted(again.items[row].tolist()) == sorted(found.items[row].tolist()) or diversity < 1


def plainly(
    row: int, pool: Tensor, scores: Tensor, k: int, items: pl.DataFrame, filters: Filters, vectors: Tensor
) -> list[int]:
    candidates = {int(i): float(s) for i, s in zip(pool[row], scores[row], strict=True) if i >= 0}
    low, high = min(candidates.values()), max(candidates.values())
    out: list[int] = []
    while len(out) < k:
        best, value = None, float("-inf")
        for item, score in candidates.items():
            if item in out:
                continue
            full = False
            for attribute, most in filters.caps.items():
                own = items[attribute][item]
                full |= own is not None and sum(items[attribute][o] == own for o in out) >= most
            near = max([0.0, *(float(torch.cosine_similarity(vectors[item], vectors[o], dim=0)) for o in out)])
            now = filters.diversity * (score - low) / (high - low) - (1 - filters.diversity) * near
            if not full and now > value + 1e-7:
                best, value = item, now
        if best is None:
            break
        out.append(best)
    return out


def test_values_that_are_full_keep_their_items_out() -> None:
    full = full_values(
        Filters(caps={"kind": 2}), FACTS, Picked(torch.tensor([[0, 2, -1], [5, 5, 0]]), torch.zeros(2, 3))
    )
    assert full.tolist() == [[True, True, True, False, False, False], [False] * 6]


def test_masks_by_hand() -> None:
    def may(filters: Filters, anchors: list[int], left_out: tuple[int, ...] = ()) -> list[int]:
        mask = allowed_items(filters, FACTS, ONES, [torch.tensor(anchors, dtype=torch.int64)], [left_out])
        return mask[0].nonzero().squeeze(1).tolist()

    assert may(Filters(), [2], (0, 5)) == [1, 3, 4]
    assert may(Filters(price=(2.0, 4.0)), []) == [1, 2, 3]
    assert may(Filters(price=(None, 2.0)), []) == [0, 1]
    assert may(Filters(price=(3.0, None)), []) == [2, 3, 5]
    assert may(Filters(band=(1.5, 3.0)), [1]) == [2, 3, 5]
    assert may(Filters(band=(1.5, 3.0), same="kind"), [0]) == [1, 2]
    assert may(Filters(same="kind"), [0, 3]) == [1, 2, 4]
    assert may(Filters(same="kind"), [5]) == []  # it has no kind
    assert may(Filters(band=(0.0, 9.0)), [4]) == []  # it has no price
    assert may(Filters(same="kind"), []) == []
    assert ONES.all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"price": (5.0, 1.0)}, "price from 5 to 1 holds nothing"),
        ({"diversity": 1.5}, "diversity 1.5 is no weight"),
        ({"caps": {"kind": 0}}, "a cap of 0 on 'kind' leaves nothing"),
    ],
)
def test_filters_that_mean_nothing(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Filters(**wrong)  # type: ignore[arg-type]


def test_what_the_bundle_does_not_have_is_named() -> None:
    with pytest.raises(
        BundleError, match=r"items have no attribute 'kin'; there are: item_id, kind, brand. Did you mean"
    ):
        FACTS.codes("kin")
    odd = ItemFacts(ITEMS.rename({"kind": "category/l1"}), PRICES)
    assert odd.codes("category/l1").tolist() == FACTS.codes("kind").tolist()
    with pytest.raises(BundleError, match="this bundle has no prices"):
        _ = ItemFacts(ITEMS, None).prices


def test_filters_come_back_from_json() -> None:
    filters = Filters(True, (None, 3.0), (1.1, 2.0), "kind", {"brand": 2}, 0.5)
    assert Filters.from_plain(filters.to_plain()) == filters
