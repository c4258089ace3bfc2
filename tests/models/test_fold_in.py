import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.models.fold_in import FoldIn, event_confidence, first_occurrence

ITEMS, WIDTH, RIDGE = 30, 5, 2.0


def fitted(steps=3, seed=0, scale=1.0):
    """Random factors for ids 2 ..., as a factorisation gives them; the last id has no events."""
    chance = torch.Generator().manual_seed(seed)
    factors = torch.randn(ITEMS, WIDTH, generator=chance) * 0.4
    factors[-1] = 0.0
    model = FoldIn(ITEMS + 2, WIDTH, confidence=0.6, decay=0.5, steps=steps)
    model.start_from(torch.arange(2, ITEMS + 2), factors, RIDGE, scale)
    return model, factors


def solved(factors, ids, age):
    """The definition, one user, in float64: every pair of user and item has a confidence and a target."""
    confidence = torch.ones(ITEMS, dtype=torch.float64)
    target = torch.zeros(ITEMS, dtype=torch.float64)
    for item in {i for i in ids.tolist() if i > 1}:
        days = age[ids == item].double()
        confidence[item - 2] = (0.6 * (1 + days / 30) ** -0.5).sum()
        target[item - 2] = 1.0
    y = factors.double()
    matrix = y.T @ (confidence[:, None] * y) + RIDGE * torch.eye(WIDTH, dtype=torch.float64)
    return torch.linalg.solve(matrix, y.T @ (confidence * target))


def histories(n, length, seed=0):
    chance = torch.Generator().manual_seed(seed)
    return torch.randint(0, ITEMS + 2, (n, length), generator=chance), torch.rand(n, length, generator=chance) * 300


@pytest.mark.parametrize("length", [1, 7, 60])
def test_is_the_weighted_ridge_regression(length):
    model, factors = fitted(steps=WIDTH + 1)  # conjugate gradients are exact after K steps
    ids, age = histories(9, length)
    found = model(ids, age)
    for row in range(9):
        assert torch.allclose(found[row].double(), solved(factors, ids[row], age[row]), atol=1e-5)


def test_few_steps_are_near():
    ids, age = histories(50, 20)
    few, exact = fitted(steps=3)[0](ids, age), fitted(steps=WIDTH + 1)[0](ids, age)
    assert (few - exact).norm() < 0.02 * exact.norm()
    assert (fitted(steps=0)[0](ids, age) - exact).norm() > 0.02 * exact.norm()


def test_agrees_with_implicit():
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix
    from threadpoolctl import threadpool_limits

    model, factors = fitted(steps=WIDTH + 1)
    ids = torch.tensor([[2, 9, 17, 0, 0]])
    age = torch.tensor([[10.0, 50.0, 0.0, 0.0, 0.0]])
    with threadpool_limits(1, "blas"):
        library = AlternatingLeastSquares(factors=WIDTH, regularization=RIDGE, alpha=1.0)
    library.item_factors = factors.numpy()
    weights = event_confidence(age, 0.6, 0.5)[0, :3].numpy()
    row = csr_matrix((weights, ([0, 0, 0], (ids[0, :3] - 2).numpy())), shape=(1, ITEMS))
    expected = torch.from_numpy(library.recalculate_user(0, row))
    assert torch.allclose(model(ids, age)[0], expected.float(), atol=1e-5)


@settings(max_examples=30)
@given(st.permutations(range(12)), st.integers(0, 5))
def test_order_padding_and_unknown_items_do_not_matter(order, padding):
    model, _ = fitted()
    ids, age = histories(3, 12)
    shuffled = ids[:, order], age[:, order]
    nothing = torch.randint(0, 2, (3, padding))  # PAD_ID and OOV_ID
    more = torch.cat([shuffled[0], nothing], 1), torch.cat([shuffled[1], torch.rand(3, padding) * 9], 1)
    assert torch.allclose(model(*more), model(ids, age), atol=1e-5)


def test_nothing_known_gives_zero():
    model, _ = fitted()
    ids = torch.tensor([[0, 0], [1, 0], [ITEMS + 1, ITEMS + 1]])  # none, unknown, one without events
    assert (model(ids, torch.zeros(3, 2)) == 0).all()
    assert (model.items(torch.tensor([0, 1, ITEMS + 1])) == 0).all()


def test_fresh_events_weigh_more_and_scale_multiplies():
    model, factors = fitted()
    ids = torch.tensor([[4]])
    fresh, old = (model(ids, torch.tensor([[days]])) @ factors[2] for days in (0.0, 300.0))
    assert 0 < old < fresh < 1
    assert torch.allclose(fitted(scale=3.0)[0](ids, torch.zeros(1, 1)), 3 * model(ids, torch.zeros(1, 1)))


def test_factors_do_not_learn():
    model, _ = fitted()
    assert not any(p.requires_grad for p in model.parameters())


def test_width_zero_is_no_part():
    model = FoldIn(4, 0, 0.6, 0.5)
    assert model(torch.tensor([[2, 3]]), torch.zeros(1, 2)).shape == (1, 0)
    assert model.items(torch.tensor([2, 3])).shape == (2, 0)


def test_exports_for_any_number_of_users_and_length():
    model, _ = fitted()
    sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.export.export(model, histories(3, 7), dynamic_shapes=(sizes, sizes)).module()
    for n, length in ((1, 1), (5, 2), (2, 40)):
        ids, age = histories(n, length, seed=n)
        assert torch.allclose(program(ids, age), model(ids, age), atol=1e-6)


def test_first_occurrence_counts_each_id_once():
    ids = torch.tensor([[5, 3, 5, 5, 3, 9]])
    assert first_occurrence(ids).tolist() == [[1, 1, 0, 0, 0, 1]]


def test_confidence_halves_in_a_month_at_power_one():
    assert event_confidence(torch.tensor([0.0, 30.0, 90.0, -5.0]), 2.0, 1.0).tolist() == [2.0, 1.0, 0.5, 2.0]
