"""Cuts by hand, and a past before each of them, however the windows lie."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.config.schema import Config, RankerConfig, RankerTrainingConfig
from recsys.data.dataset import microseconds
from recsys.data.log import DAY, as_time
from recsys.data.split import Windows
from recsys.entries.cuts import cuts, horizon
from recsys.errors import DataError

START = datetime(2024, 1, 1, tzinfo=UTC)
WINDOWS = Windows(*(START + timedelta(days=days) for days in (0, 100, 110, 120)))


@pytest.mark.parametrize(
    ("settings", "length", "expected"),
    [
        ({}, 10, [80, 85, 90]),  # as long as validation, half of it apart
        ({"snapshots": 1}, 10, [90]),
        ({"horizon_days": 30, "stride_days": 25, "snapshots": 4}, 30, [20, 45, 70]),  # -5 has no past
        ({"horizon_days": 30, "stride_days": 25.5, "snapshots": 4}, 30, [44.5, 70]),  # nor has 19 a fifth of the window
        ({"horizon_days": 80}, 80, [20]),
        ({"horizon_days": 0.5, "stride_days": 0.25, "snapshots": 2}, 0.5, [99.25, 99.5]),
    ],
)
def test_cuts_by_hand(first_stage: Any, settings: dict[str, Any], length: float, expected: list[float]) -> None:
    prepared = replace(first_stage.prepared, windows=WINDOWS)
    cfg = Config(ranker=RankerConfig(training=RankerTrainingConfig(**settings)))
    found = cuts(cfg, prepared)
    assert [(cut - microseconds(START)) / DAY for cut in found] == expected
    assert horizon(cfg, prepared) == length * DAY
    assert found[-1] + horizon(cfg, prepared) == microseconds(WINDOWS.val_start)


@given(st.integers(1, 10**12), st.integers(1, 10**13))
def test_three_cuts_have_a_past_however_the_windows_lie(first_stage: Any, training: int, validation: int) -> None:
    ends = (0, 10 * training, 10 * training + validation, 10 * training + 2 * validation)
    prepared = replace(first_stage.prepared, windows=Windows(*map(as_time, ends)))
    found, length = cuts(Config(), prepared), horizon(Config(), prepared)
    assert len(found) == 3
    assert found[0] >= 2 * training
    assert length == min(validation, 4 * training) == 10 * training - found[-1]


def test_a_horizon_that_leaves_no_past(first_stage: Any) -> None:
    prepared = replace(first_stage.prepared, windows=WINDOWS)
    with pytest.raises(DataError, match=r"a horizon of 81\.0 days leaves less than 20%.*set ranker\.training\.horizon"):
        cuts(Config(ranker=RankerConfig(training=RankerTrainingConfig(horizon_days=81))), prepared)
