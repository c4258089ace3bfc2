import math
from dataclasses import replace

import pytest
import torch

from recsys.models.embeddings import FeatureInput, FeatureSum, IdEmbedding, NumericEmbedding, brought_to, unit

NAN = float("nan")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_padding_and_unseen_start_at_zero():
    embedding = IdEmbedding(6, 4, std=1.0)
    assert not embedding.table.weight[:2].any()
    assert embedding.table.weight[2:].abs().min() > 0


def test_one_id_a_row_is_a_lookup():
    embedding = IdEmbedding(6, 4, std=1.0)
    ids = torch.tensor([3, 0, 5])
    assert torch.equal(embedding(ids), embedding.table.weight[ids])


def test_several_ids_are_averaged_over_those_that_are_there():
    embedding = IdEmbedding(6, 4, std=1.0)
    w = embedding.table.weight
    out = embedding(torch.tensor([[3, 0, 5], [0, 0, 0], [0, 2, 0], [4, 4, 1]]))
    expected = torch.stack([(w[3] + w[5]) / 2, torch.zeros(4), w[2], (2 * w[4] + w[1]) / 3])
    assert torch.allclose(out, expected)


def test_padding_learns_nothing_and_unseen_does():
    for sparse in (True, False):
        embedding = IdEmbedding(6, 4, std=1.0, sparse=sparse)
        embedding(torch.tensor([[0, 1, 3]])).sum().backward()
        gradient = embedding.table.weight.grad
        assert gradient.is_sparse == sparse
        gradient = gradient.to_dense() if sparse else gradient
        assert (gradient != 0).any(1).tolist() == [False, True, False, True, False, False]


def test_number_is_scaled_clamped_and_has_a_vector_for_missing():
    embedding = NumericEmbedding(center=10.0, spread=2.0, width=3)
    torch.nn.init.normal_(embedding.missing)
    out = embedding(torch.tensor([10.0, 13.0, 1e9, -math.inf, NAN]))
    expected = torch.tensor([0.0, 1.5, 4.0, -4.0, 0.0]).unsqueeze(1) * embedding.direction
    expected[4] = embedding.missing
    assert torch.allclose(out, expected)
    out.sum().backward()
    assert all(p.grad.isfinite().all() for p in embedding.parameters())


def test_scale_is_part_of_the_saved_model():
    saved = NumericEmbedding(10.0, 2.0, 3).state_dict()
    other = NumericEmbedding(0.0, 1.0, 3)
    other.load_state_dict(saved)
    assert (float(other.center), float(other.spread)) == (10.0, 2.0)


INPUTS = (FeatureInput("brand", rows=5), FeatureInput("tags", rows=9), FeatureInput("price", 0, 2.0, 0.5))


def features(prefix=""):
    return {
        f"{prefix}brand": torch.tensor([2, 0]),
        f"{prefix}tags": torch.tensor([[3, 4], [0, 0]]),
        f"{prefix}price": torch.tensor([2.5, NAN]),
    }


@pytest.mark.parametrize("prefix", ["", "history/"])
def test_sum_is_the_sum_of_the_parts(prefix):
    layer = FeatureSum(INPUTS, width=4, sparse_rows=100)
    torch.nn.init.normal_(layer.bias)
    out = layer(features(prefix) | {"other": torch.tensor([9, 9])}, prefix)
    brand, tags, price = layer.parts
    first = brand.table.weight[2] + (tags.table.weight[3] + tags.table.weight[4]) / 2 + price.direction
    assert torch.allclose(out[0], layer.bias + first, atol=1e-6)
    assert torch.allclose(out[1], layer.bias + price.missing, atol=1e-6)


def test_large_tables_take_sparse_gradients():
    layer = FeatureSum(INPUTS, width=4, sparse_rows=9)
    assert [part.table.sparse for part in layer.parts if isinstance(part, IdEmbedding)] == [False, True]


def test_a_narrow_table_is_brought_to_the_width_and_spreads_alike():
    torch.manual_seed(0)
    wide, narrow = FeatureSum((FeatureInput("tags", rows=4000), FeatureInput("tags", rows=4000, width=8)), 64, 9).parts
    assert (wide.table.weight.shape, narrow.table.weight.shape) == ((4000, 64), (4000, 8))
    assert narrow.table.sparse
    ids = torch.arange(2, 4000)
    assert narrow(ids).std().item() == pytest.approx(wide(ids).std().item(), rel=0.1)
    several = torch.tensor([[3, 4], [0, 0]])
    expected = (narrow.table.weight[3] + narrow.table.weight[4]) / 2 @ narrow.widen.weight.T
    torch.testing.assert_close(narrow(several), torch.stack([expected, torch.zeros(64)]))


@pytest.mark.parametrize("width", [0, 2])
def test_scripted_is_eager(width):
    layer = FeatureSum([replace(i, width=width) for i in INPUTS], width=4, sparse_rows=100)
    torch.nn.init.normal_(layer.bias)
    assert torch.equal(torch.jit.script(layer)(features(), ""), layer(features(), ""))


def test_unit():
    out = unit(torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-20, 0.0]]))
    assert torch.allclose(out[0], torch.tensor([0.6, 0.8]))
    assert out[1].tolist() == [0.0, 0.0]
    assert out.isfinite().all()


def test_a_zero_vector_does_not_explode_the_gradient():
    vectors = torch.zeros(2, 4, requires_grad=True)
    unit(vectors).sum().backward()
    assert vectors.grad.abs().max() < 1e5


def test_wide_vectors_keep_their_leading_components():
    chance = torch.Generator().manual_seed(0)
    vectors = torch.randn(40, 6, generator=chance) * torch.tensor([9.0, 1.0, 4.0, 0.1, 0.2, 0.3]) + 5.0
    found = brought_to(vectors, 3, 0.1)
    assert found.shape == (40, 3)
    assert found.square().mean().sqrt().item() == pytest.approx(0.1, rel=1e-5)
    left, size, _ = torch.linalg.svd(vectors - vectors.mean(0))  # by another way
    expected = left[:, :3] * size[:3]
    expected *= 0.1 / expected.square().mean().sqrt()
    torch.testing.assert_close(found.abs(), expected.abs(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(brought_to(vectors.flip(0), 3, 0.1).flip(0), found, atol=1e-5, rtol=1e-4)  # signs, too


def test_vectors_that_fit_are_scaled_only():
    vectors = torch.tensor([[3.0, 0.0], [0.0, -4.0]])
    for width in (2, 5):
        torch.testing.assert_close(brought_to(vectors, width, 0.1), vectors * 0.1 / 2.5)
    assert (brought_to(torch.full((3, 4), 7.0), 2, 0.1) == 0).all()
    assert (brought_to(torch.zeros(3, 2), 2, 0.1) == 0).all()
    assert brought_to(torch.zeros(0, 4), 2, 0.1).shape == (0, 2)
