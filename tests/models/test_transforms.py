import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import ConfigError
from recsys.models.transforms import FORMS, NumericFit, NumericTransform, fit_numeric, signed_log

NAN, INF = float("nan"), float("inf")
NUMBERS = st.floats(-1e6, 1e6, width=32)


def place(fit, *values):
    """Bins, positions and logs of one feature."""
    bins, position, logs = NumericTransform([fit])({fit.name: torch.tensor(values)})
    return bins[:, 0].tolist(), position[:, 0], logs[:, 0]


def deep(fits, forms, **values):
    layer = NumericTransform(fits, forms)
    _, position, logs = layer({name: torch.tensor(column) for name, column in values.items()})
    out = layer.deep(position, logs)
    assert out.shape[1] == layer.width
    return out


def test_few_values_are_all_knots_with_mid_ranks():
    fit = fit_numeric("count", torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 5.0, 5.0]))
    assert fit.knots == (0.0, 1.0, 5.0)
    assert fit.levels == (0.25, 0.625, 0.875)
    assert not fit.missing


def test_a_frequent_value_has_its_own_knot_and_leaves_the_others_theirs():
    chance = torch.Generator().manual_seed(0)
    rest = torch.rand(1000, generator=chance) * 9 + 1
    fit = fit_numeric("count", torch.cat([torch.zeros(9000), rest]), knots=11)
    assert len(fit.knots) == 11
    assert fit.knots[0] == 0.0
    assert fit.levels[0] == pytest.approx(0.45)
    steps = np.diff(fit.levels[1:])
    assert steps == pytest.approx(np.full(9, 0.011), abs=1e-3)  # a tenth of the rest, in ten parts but for the ends


@given(st.lists(NUMBERS, min_size=1, max_size=200), st.integers(2, 20))
def test_fits_are_well_formed_and_levels_are_those_of_the_sample(values, knots):
    fit = fit_numeric("x", torch.tensor(values), knots)
    assert 1 <= len(fit.knots) <= knots
    assert all(a < b for a, b in zip(fit.knots, fit.knots[1:], strict=False))
    assert all(0 < a < 1 for a in fit.levels)
    for knot, level in zip(fit.knots, fit.levels, strict=True):
        below, at = sum(v < knot for v in values), sum(v == knot for v in values)
        assert level == pytest.approx((below + at / 2) / len(values))
    assert fit.spread > 0


@pytest.mark.parametrize("values", [[], [NAN, NAN], [INF, -INF]])
def test_nothing_to_learn_from(values):
    fit = fit_numeric("x", torch.tensor(values, dtype=torch.float32))
    assert (fit.knots, fit.levels, fit.spread) == ((0.0,), (0.5,), 1.0)
    out = deep([fit], FORMS, x=[NAN, INF, -INF, 3.0])
    assert out.isfinite().all()


def test_a_sample_of_many_rows_is_enough():
    values = torch.arange(1_000_000).float()
    few = fit_numeric("x", values, sample=10_000)
    assert few.knots[16] == pytest.approx(fit_numeric("x", values).knots[16], rel=1e-3)


FIT = NumericFit("x", (0.0, 10.0, 20.0, 40.0), (0.1, 0.5, 0.8, 0.9), center=1.0, spread=2.0, missing=True)


def test_place_among_knots_by_hand():
    bins, position, logs = place(FIT, -3.0, 0.0, 5.0, 10.0, 35.0, 40.0, 1e9, INF, -INF, NAN)
    assert bins == [0, 0, 0, 1, 2, 3, 3, 3, 0, 4]
    assert position[:-1].tolist() == [0.0, 0.0, 0.5, 1.0, 2.75, 3.0, 3.0, 3.0, 0.0]
    assert position[-1].isnan()
    assert logs[:-1].tolist() == pytest.approx(
        [(s * math.log1p(abs(v)) - 1) / 2 for s, v in ((-1, 3), (1, 0), (1, 5), (1, 10), (1, 35), (1, 40))] + [4, 4, -4]
    )
    assert logs[-1].isnan()


def test_forms_by_hand():
    x = [5.0, 100.0, NAN]
    assert deep([FIT], ["quantile"], x=x).tolist() == [
        [0.0, pytest.approx(-0.4)],
        [0.0, pytest.approx(0.8)],
        [1.0, 0.0],
    ]
    # The normal scores of 0.1 and 0.5, half way, and of 0.9.
    assert deep([FIT], ["normal"], x=x)[:, 1].tolist() == pytest.approx([-1.2815516 / 2, 1.2815516, 0.0])
    assert deep([FIT], ["piecewise"], x=x)[:, 1:].tolist() == [[0.0, -0.5, -0.5], [0.5, 0.5, 0.5], [0.0, 0.0, 0.0]]
    assert deep([FIT], ["log"], x=x)[:, 1].tolist() == pytest.approx(
        [(math.log(6) - 1) / 2, (math.log(101) - 1) / 2, 0]
    )


def test_what_was_never_missing_has_no_input_for_it():
    never = NumericFit("y", (0.0, 1.0), (0.2, 0.7), 0.0, 1.0, missing=False)
    out = deep([never, FIT], ["quantile"], x=[NAN, 0.0], y=[NAN, 0.0])
    assert out[0].tolist() == [1.0, 0.0, 0.0]  # the flag of x, and neutral values


def test_shorter_features_have_no_dead_inputs():
    short = NumericFit("y", (0.0, 1.0), (0.2, 0.7), 0.0, 1.0, missing=False)
    out = deep([short, FIT], ["piecewise"], x=[15.0], y=[1.0])
    assert out.tolist() == [[0.0, 0.5, 0.5, 0.0, -0.5]]


@given(st.lists(NUMBERS, min_size=2, max_size=60), st.lists(NUMBERS, min_size=2, max_size=9))
def test_every_form_keeps_the_order(sample, values):
    fit = fit_numeric("x", torch.tensor(sample), knots=8)
    out = deep([fit], FORMS, x=sorted(values))
    assert (out.diff(dim=0) >= -1e-5).all()
    assert out.isfinite().all()


@given(st.lists(NUMBERS, min_size=1, max_size=60), st.lists(NUMBERS, min_size=1, max_size=9))
def test_levels_are_those_of_numpy(sample, values):
    fit = fit_numeric("x", torch.tensor(sample), knots=8)
    expected = 2 * np.interp(np.float32(values), np.float32(fit.knots), fit.levels) - 1
    assert deep([fit], ["quantile"], x=values)[:, 0].numpy() == pytest.approx(expected, abs=2e-5)


def test_scripted_is_eager_and_survives_saving():
    other = fit_numeric("y", torch.arange(500).float() ** 2)
    layer = NumericTransform([FIT, other], FORMS)
    empty = NumericTransform([FIT, NumericFit("y", other.knots, other.levels, 0.0, 1.0, False)], FORMS)
    empty.load_state_dict(layer.state_dict())
    scripted = torch.jit.script(empty)
    for n in (0, 1, 3, 1000):
        chance = torch.Generator().manual_seed(n)
        columns = {name: torch.randn(n, generator=chance) * 1000 for name in ("x", "y")}
        columns["x"][::3] = NAN
        for _ in range(3):
            found = scripted(columns)
        for one, two in zip(found, layer(columns), strict=True):
            assert torch.equal(torch.nan_to_num(one.float(), -9), torch.nan_to_num(two.float(), -9))


def test_whole_numbers_are_numbers_too():
    layer = NumericTransform([FIT])
    one, two = (layer({"x": torch.tensor([5, 35]).to(kind)}) for kind in (torch.int64, torch.float64))
    assert torch.equal(one[1], two[1])
    assert one[0].tolist() == [[0], [2]]


def test_an_unknown_form_is_refused():
    with pytest.raises(ConfigError, match=r"'quantil' is not one of quantile.*mean 'quantile'"):
        NumericTransform([FIT], ["quantil"])


def test_signed_log():
    assert signed_log(torch.tensor([-math.e + 1, 0.0, math.e - 1])).tolist() == pytest.approx([-1, 0, 1])
