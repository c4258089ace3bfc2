"""Who is asked, what counts as an answer, and how both are cut into slices."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recsys.data.log import InteractionLog
from recsys.errors import DataError

LIST_OF = {
    "all": "full",
    "warm": "full",
    "cold": "full",
    "repeat": "seen",
    "new": "unseen",
    "head": "full",
    "torso": "full",
    "tail": "full",
    "cold_items": "cold",
    "cold_items_full": "full",
}
"""Slice to the list that it is scored on: the whole catalogue, or only items the user has or has not had, or cold ones.

Only relevant events count, for history and truth alike. Every slice is a part of the truth; a user belongs to it
with at least one item in that part.

- ``all``: everything. ``warm`` / ``cold``: users with / without an event before the cut.
- ``repeat`` / ``new``: of warm users, the truth they had / had not before the cut; lists hold only such items.
- ``head`` / ``torso`` / ``tail``: truth among the most popular items that make up 50 % of the history's events, the
  next 30 %, and the rest; lists are those of ``all``.
- ``cold_items``: truth without an event before the cut, lists of such items only: how well a model orders what is new
  in the shop. ``cold_items_full``: the same truth in the ordinary lists of ``all``, where it competes with everything.
"""

OTHER_LISTS = "full"
"""List of slices that are not named above: groups of users, added by :func:`with_groups`."""
HEAD, TORSO = 0.5, 0.8
"""Shares of events at which the popularity bins end."""


@dataclass(frozen=True)
class Targets:
    """The questions of one window; built once, answered by every model.

    Attributes:
        users: Rows of users with at least one relevant event in the window, ascending, ``[T]``.
        truth_keys: Their distinct (user, item) as ``user * N + item``, ascending, ``[P]``.
        truth_slices: Slice to the part of the truth that counts, bool ``[P]``; empty slices are absent.
        seen_keys: Distinct (user, item) before the cut of all users, ascending, ``[S]``.
        item_users: Distinct users of each item before the cut, ``[N]``.
        n_known_users: Users with an event before the cut.
        eligible: Items that may be recommended, bool ``[N]``.
    """

    users: Tensor
    truth_keys: Tensor
    truth_slices: dict[str, Tensor]
    seen_keys: Tensor
    item_users: Tensor
    n_known_users: int
    eligible: Tensor

    @property
    def n_items(self) -> int:
        """N, the rows of the catalogue."""
        return len(self.eligible)

    @property
    def cold_items(self) -> Tensor:
        """Rows of eligible items without an event before the cut."""
        return ((self.item_users == 0) & self.eligible).nonzero().squeeze(1)

    def seen(self, users: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the users' past items as row in ``users``, column from 0 in that row, and item; all ``[S']``."""
        start = torch.searchsorted(self.seen_keys, users * self.n_items)
        count = torch.searchsorted(self.seen_keys, (users + 1) * self.n_items) - start
        rows = torch.repeat_interleave(torch.arange(len(users)), count)
        columns = torch.arange(len(rows)) - (count.cumsum(0) - count)[rows]
        return rows, columns, self.seen_keys[start[rows] + columns] % self.n_items

    def n_relevant(self, slice_name: str) -> Tensor:
        """Return the number of items that each of ``users`` has in the slice's truth, ``[T]``."""
        rows = torch.searchsorted(self.users, self.truth_keys[self.truth_slices[slice_name]] // self.n_items)
        return torch.bincount(rows, minlength=len(self.users))

    def require(self, metric: str) -> None:
        """Check that there is a truth to measure an objective by, such as ``val/cold/ndcg_at_20``.

        Raises:
            DataError: The window has nothing of its slice.
        """
        for part in metric.split("/")[1:-1]:
            if part not in self.truth_slices:
                raise DataError(
                    f"objective.metric={metric}: nothing that users take in the validation window belongs to "
                    f"'{part}'; slices with something: {', '.join(self.truth_slices)}. Choose one of these."
                )

    def only(self, users: Tensor) -> "Targets":
        """Return the questions of some of the users, rows ascending; slices that become empty are left out."""
        asked = torch.isin(self.truth_keys // self.n_items, users)
        parts = {name: part[asked] for name, part in self.truth_slices.items()}
        return replace(
            self,
            users=self.users[torch.isin(self.users, users)],
            truth_keys=self.truth_keys[asked],
            truth_slices={name: part for name, part in parts.items() if part.any()},
        )

    def at_most(self, n: int | None, seed: int) -> "Targets":
        """Return the questions of n users drawn at random, the same whoever is asked; of all where there are fewer."""
        if n is None or len(self.users) <= n:
            return self
        drawn = torch.randperm(len(self.users), generator=torch.Generator().manual_seed(seed))[:n]
        return self.only(self.users[drawn.sort().values])

    def find(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Look the items ``[B, K]`` ranked for ``users [B]`` up: are they truth (bool), and where in ``truth_keys``."""
        keys = users[:, None] * self.n_items + items
        places = torch.searchsorted(self.truth_keys, keys).clamp(max=len(self.truth_keys) - 1)
        return self.truth_keys[places] == keys, places


def make_targets(history: InteractionLog, truth: InteractionLog, eligible: Tensor) -> Targets:
    """Set the questions of a window.

    Args:
        history: Events before the cut, on any device; the questions are on the CPU.
        truth: Events of the window.
        eligible: Items that may be recommended, bool ``[N]``.

    Raises:
        DataError: No user has a relevant event in the window.
    """
    history, truth, eligible = history.to("cpu"), truth.to("cpu"), eligible.cpu()
    n_items = history.n_items
    truth_keys, seen_keys = _distinct(truth), _distinct(history)
    if len(truth_keys) == 0:
        raise DataError("evaluation: no relevant event in the window; widen data.split or check data.relevant.")
    known = torch.zeros(history.n_users, dtype=torch.bool)
    known[history.user[history.relevant]] = True
    events = torch.bincount(history.item[history.relevant], minlength=n_items)
    users, items = truth_keys // n_items, truth_keys % n_items
    warm = known[users]
    had = torch.isin(truth_keys, seen_keys)
    level = popularity_bins(events)[items]
    parts = {
        "all": torch.ones_like(warm),
        "warm": warm,
        "cold": ~warm,
        "repeat": warm & had,
        "new": warm & ~had,
        "head": level == 0,
        "torso": level == 1,
        "tail": level == 2,
        "cold_items": level == 3,
        "cold_items_full": level == 3,
    }
    return Targets(
        users=users.unique(),
        truth_keys=truth_keys,
        truth_slices={name: part for name, part in parts.items() if part.any()},
        seen_keys=seen_keys,
        item_users=torch.bincount(seen_keys % n_items, minlength=n_items),
        n_known_users=int(known.sum()),
        eligible=eligible,
    )


def with_groups(targets: Targets, groups: Mapping[str, Tensor]) -> Targets:
    """Add a slice for each group of users: all of their truth, in the lists of ``all``.

    Args:
        targets: The questions of a window.
        groups: Name to whether a user belongs to it, bool ``[U]``, as of the cut or before it; groups without an
            answer in the window are left out.
    """
    users = targets.truth_keys // targets.n_items
    parts = {name: inside[users] for name, inside in groups.items()}
    return replace(targets, truth_slices=targets.truth_slices | {n: part for n, part in parts.items() if part.any()})


def popularity_bins(events: Tensor) -> Tensor:
    """Return 0 head, 1 torso, 2 tail, 3 without an event, for each item, int64 ``[N]``.

    Items are taken by falling number of events ``[N]``, ties by row; an item belongs to the bin in which it starts.
    """
    order = events.argsort(descending=True, stable=True)
    share_before = (events[order].cumsum(0) - events[order]) / events.sum().clamp(min=1)
    bins = torch.empty_like(events)
    bins[order] = (share_before >= HEAD).long() + (share_before >= TORSO).long()
    bins[events == 0] = 3
    return bins


def _distinct(log: InteractionLog) -> Tensor:
    return (log.user * log.n_items + log.item)[log.relevant].unique()
