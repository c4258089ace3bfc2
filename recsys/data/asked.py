"""What candidate sources answer: requests, and what their users had done before."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from recsys.data.log import DAY, InteractionLog, first_after


@dataclass(frozen=True)
class Asked:
    """B requests, and what each user had done before.

    Attributes:
        query: Which request a past event belongs to, int64 ``[E]``, ascending, in ``[0, B)``.
        item: Its item row, int64 ``[E]``; distinct within a basket.
        age: Days from the event to the request, float32 ``[E]``, at least 0.
        vector: User vectors of the two-tower, float32 ``[B, D]``; D may be 0.
        n_items: N, the rows of the catalogue.
        groups: Attribute to the code of each request's group, int64 ``[B]``, -1 for none.
    """

    query: Tensor
    item: Tensor
    age: Tensor
    vector: Tensor
    n_items: int
    groups: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.vector)

    @property
    def seen_keys(self) -> Tensor:
        """Distinct (request, item) of the past as ``request * N + item``, ascending, int64 ``[S]``."""
        return self._distinct[0]

    @cached_property
    def _distinct(self) -> tuple[Tensor, Tensor]:
        """:attr:`seen_keys`, and the place of each past event among them, int64 ``[E]``."""
        keys, place = (self.query * self.n_items + self.item).unique(return_inverse=True)
        return keys, place

    def by_item(self, weight: Tensor) -> Tensor:
        """Sum up what past events weigh, float32 ``[E]``, by :attr:`seen_keys`, ``[S]``."""
        return torch.zeros(len(self.seen_keys)).index_add_(0, self._distinct[1], weight)

    def decay(self, scale: float, power: float) -> Tensor:
        """Return how much each past event counts by its age, ``(1 + age / scale) ** -power``, float32 ``[E]``."""
        return (1.0 + self.age.double() / scale).pow(-power).float()

    def events(self, rows: Tensor) -> slice:
        """Return where the events of the requests ``rows``, int64 ``[b]`` without gaps, lie."""
        first, last = torch.searchsorted(self.query, torch.stack([rows[0], rows[-1] + 1])).tolist()
        return slice(first, last)


def asked_as_of(
    log: InteractionLog,
    users: Tensor,
    cut: int,
    vectors: Tensor | None = None,
    groups: Mapping[str, Tensor] | None = None,
) -> Asked:
    """Ask for users as of a cut.

    Args:
        log: Events, on the CPU; those at or after the cut are not read. Irrelevant ones are part of the past too:
            who has looked at an item may take it.
        users: User rows, int64 ``[B]``.
        cut: Microseconds since 1970 UTC.
        vectors: User vectors ``[B, D]`` for the sources that search by them.
        groups: Attribute to a code for every user, int64 ``[U]``, -1 for none.
    """
    begin = log.offsets[users]
    count = first_after(log, users, torch.full_like(users, cut)) - begin
    query = torch.repeat_interleave(torch.arange(len(users)), count)
    event = torch.arange(len(query)) - (count.cumsum(0) - count)[query] + begin[query]
    # A basket lists an item once for each line; its first line stands for all.
    line = torch.argsort(log.basket[event] * log.n_items + log.item[event], stable=True)
    line = line[torch.argsort(query[line], stable=True)]
    pair = torch.stack([query[line], log.basket[event[line]], log.item[event[line]]])
    first = torch.ones(len(line), dtype=torch.bool)
    first[1:] = (pair[:, 1:] != pair[:, :-1]).any(0)
    kept = line[first].sort().values
    query, event = query[kept], event[kept]
    return Asked(
        query,
        log.item[event],
        (cut - log.time[event]).float() / DAY,
        torch.empty(len(users), 0) if vectors is None else vectors,
        log.n_items,
        {name: codes[users] for name, codes in (groups or {}).items()},
    )
