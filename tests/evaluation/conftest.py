"""Small logs for the evaluation tests."""

from collections.abc import Callable

import pytest
import torch

from recsys.data.log import DAY, InteractionLog

Row = tuple[int, ...]


@pytest.fixture(scope="session")
def make_log() -> Callable[..., InteractionLog]:
    """Make a log from rows ``(user, item, day)`` or ``(user, item, day, relevant)``; a basket is a user's day."""

    def make(rows: list[Row], n_users: int, n_items: int) -> InteractionLog:
        rows = sorted(rows, key=lambda row: (row[0], row[2], row[1]))
        moments = {moment: number for number, moment in enumerate(sorted({(row[0], row[2]) for row in rows}))}
        return InteractionLog(
            user=torch.tensor([row[0] for row in rows], dtype=torch.int64),
            item=torch.tensor([row[1] for row in rows], dtype=torch.int64),
            time=torch.tensor([row[2] * DAY for row in rows], dtype=torch.int64),
            basket=torch.tensor([moments[row[0], row[2]] for row in rows], dtype=torch.int64),
            relevant=torch.tensor([len(row) < 4 or bool(row[3]) for row in rows], dtype=torch.bool),
            n_users=n_users,
            n_items=n_items,
        )

    return make
