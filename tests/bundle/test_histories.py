"""Stored pasts and fresh events, by hand and against the interaction log."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.bundle.histories import NOTHING, Fresh, Histories, stored_histories
from recsys.data.log import DAY as DAY_US
from recsys.data.log import InteractionLog

START = datetime(2024, 1, 1, tzinfo=UTC)
START_US = round(START.timestamp() * 1e6)
DAY = timedelta(days=1)


def load(rows: list[tuple[int, int, int]], length: int, n_users: int, folder: Path) -> Histories:
    """Rows are (user row, item row, day)."""
    frame = pl.DataFrame(
        {
            "user_row": [u for u, _, _ in rows],
            "item_row": [i for _, i, _ in rows],
            "timestamp": [START + day * DAY for _, _, day in rows],
        },
        schema={"user_row": pl.UInt32, "item_row": pl.UInt32, "timestamp": pl.Datetime("us", "UTC")},
    )
    stored_histories(frame, length).write_parquet(folder / "h.parquet")
    return Histories.load(folder / "h.parquet", n_users)


def fresh(*events: tuple[int, int]) -> Fresh:
    return Fresh(np.array([i for i, _ in events]), np.array([START_US + day * DAY_US for _, day in events]))


def test_by_hand(tmp_path: Path) -> None:
    rows = [(0, 7, 0), (0, 8, 1), (0, 7, 2), (0, 9, 3), (0, 9, 4), (2, 5, 1)]
    past = load(rows, 2, 3, tmp_path)
    # user 0 keeps the last two events (9, 9), and the last 7 and 8 before them
    assert past.items[past.of(0)].tolist() == [8, 7, 9, 9]
    assert past.repeats[past.of(0)].tolist() == [0, 1, 0, 1]
    assert past.seen(0, fresh((6, 5))).tolist() == [6, 7, 8, 9]

    now = START_US + 5 * DAY_US
    got = past.gather([0, 1, 2, -1], [fresh((7, 5)), NOTHING, NOTHING, fresh((7, 4))], [now] * 4, 2)
    assert got.items.tolist() == [[9, 7], [-1, -1], [-1, 5], [-1, 7]]
    assert got.repeats.tolist() == [[1, 2], [0, 0], [0, 0], [0, 0]]  # the third 7 of user 0
    assert got.age.tolist() == [[1, 0], [0, 0], [0, 4], [0, 1]]


def test_what_was_looked_at_has_not_been_had(tmp_path: Path) -> None:
    """Also where an older purchase has given way to a later view of the same item."""
    events = [
        (7, 0, "buy"),
        (8, 1, "view"),
        (7, 2, "view"),
        (9, 3, "view"),
        (9, 4, "buy"),
        (9, 5, "view"),
        (6, 6, None),
    ]
    frame = pl.DataFrame(
        {
            "user_row": [0] * len(events),
            "item_row": [item for item, _, _ in events],
            "timestamp": [START + day * DAY for _, day, _ in events],
            "event_type": [name for _, _, name in events],
        },
        schema_overrides={"user_row": pl.UInt32, "item_row": pl.UInt32, "timestamp": pl.Datetime("us", "UTC")},
    )
    stored_histories(frame, 2, ["buy"]).write_parquet(tmp_path / "h.parquet")
    past = Histories.load(tmp_path / "h.parquet", 1)
    assert past.items.tolist() == [8, 7, 9, 6]
    assert past.seen(0, NOTHING).tolist() == [7, 9]
    new = Fresh(np.array([1, 2, 3]), np.full(3, START_US), ("view", "buy", None), ("buy",))
    assert new.counts.tolist() == [False, True, True]
    assert past.seen(0, new).tolist() == [2, 3, 7, 9]
    assert replace(new, relevant=()).counts.all()
    assert new.named("buy") == ["view", "buy", "buy"]


def test_an_older_fresh_event_takes_its_place_in_time(tmp_path: Path) -> None:
    past = load([(0, 1, 0), (0, 2, 4)], 5, 1, tmp_path)
    got = past.gather([0], [fresh((3, 2), (1, 6))], [START_US + 6 * DAY_US], 5)
    assert got.items.tolist() == [[1, 3, 2, 1]]
    assert got.repeats.tolist() == [[0, 0, 0, 1]]


events = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 30)), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(rows=events, length=st.integers(1, 8), cut=st.integers(0, 31))
def test_what_was_stored_and_came_fresh_is_what_the_whole_log_says(tmp_path_factory, rows, length, cut) -> None:
    """Events before the cut from the bundle and later ones as fresh history: the training log's own values."""
    rows = sorted(rows, key=lambda row: (row[0], row[2], row[1]))
    columns = [torch.tensor(c) for c in zip(*rows, strict=True)]
    zeros = torch.zeros(len(rows), dtype=torch.int64)
    log = InteractionLog(columns[0], columns[1], columns[2] * DAY_US + START_US, zeros, zeros == 0, 3, 5)

    past = load([row for row in rows if row[2] < cut], length, 3, tmp_path_factory.mktemp("h"))
    now = START_US + 40 * DAY_US
    for user in range(3):
        mine = slice(int(log.offsets[user]), int(log.offsets[user + 1]))
        later = [(item, day) for who, item, day in rows if who == user and day >= cut]
        got = past.gather([user], [fresh(*later) if later else NOTHING], [now], length)
        n = min(length, mine.stop - mine.start)
        if n == 0:
            assert got.items.tolist() == [[-1]]
            continue
        last = slice(mine.stop - n, mine.stop)
        assert got.items[0].tolist() == log.item[last].tolist()
        assert got.repeats[0].tolist() == log.repeats[last].tolist()
        np.testing.assert_allclose(got.age[0], (now - log.time[last].numpy()) / DAY_US, rtol=1e-6)
        assert past.seen(user, fresh(*later) if later else NOTHING).tolist() == log.item[mine].unique().tolist()
