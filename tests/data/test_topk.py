"""The best K with ties in a fixed order, against sorting in Python."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.topk import top_k
from recsys.errors import RecsysError

SCORE = st.sampled_from([0.0, 1.0, 2.0, 3.0, -torch.inf])


@given(st.lists(st.lists(SCORE, min_size=7, max_size=7), min_size=1, max_size=5), st.integers(1, 9))
def test_ties_go_to_the_lower_position(rows: list[list[float]], k: int) -> None:
    values, items = top_k(torch.tensor(rows), k)
    for row, value, item in zip(rows, values.tolist(), items.tolist(), strict=True):
        wanted = sorted(range(7), key=lambda i: (-row[i], i))[:k]
        assert value == [row[i] for i in wanted]
        assert len(set(item)) == len(item)
        assert [i for i in item if row[i] > -torch.inf] == [i for i in wanted if row[i] > -torch.inf]


def test_nan_is_refused() -> None:
    with pytest.raises(RecsysError, match="NaN"):
        top_k(torch.tensor([[1.0, float("nan"), 2.0]]), 2)
