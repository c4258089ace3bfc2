"""Inputs on which compiled and eager models are compared: what a serving team will send sooner or later."""

import numpy as np
import torch
from torch import Tensor

from recsys.bundle.histories import NOTHING, Fresh
from recsys.bundle.ranking import Ranking
from recsys.bundle.requests import ASOF, UserInputs
from recsys.bundle.towers import CHUNK
from recsys.columns import USER_ID
from recsys.data.recent import AGE
from recsys.export.parity import Inputs
from recsys.features import HISTORY, OOV_ID, PAD_ID, REQUEST

CASE_ROWS = CHUNK
"""Rows of the large case: as many as a reader asks a tower for at a time."""
CASE_USERS = 8
"""Users whose candidates are compared."""
PLACES = (REQUEST, AGE, HISTORY + "repeats")
"""Inputs that say where and when something is; they are never missing."""


def user_cases(inputs: UserInputs, now: int) -> dict[str, Inputs]:
    """Return inputs that a serving team will send sooner or later."""
    n, kind = len(inputs.users), inputs.user_type
    counts = np.diff(inputs.histories.offsets)
    longest = torch.from_numpy(np.argsort(-counts, kind="stable")[:7].copy())
    stranger = -(2**40) if kind == "int" else "\x00 nobody"
    few = np.arange(min(3, inputs.n_items))
    past = Fresh(few, np.full(len(few), now))
    unseen_item = Fresh(np.array([inputs.n_items]), np.array([now]))
    odd = known_users(inputs, torch.arange(7) % n, now)
    return {
        "one": known_users(inputs, torch.tensor([0]), now),
        "two": known_users(inputs, torch.arange(2) % n, now),
        "odd": odd,
        "large": known_users(inputs, torch.arange(CASE_ROWS) % n, now),
        "longest history": known_users(inputs, longest, now),
        "missing user": inputs.build([None] * 3, [-1] * 3, [past] * 3, [now] * 3, None),
        "unseen user and item": inputs.build([stranger] * 3, [-1] * 3, [unseen_item] * 3, [now] * 3, None),
        "empty history": inputs.build([None, stranger], [-1] * 2, [NOTHING] * 2, [now] * 2, None),
        "missing": odd | blank(odd),
        "unseen ids": odd | unseen(odd),
    }


def item_cases(item_inputs: Inputs, table: Inputs) -> dict[str, Inputs]:
    """Return inputs of the item tower: items of the catalogue, and ones that are missing or unseen."""
    n = len(item_inputs[ASOF[0]])
    cold = {name: torch.zeros(3) for name in ASOF}
    return {
        "one": take(item_inputs, torch.tensor([0])),
        "two": take(item_inputs, torch.arange(2) % n),
        "odd": take(item_inputs, torch.arange(7) % n),
        "large": take(item_inputs, torch.arange(CASE_ROWS) % n),
        "missing": {name: column[:1].expand(3, *column.shape[1:]) for name, column in table.items()} | cold,
        "unseen item": {name: column[-1:].expand(3, *column.shape[1:]) for name, column in table.items()} | cold,
    }


def ranker_cases(ranking: Ranking, inputs: UserInputs, vectors: Tensor, now: int) -> dict[str, Inputs]:
    """Return inputs of the ranker: pairs of known users, of one without any past, and some without any feature."""
    rows = [row % len(inputs.users) for row in range(CASE_USERS)]  # a program is not made for several from one alone
    ids = inputs.users[USER_ID].gather(rows).to_list()
    nobody = [NOTHING] * len(rows)
    asked = ranking.requests(rows, nobody, now, vectors[rows], inputs.people(ids, rows, nobody, [now] * len(rows)))
    pairs = ranking.candidates(asked)
    stranger = ranking.requests([-1], [NOTHING], now, vectors[:1], inputs.people([None], [-1], [NOTHING], [now]))
    strange = ranking.candidates(stranger)
    odd = ranking.inputs(asked, pairs, torch.linspace(0, len(pairs) - 1, 7).long())
    nothing = blank(odd)
    if AGE in odd:
        nothing[AGE] = torch.full_like(odd[AGE], float("nan"))  # where there is no event it may be anything
    return {
        "one": ranking.inputs(asked, pairs, torch.tensor([0])),
        "two": ranking.inputs(asked, pairs, torch.arange(2) % len(pairs)),
        "odd": odd,
        "large": ranking.inputs(asked, pairs, torch.arange(CASE_ROWS) % len(pairs)),
        "without a past": ranking.inputs(stranger, strange, torch.arange(min(len(strange), CASE_ROWS))),
        "missing": odd | nothing,
        "unseen ids": odd | unseen(odd),
    }


def blank(inputs: Inputs) -> Inputs:
    """Return every feature as it is where its value is missing; places and ages of events are no features."""
    return {
        name: torch.full_like(column, float("nan") if column.is_floating_point() else PAD_ID)
        for name, column in inputs.items()
        if name not in PLACES
    }


def unseen(inputs: Inputs) -> Inputs:
    """Return every categorical feature as it is where its value is one that the model does not know."""
    ids = {n: column for n, column in inputs.items() if not column.is_floating_point() and n not in PLACES}
    return {name: torch.full_like(column, OOV_ID) for name, column in ids.items()}


def take(inputs: Inputs, rows: Tensor) -> Inputs:
    """Return some rows of every input."""
    return {name: column[rows] for name, column in inputs.items()}


def known_users(inputs: UserInputs, rows: Tensor, now: int) -> Inputs:
    """Return the user tower's input for known users as of ``now``, without fresh events."""
    some = rows.tolist()
    ids = inputs.users[USER_ID].gather(some).to_list()
    return inputs.build(ids, some, [NOTHING] * len(some), [now] * len(some), None)
