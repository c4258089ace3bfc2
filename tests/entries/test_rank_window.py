"""What is looked at of the second stage on the test window, beside the scores themselves."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recsys.entries.rank_window import activity


def having(items: torch.Tensor) -> Any:
    """Targets of users who had so many items each; one of them is asked nothing."""
    keys = 2 * torch.arange(len(items)).repeat_interleave(items)
    return SimpleNamespace(seen_keys=keys, n_items=2, users=torch.arange(1, len(items)))


@pytest.mark.parametrize("users", [9, 2**24 + 2])  # torch.quantile would refuse the second
def test_users_are_parted_into_thirds_by_the_items_they_had(users: int) -> None:
    had = torch.arange(users + 1) % 3
    assert activity(having(had)).equal(had[1:])
    assert activity(having(torch.ones(9, dtype=torch.int64))).tolist() == [0] * 8
