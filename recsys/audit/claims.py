"""What a random or a leave-one-out split would have claimed for a simple model, beside the temporal figure.

After Meng et al. 2020 (RecSys, "Exploring data splitting strategies for the evaluation of recommendation models") and
Ji et al. 2023 (TOIS, "A critical study on data leakage in recommender system offline evaluation").
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recsys.data.log import InteractionLog
from recsys.evaluation.baselines import make_baseline
from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.recommender import Past
from recsys.evaluation.slices import make_targets

if TYPE_CHECKING:
    from rich.table import Table

K = 20
SPLITS = ("temporal", "random", "leave one out")
HEADINGS = ("model", "split", "users", f"NDCG@{K}", "x", f"Recall@{K}", "x", "ahead")
"""Of :func:`claim_cells`; ``x`` is the ratio to the temporal figure, ``ahead`` is :attr:`Claim.from_later`."""


@dataclass(frozen=True)
class Claim:
    """What one model reaches under one split.

    Attributes:
        model: Name of the baseline.
        split: One of :data:`SPLITS`.
        users: Users that were asked.
        ndcg: NDCG@20.
        recall: Recall@20.
        from_later: Share of the truth that is not later than the last event that the model was fitted on.
    """

    model: str
    split: str
    users: int
    ndcg: float
    recall: float
    from_later: float


def split_claims(
    log: InteractionLog,
    val_start: int,
    test_start: int,
    models: Sequence[str] = ("popular", "personal_frequency"),
    max_users: int = 1000,
    seed: int = 0,
) -> list[Claim]:
    """Measure simple models under three splits of the events before ``test_start``; the test window stays closed.

    ``temporal`` asks for what follows ``val_start``. ``random`` takes as many relevant events for the truth, drawn from
    all. ``leave one out`` takes the last relevant event of every user who has two or more. A split that leaves nothing
    to ask for has no claim.

    Args:
        log: All events.
        val_start: Microseconds since 1970 UTC.
        test_start: Likewise.
        models: Names of baselines that need no item features.
        max_users: Users asked at most, drawn alike for every split.
        seed: Of the draws.
    """
    seen = log.between(None, test_start)
    claims = []
    if not (seen.relevant & (seen.time >= val_start)).any():
        return []  # the temporal figure is what the others are compared with
    for split, held_out in _held_out(seen, val_start, seed):
        if not (held_out & seen.relevant).any() or held_out.all():
            continue
        history, truth = _rows(seen, ~held_out), _rows(seen, held_out & seen.relevant)
        eligible = torch.ones(log.n_items, dtype=torch.bool)
        targets = make_targets(history, truth, eligible).at_most(max_users, seed)
        last = int(history.time.max())
        cut = val_start if split == "temporal" else last + 1
        later = float((truth.time <= last).double().mean())
        for name in models:
            model = make_baseline(name, seed)
            model.fit(Past(history, cut, {}, eligible))
            found = evaluate(model, targets, (K,), slices=("all",)).metrics["all"]
            claims.append(
                Claim(name, split, int(found["users"]), found[f"ndcg_at_{K}"], found[f"recall_at_{K}"], later)
            )
    return claims


def _held_out(log: InteractionLog, val_start: int, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Yield each split and which events it keeps for the truth, bool ``[E]``; those that do not count stay history."""
    after = log.time >= val_start
    yield "temporal", after
    share = float((after & log.relevant).sum() / log.relevant.sum())
    drawn = torch.rand(len(log), generator=torch.Generator().manual_seed(seed)) < share
    yield "random", drawn & log.relevant
    rows = log.relevant.nonzero().squeeze(1)
    users = log.user[rows]
    is_last = torch.ones(len(rows), dtype=torch.bool)
    is_last[:-1] = users[1:] != users[:-1]
    several = torch.bincount(users, minlength=log.n_users)[users] > 1
    chosen = torch.zeros(len(log), dtype=torch.bool)
    chosen[rows[is_last & several]] = True
    yield "leave one out", chosen


def _rows(log: InteractionLog, keep: Tensor) -> InteractionLog:
    user, item, time, basket, relevant = (c[keep] for c in (log.user, log.item, log.time, log.basket, log.relevant))
    return InteractionLog(user, item, time, basket, relevant, log.n_users, log.n_items)


def claims_table(claims: Sequence[Claim]) -> "Table":
    """Return the claims as a table for the console, each beside the temporal figure of its model."""
    from rich import box
    from rich.table import Table

    title = "What other splits would have claimed"
    table = Table(box=box.SIMPLE, title=title, title_justify="left", padding=(0, 1, 0, 0), show_edge=False)
    for heading in HEADINGS[:2]:
        table.add_column(heading, no_wrap=True)
    for heading in HEADINGS[2:]:
        table.add_column(heading, justify="right", no_wrap=True)
    for claim in claims:
        table.add_row(*claim_cells(claim, claims))
    return table


def claim_cells(claim: Claim, claims: Sequence[Claim]) -> list[str]:
    """Return one line of the table: each figure beside the temporal one of the same model."""
    own = next(c for c in claims if (c.model, c.split) == (claim.model, SPLITS[0]))
    figures = []
    for value, honest in ((claim.ndcg, own.ndcg), (claim.recall, own.recall)):
        figures += [f"{value:.4f}", f"{value / honest:.2f}" if honest > 0 else "-"]
    return [claim.model, claim.split, f"{claim.users:,}", *figures, f"{claim.from_later:.0%}"]
