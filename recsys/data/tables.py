"""Encoded features of all items, users and events, as the towers read them; torch only, on any device."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recsys.data.asof import ItemClock
from recsys.data.log import DAY, POPULARITY_DAYS, InteractionLog, first_after
from recsys.features import PAD_ID


@dataclass(frozen=True)
class FeatureTables:
    """One row an item, a user, an event.

    Attributes:
        item: Feature name -> ``[N]`` or ``[N, slots]``; always has ``item_id``.
        user: Feature name -> ``[U]`` or ``[U, slots]``; always has ``user_id``.
        context: Feature name -> ``[E]`` or ``[E, slots]``, aligned with the log.
        popularity_days: Over which the popularity of items is counted; as ``repeat_share`` one number for a whole run.
        repeat_share: How much of what users with a history take stands in it, in [0, 1].
    """

    item: dict[str, Tensor]
    user: dict[str, Tensor]
    context: dict[str, Tensor]
    popularity_days: float = POPULARITY_DAYS
    repeat_share: float = 1.0

    def to(self, device: torch.device | str) -> "FeatureTables":
        """Return the tables on another device."""
        item, user, context = ({k: v.to(device) for k, v in d.items()} for d in (self.item, self.user, self.context))
        return replace(self, item=item, user=user, context=context)

    def clock(self, log: InteractionLog) -> ItemClock:
        """Return what answers how popular and how old items are by a log."""
        return ItemClock(log, self.popularity_days)

    def items(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the item features of ``rows``, each ``[n]`` or ``[n, slots]``."""
        return {name: values[rows] for name, values in self.item.items()}

    def moments(self, users: Tensor, events: Tensor) -> dict[str, Tensor]:
        """Return user features of ``users`` and context features of ``events``, both ``[B]``."""
        user = {name: values[users] for name, values in self.user.items()}
        return user | {name: values[events] for name, values in self.context.items()}

    def no_context(self, n: int) -> dict[str, Tensor]:
        """Return context features that say nothing, for ``n`` requests: a batch job has no hour and no store."""
        blank = {}
        for name, values in self.context.items():
            nothing = PAD_ID if values.dtype == torch.int64 else float("nan")
            blank[name] = torch.full((n, *values.shape[1:]), nothing, dtype=values.dtype, device=values.device)
        return blank


def requests_as_of(
    log: InteractionLog, tables: FeatureTables, users: Tensor, cut: int, history: int
) -> dict[str, Tensor]:
    """Build the user tower's input for users as of a cut, without context.

    Args:
        log: Events; those at or after the cut are not read.
        tables: Encoded features.
        users: User rows, int64 ``[B]``.
        cut: Microseconds since 1970 UTC.
        history: L, the most events to read.

    Returns:
        The dictionary that ``UserTower.forward`` takes; the newest event stands last.
    """
    end = first_after(log, users, torch.full_like(users, cut))
    begin = torch.maximum(end - history, log.offsets[users])
    width = max(int((end - begin).max()) if len(users) else 0, 1)
    event = end[:, None] - width + torch.arange(width, device=users.device)
    real = event >= begin[:, None]
    event = event.clamp(min=0, max=max(len(log) - 1, 0))
    out = {name: values[users] for name, values in tables.user.items()} | tables.no_context(len(users))
    if len(log) == 0:
        event_item = torch.zeros_like(event)
        age, repeats = torch.zeros(event.shape, device=event.device), torch.zeros_like(event)
    else:
        event_item, repeats = log.item[event], log.repeats[event]
        age = (cut - log.time[event]).float() / DAY
    for name, values in tables.item.items():
        mask = real if values.dim() == 1 else real.unsqueeze(2)
        nothing = PAD_ID if values.dtype == torch.int64 else float("nan")
        out[f"history/{name}"] = values[event_item].masked_fill(~mask, nothing)
    out["history/age"] = age.masked_fill(~real, 0.0)
    out["history/repeats"] = repeats.masked_fill(~real, 0)
    return out
