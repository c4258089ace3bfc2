import pytest
import torch

from recsys.models.dropout import Dropout


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.999])
def test_the_share_is_dropped_and_the_mean_stays(device: torch.device, share):
    torch.manual_seed(0)
    x = torch.ones(1001, 517, device=device)
    out = Dropout(share).to(device)(x)
    kept = out != 0
    assert abs(float((~kept).float().mean()) - share) < 0.004  # half a 256th, and chance
    assert abs(float(out.double().mean()) - 1) < 0.05
    assert len(out[kept].unique()) == 1
    rows = (~kept).float().mean(1)
    assert float(rows.std()) < 0.05  # every row loses its share


def test_gradients_go_where_numbers_went():
    torch.manual_seed(1)
    x = torch.randn(40, 7, requires_grad=True)
    out = Dropout(0.5)(x)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad != 0, out != 0)
    assert torch.allclose(out, x * x.grad)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_nothing_is_dropped_where_nothing_shall_be(share):
    module = Dropout(share)
    if share:
        module.eval()
    x = torch.randn(5, 3)
    assert module(x) is x


def test_the_same_seed_drops_the_same():
    x = torch.ones(9, 11)
    torch.manual_seed(2)
    one = Dropout(0.4)(x)
    torch.manual_seed(2)
    assert torch.equal(Dropout(0.4)(x), one)
    assert not torch.equal(Dropout(0.4)(x), one)


def test_half_precision_stays():
    out = Dropout(0.2)(torch.ones(64, 64, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16


def test_what_is_scripted_answers_and_does_not_learn():
    module, x = torch.jit.script(Dropout(0.3)), torch.ones(100, 100)
    assert torch.equal(module.eval()(x), x)
    with pytest.raises(torch.jit.Error, match="annotated to be ignored"):
        module.train()(x)
