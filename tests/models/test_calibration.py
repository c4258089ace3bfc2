import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.models.calibration import (
    STEEPEST,
    IsotonicScale,
    PlattScale,
    fit_isotonic,
    fit_platt,
)


def scores(n=5000, seed=0, slope=2.0, bias=-1.5):
    """Logits, and labels whose true log odds are ``slope * logit + bias``."""
    chance = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, generator=chance)
    return logits, (torch.rand(n, generator=chance) < torch.sigmoid(slope * logits + bias)).float()


def test_platt_is_the_logistic_regression_of_sklearn():
    from sklearn.linear_model import LogisticRegression

    logits, labels = scores()
    found = fit_platt(logits, labels)
    theirs = LogisticRegression(C=1e9, tol=1e-10).fit(logits[:, None].numpy(), labels.numpy())
    assert found.slope.item() == pytest.approx(theirs.coef_.item(), rel=0.01)  # their labels are not smoothed
    assert found.bias.item() == pytest.approx(theirs.intercept_.item(), rel=0.01)


def test_temperature_is_the_best_one():
    logits, labels = scores(bias=0.0)
    found = fit_platt(logits, labels, use_bias=False)
    assert found.bias.item() == 0.0
    slopes = torch.linspace(0.5, 4, 3501)
    losses = torch.stack([torch.nn.functional.binary_cross_entropy_with_logits(s * logits, labels) for s in slopes])
    assert found.slope.item() == pytest.approx(slopes[losses.argmin()].item(), rel=0.01)


def test_separable_and_reversed_scores_have_finite_rising_answers():
    logits = torch.linspace(-1, 1, 100)
    for labels in ((logits > 0).float(), (logits < 0).float()):
        found = fit_platt(logits, labels)
        p = found(logits)
        assert p.isfinite().all()
        assert 0 < found.slope < math.inf
        assert (p.diff() >= 0).all()


def test_logits_that_hardly_differ_get_no_steep_scale():
    logits, labels = scores()
    found = fit_platt(0.01 * logits, labels)  # without a bound: 200, and 0.05 between two fits would be ten
    assert found.slope.item() == pytest.approx(STEEPEST)
    assert found(0.01 * logits).mean().item() == pytest.approx(labels.mean().item(), rel=0.01)
    assert fit_platt(0.01 * logits, labels, use_bias=False).slope.item() <= STEEPEST + 1e-6


@pytest.mark.parametrize("spread", [0.01, 0.03, 0.1])
@pytest.mark.parametrize("offset", [-3.0, 0.0])
def test_at_the_bound_the_mean_is_still_the_rate(spread, offset):
    draw = torch.Generator().manual_seed(5)
    logits = spread * torch.randn(20_000, generator=draw)
    labels = (torch.rand(20_000, generator=draw) < torch.sigmoid(2 / spread * logits - 2)).float()
    found = fit_platt(logits + offset, labels)
    assert found.slope.item() == STEEPEST
    assert found(logits + offset).double().mean().item() == pytest.approx(labels.mean().item(), rel=0.005)


@pytest.mark.parametrize("fit", [fit_platt, fit_isotonic])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_kind_of_label_is_refused(fit, label):
    with pytest.raises(DataError, match=r"of 4 labels are positive.*longer window"):
        fit(torch.randn(4), torch.full((4,), label))


def test_isotonic_is_that_of_sklearn():
    from sklearn.isotonic import IsotonicRegression

    logits, labels = scores(400)
    probe = torch.linspace(-6, 6, 999)
    ours = fit_isotonic(logits, labels)(probe)
    theirs = IsotonicRegression().fit(logits.double().numpy(), labels.numpy())
    bounded = theirs.y_thresholds_.clip(0.5 / 401, 1 - 0.5 / 401)
    assert ours.numpy() == pytest.approx(np.interp(probe, theirs.X_thresholds_, bounded), abs=1e-5)
    assert ((ours > 0) & (ours < 1)).all()
    assert (ours.diff() >= -1e-7).all()


def test_isotonic_by_hand():
    scale = IsotonicScale([0.0, 1.0, 3.0], [0.1, 0.2, 0.8])
    out = scale(torch.tensor([-9.0, 0.0, 0.5, 1.0, 2.0, 3.0, math.inf, -math.inf]))
    assert out.tolist() == pytest.approx([0.1, 0.1, 0.15, 0.2, 0.5, 0.8, 0.8, 0.1])
    assert IsotonicScale([2.0], [0.3])(torch.tensor([1.0, 2.0, 5.0])).tolist() == pytest.approx([0.3] * 3)


@given(st.lists(st.tuples(st.floats(-30, 30, width=32), st.booleans()), min_size=2, max_size=60))
def test_isotonic_rises_and_keeps_the_mean(rows):
    logits, labels = torch.tensor([r[0] for r in rows]), torch.tensor([float(r[1]) for r in rows])
    if labels.unique().numel() < 2:
        return
    p = fit_isotonic(logits, labels)(logits)
    assert (p[logits.argsort()].diff() >= -1e-6).all()
    assert p.mean().item() == pytest.approx(labels.mean().item(), abs=0.5 / (len(rows) + 1) + 1e-5)


@pytest.mark.parametrize("scale", [PlattScale(2.0, -1.0), IsotonicScale([-1.0, 0.5, 2.0], [0.1, 0.1, 0.9])])
def test_scripted_exported_and_saved_are_eager(scale):
    scripted = torch.jit.script(scale)
    program = torch.export.export(scale, (torch.randn(5),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    other = type(scale)(0.0, 0.0) if isinstance(scale, PlattScale) else IsotonicScale([0.0] * 3, [0.0] * 3)
    other.load_state_dict(scale.state_dict())
    for n in (0, 1, 3, 1000):
        logits = torch.randn(n, generator=torch.Generator().manual_seed(n)) * 3
        for form in (scripted, program, other):
            assert torch.allclose(form(logits), scale(logits), atol=1e-6)
    assert scale(torch.zeros(4, 2)).shape == (4, 2)


def test_fits_find_the_true_probabilities():
    logits, labels = scores(20_000)
    probe, _ = scores(20_000, seed=1)
    truth = torch.sigmoid(2.0 * probe - 1.5)

    def error(p):
        return float((p - truth).abs().mean())

    assert error(torch.sigmoid(probe)) > 0.1
    assert error(fit_platt(logits, labels)(probe)) < 0.01
    assert error(fit_isotonic(logits, labels)(probe)) < 0.025
