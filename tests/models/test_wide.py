import pytest
import torch

from recsys.errors import ConfigError
from recsys.models.wide import Cross, IdInput, WidePart, cross_buckets, mix

IDS = (IdInput("user", 6), IdInput("brand", 5), IdInput("tags", 7, slots=3), IdInput("day", 9))
CROSSES = (Cross(("user", "brand"), 50), Cross(("user", "brand", "day"), 70))


def make(**changes):
    arguments = {"ids": IDS, "crosses": CROSSES, "numerics": ("price", "count"), "bin_counts": (4, 3)}
    return WidePart(**(arguments | {"outputs": 1, "sparse_rows": 10**9} | changes))


def pairs(user=(2, 3), brand=(2, 4), tags=((2, 3, 0), (0, 0, 0)), day=(2, 8)):
    return {n: torch.tensor(v) for n, v in {"user": user, "brand": brand, "tags": tags, "day": day}.items()}


def reference_mix(x):
    """The same in Python, which has no width to overflow."""
    x ^= x >> 16
    x = x * 0x21F0AAAD % 2**32
    x ^= x >> 15
    x = x * 0x735A2D97 % 2**32
    return x ^ x >> 15


def test_mixing_is_exact_and_one_to_one():
    x = torch.cat([torch.arange(50_000), 2**32 - 1 - torch.arange(50_000)])
    found = mix(x)
    assert found[::997].tolist() == [reference_mix(int(v)) for v in x[::997]]
    assert len(found.unique()) == len(x)
    assert found.min() >= 0
    assert found.max() < 2**32


def test_mixing_spreads_every_bit():
    x = torch.randint(0, 2**32, (4000,), generator=torch.Generator().manual_seed(0))
    for bit in range(32):
        changed = mix(x) ^ mix(x ^ (1 << bit))
        shares = torch.stack([(changed >> b & 1).float().mean() for b in range(32)])
        assert (shares - 0.5).abs().max() < 0.06  # of an output bit to change with this input bit


def test_buckets_are_filled_evenly_and_collide_as_chance_does():
    a, b = (g.flatten() for g in torch.meshgrid(torch.arange(2, 502), torch.arange(2, 202), indexing="ij"))
    counts = torch.bincount(cross_buckets([a, b], 7, 1000), minlength=1000).double()
    chi_square = ((counts - 100) ** 2 / 100).sum()  # 999 degrees of freedom: 999 +- 45
    assert 800 < chi_square < 1200
    distinct = len(cross_buckets([a, b], 7, 2**20).unique())
    expected = 2**20 * -torch.expm1(torch.tensor(-1e5 / 2**20)).item()
    assert distinct == pytest.approx(expected, rel=0.005)


def test_order_of_parts_and_salt_matter():
    a, b = torch.arange(2, 102), torch.arange(202, 102, -1)
    one = cross_buckets([a, b], 1, 2**30)
    assert not (one == cross_buckets([b, a], 1, 2**30)).any()
    assert not (one == cross_buckets([a, b], 2, 2**30)).any()


def test_buckets_stay_the_same_for_ever():
    """Weights of a saved model belong to these numbers."""
    ids = [torch.tensor([2, 3, 100_000]), torch.tensor([5, 5, 2**31 - 1])]
    expected = []
    for row in zip(*(part.tolist() for part in ids), strict=True):
        state = reference_mix(12345)
        for value in row:
            state = reference_mix(state ^ value)
        expected.append(state * 1000 >> 32)
    assert cross_buckets(ids, 12345, 1000).tolist() == expected


def test_sum_of_weights_by_hand():
    wide = make()
    for part in (wide.table, wide.bins):
        torch.nn.init.normal_(part.weight)
    with torch.no_grad():
        wide.table.weight[0] = 0.0
    found = wide.encode(pairs(), 2)
    # Rows: nothing, users 2-5, brands 2-4, tags 2-6, days 2-8, two crosses.
    assert found[0, :6].tolist() == [1, 5, 8, 9, 0, 13]
    assert found[1, :6].tolist() == [2, 7, 0, 0, 0, 19]
    assert ((found[:, 6] >= 20) & (found[:, 6] < 70)).all()
    assert ((found[:, 7] >= 70) & (found[:, 7] < 140)).all()
    assert len(wide.table.weight) == 140
    assert len(wide.bins.weight) == 4 + 3
    bins = torch.tensor([[0, 2], [3, 1]])
    w, b = wide.table.weight[:, 0], wide.bins.weight[:, 0]
    expected = torch.stack([w[found[0]].sum() + b[0] + b[6], w[found[1]].sum() + b[3] + b[5]])
    assert torch.allclose(wide(found, bins)[:, 0], expected, atol=1e-6)
    each = wide.weights(found, bins)
    assert torch.allclose(each.sum(1)[:, 0], expected, atol=1e-6)
    names = ["user", "brand", "tags[0]", "tags[1]", "tags[2]", "day", *(c.name for c in CROSSES), "price", "count"]
    assert wide.columns == names
    assert each.shape == (2, len(names), 1)


@pytest.mark.parametrize("nothing", [0, 1])
def test_missing_and_unseen_add_nothing_alone_or_crossed(nothing):
    found = make().encode(pairs(user=(nothing, 3), day=(2, nothing)), 2)
    assert found[0, [0, 6, 7]].tolist() == [0, 0, 0]
    assert found[1, [5, 7]].tolist() == [0, 0]
    assert found[1, 6] > 0  # user and brand are known


def test_starts_at_zero_and_nothing_never_learns():
    wide = make()
    rows, bins = wide.encode(pairs(), 2), torch.tensor([[0, 2], [3, 2]])
    out = wide(rows, bins)
    assert (out == 0).all()
    out.sum().backward()
    gradient = wide.table.weight.grad[:, 0]
    assert gradient[0] == 0
    assert sorted(gradient.nonzero().squeeze(1).tolist()) == sorted({r for r in rows.flatten().tolist() if r})
    assert wide.bins.weight.grad[:, 0].tolist() == [1, 0, 0, 1, 0, 0, 2]


def test_large_tables_take_sparse_gradients():
    for rows, sparse in ((140, True), (141, False)):
        wide = make(sparse_rows=rows)
        wide(wide.encode(pairs(), 2), torch.zeros(2, 2, dtype=torch.int64)).sum().backward()
        assert wide.table.weight.grad.is_sparse == sparse
        assert not wide.bins.weight.grad.is_sparse


def test_a_cross_keeps_its_buckets_whatever_else_is_declared():
    alone, both = make(crosses=CROSSES[1:]), make()
    assert torch.equal(alone.encode(pairs(), 2)[:, 6] + 50, both.encode(pairs(), 2)[:, 7])


@pytest.mark.parametrize(
    ("cross", "message"),
    [
        (Cross(("user", "brnd"), 9), "'brnd' is not a feature with one id a pair.*mean 'brand'"),
        (Cross(("user", "tags"), 9), "'tags' is not a feature with one id a pair"),
        (Cross(("user",), 9), "two or more"),
        (Cross(("user", "user"), 9), "two or more"),
        (Cross(("user", "brand"), 0), "buckets 0"),
    ],
)
def test_impossible_crosses_are_refused(cross, message):
    with pytest.raises(ConfigError, match=message):
        make(crosses=(cross,))
