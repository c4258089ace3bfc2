import pytest
import torch

from recsys.models.attention import CandidateAttention

D, H = 5, 4


def make(seed=0):
    torch.manual_seed(seed)
    layer = CandidateAttention(D, H)
    torch.nn.init.normal_(layer.of_age)
    return layer


def problem(pairs, requests, length, seed=0):
    chance = torch.Generator().manual_seed(seed)
    return (
        torch.randn(pairs, D, generator=chance),
        torch.randn(requests, length, D, generator=chance),
        torch.rand(requests, length, generator=chance) * 400,
        torch.rand(requests, length, generator=chance) < 0.7,
        torch.randint(0, requests, (pairs,), generator=chance),
    )


def naive(layer, candidate, history, age, visible, request):
    """By definition: one pair and one event at a time, the network on everything at once."""
    out = torch.zeros(len(candidate), D + 1)
    for pair, row in enumerate(request.tolist()):
        for event in range(history.shape[1]):
            if visible[row, event]:
                c, e = candidate[pair], history[row, event]
                bucket = min(int(torch.log2(age[row, event] + 1) * 1.8), 15)
                hidden = c @ layer.of_candidate.weight.T + layer.of_candidate.bias
                hidden = hidden + e @ layer.of_event.weight.T + (c * e) @ layer.of_product + layer.of_age[bucket]
                weight = layer.weight(layer.activation(hidden))
                out[pair, :D] += weight * e
                out[pair, D] += weight[0]
    return out


@pytest.mark.parametrize(("pairs", "requests", "length"), [(1, 1, 1), (9, 3, 7), (2, 5, 1)])
@torch.no_grad()
def test_is_its_definition(pairs, requests, length):
    layer, inputs = make(), problem(pairs, requests, length)
    assert torch.allclose(layer(*inputs), naive(layer, *inputs), atol=1e-5)


@torch.no_grad()
def test_what_is_not_there_does_not_matter():
    layer = make()
    candidate, history, age, visible, request = problem(9, 3, 7)
    noise = torch.where(visible.unsqueeze(2), history, 99.0)
    wild = torch.where(visible, age, float("nan"))
    expected = layer(candidate, history, age, visible, request)
    assert torch.allclose(layer(candidate, noise, wild, visible, request), expected, atol=1e-5)
    assert (layer(candidate, history, age, torch.zeros_like(visible), request) == 0).all()


@torch.no_grad()
def test_order_of_events_does_not_matter_and_the_candidate_does():
    layer = make()
    candidate, history, age, visible, request = problem(9, 3, 7)
    found = layer(candidate, history, age, visible, request)
    turned = layer(candidate, history.flip(1), age.flip(1), visible.flip(1), request)
    assert torch.allclose(turned, found, atol=1e-5)
    assert not torch.allclose(layer(candidate.flip(0), history, age, visible, request), found, atol=0.1)


def test_gradients_are_finite_whatever_is_missing():
    layer = make()
    candidate, history, _, visible, request = problem(9, 3, 7)
    age = torch.tensor([float("nan"), float("inf"), -5.0, 0.0, 1e30, 3.0, float("-inf")]).expand(3, 7)
    layer(candidate, history, age, visible, request).sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@torch.no_grad()
def test_scripted_is_eager():
    layer = make()
    scripted = torch.jit.script(layer)
    for sizes in ((1, 1, 1), (130, 3, 40), (0, 2, 3)):
        inputs = problem(*sizes)
        for _ in range(3):
            assert torch.allclose(scripted(*inputs), layer(*inputs), atol=1e-5)
