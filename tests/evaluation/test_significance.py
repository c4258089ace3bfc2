"""Bootstrap intervals: against the normal theory, and by what pairing must do."""

import math

import pytest
import torch

from recsys.evaluation import significance
from recsys.evaluation.significance import mean_interval, paired_difference

VALUES = torch.rand(400, generator=torch.Generator().manual_seed(1))


def test_interval_is_about_two_standard_errors_wide() -> None:
    interval = mean_interval(VALUES, resamples=4000)
    error = VALUES.std().item() / math.sqrt(len(VALUES))
    assert interval.mean == pytest.approx(VALUES.mean().item())
    assert interval.low == pytest.approx(interval.mean - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(interval.mean + 1.96 * error, abs=0.15 * error)


def test_pairing_sees_a_small_constant_gain_through_large_variance() -> None:
    gain = paired_difference(VALUES + 0.001, VALUES)
    assert gain.low == pytest.approx(0.001, abs=1e-6)
    assert gain.above_zero
    assert not gain.below_zero
    loss = paired_difference(VALUES, VALUES + 0.001)
    assert loss.below_zero
    assert not loss.above_zero


def test_no_difference_holds_zero() -> None:
    shuffled = VALUES[torch.randperm(400, generator=torch.Generator().manual_seed(2))]
    interval = paired_difference(VALUES, shuffled)
    assert interval.low < 0 < interval.high
    assert not interval.above_zero
    assert not interval.below_zero


def test_same_seed_same_interval_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mean_interval(VALUES, 200, seed=7)
    assert whole == mean_interval(VALUES, 200, seed=7) != mean_interval(VALUES, 200, seed=8)
    monkeypatch.setattr(significance, "CHUNK", 3 * 400)
    chunked = mean_interval(VALUES, 200, seed=7)
    assert (chunked.low, chunked.high) == pytest.approx((whole.low, whole.high))


def test_few_users_make_nothing_sure() -> None:
    for users in (1, 2, 9):
        loss = paired_difference(torch.zeros(users), torch.full((users,), 0.5))
        assert (loss.mean, loss.low, loss.high) == (-0.5, -math.inf, math.inf)
        assert [loss.below_zero, loss.above_zero, loss.is_bounded] == [False] * 3
        assert loss.to_plain() == {"mean": -0.5, "low": None, "high": None}
    loss = paired_difference(torch.zeros(10), torch.full((10,), 0.5))
    assert loss.below_zero
    assert loss.to_plain() == {"mean": -0.5, "low": -0.5, "high": -0.5}


def test_different_users_are_refused() -> None:
    with pytest.raises(ValueError, match="same users"):
        paired_difference(VALUES, VALUES[1:])
