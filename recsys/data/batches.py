"""Batches of moments that the two-tower model trains on.

Consecutive moments of a user share nearly all of their history, so a batch is made of *blocks*
of up to S consecutive moments, and a block's history is gathered once::

    log of user 7    a b | c | a d | e f g | ...       | marks the baskets
    block, S = 2         [ c ] [ a d ]                  two moments
    window, W = 4    a b   c                            what the last of them may see
    visible[0]       x x                                history of c      ends before c
    visible[1]       x x   x                            history of (a d)  ends before it

Items appear in a batch once, however many histories and positives they are in: ``items`` lists the
distinct rows, everything else points into it.

A batch's moments are near each other in time, so that one cut, before all of them, serves for the item
state (popularity, age), and what was sold then is what its negatives are drawn from.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from recsys.data.asof import ItemClock
from recsys.data.blocks import Block, Stream
from recsys.data.log import DAY, POPULARITY_DAYS, InteractionLog
from recsys.data.moments import moments_of, moments_since
from recsys.data.place import Place, batch_size, batches_for, comes_out_even
from recsys.errors import DataError

PERIOD_DAYS = 28.0
"""Moments of a batch begin within so many days, but for batches on the edge of two periods."""
PERIOD_SHARE = 0.25
"""The period, of the days of popularity, where items come and go: many do while a longer batch lasts."""


@dataclass(frozen=True)
class Batch:
    """B moments in G blocks of at most S, with windows of W events.

    Attributes:
        items: Distinct item rows that occur in the batch, ascending, int64 ``[n]``.
        candidates: Positives and uniform negatives, positions in ``items``, int64 ``[C]``.
        user: User row of each moment, int64 ``[B]``.
        event: Log position of each moment's first event, int64 ``[B]``.
        slot: Which of the ``G * S`` block slots each moment stands in, int64 ``[B]``.
        window: Events of each block, positions in ``items``, int64 ``[G, W]``.
        repeats: How often the user had met the item before that event, int64 ``[G, W]``.
        age: Days from the event to the moment, float32 ``[G, S, W]``; only meaningful where visible.
        visible: Whether the event is in the moment's history, bool ``[G, S, W]``.
        positive_query: Row in ``[B]`` of each positive, int64 ``[P]``, ascending.
        positive_candidate: Position in ``candidates`` of each positive, int64 ``[P]``.
        share: Share of the blocks of the batch's time that have the candidate among their positives, float32
            ``[C]``: the chance that one block brings it in as a negative.
        as_of: Time of the earliest moment, microseconds: the cut for item state, scalar int64.
        positive_weight: What each positive counts, float32 ``[P]``; None: all alike.
    """

    items: Tensor
    candidates: Tensor
    user: Tensor
    event: Tensor
    slot: Tensor
    window: Tensor
    repeats: Tensor
    age: Tensor
    visible: Tensor
    positive_query: Tensor
    positive_candidate: Tensor
    share: Tensor
    as_of: Tensor
    positive_weight: Tensor | None = None

    @property
    def samples(self) -> Tensor:
        """What tells the moments of a log apart, int64 ``[B]``."""
        return self.event

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on another device."""
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: c.to(device) for name, c in columns.items() if c is not None})


class MomentBatches:
    """Iterates over all moments once an epoch, in shuffled blocks; batches have about ``batch_moments``.

    The order depends on ``seed`` and the epoch alone. Under several processes each takes every
    ``world_size``-th batch, and all take the same number. What is left of an epoch can be taken by another number of
    processes than what was taken of it: :class:`~recsys.data.place.Place`.
    """

    def __init__(
        self,
        log: InteractionLog,
        *,
        history: int,
        batch_moments: int,
        negatives: int,
        moments_per_block: int,
        epoch_batches: int = 1,
        catalogue: Tensor | None = None,
        popularity_days: float = POPULARITY_DAYS,
        since: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Prepare batches over ``log``.

        Args:
            log: The window to train on, and nothing later.
            history: L, the most events that a moment's history may hold.
            batch_moments: B, about how many moments a batch has, at most.
            negatives: Items drawn uniformly from ``catalogue``, beside the in-batch positives.
            moments_per_block: S; 1 shuffles single moments, more gathers a shared history once. Less where S moments
                would be more than a batch.
            epoch_batches: Batches of an epoch for each process, at least: few moments make them smaller, to a quarter.
            catalogue: Item rows that uniform negatives are drawn from, those nobody bought yet among them, so that the
                model learns what that is worth; by default the items of the log.
            popularity_days: Over which the popularity of items is counted.
            since: Microseconds since 1970; moments before are histories alone. None: all are trained on.
            seed: Of the order and of the negatives.
            rank: Of this process.
            world_size: Number of processes.

        Raises:
            DataError: There are fewer moments than processes.
        """
        self.log = log
        self.clock = ItemClock(log, popularity_days)
        self._brief = popularity_days < POPULARITY_DAYS  # items come and go
        self._period = int((PERIOD_SHARE * popularity_days if self._brief else PERIOD_DAYS) * DAY)
        self.moments = moments_of(log) if since is None else moments_since(moments_of(log), since)
        self.history = history
        self.batch_moments = batch_size(len(self.moments), batch_moments, epoch_batches, world_size)
        self.negatives = negatives
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch = 0
        self.catalogue = log.item.unique() if catalogue is None else catalogue.to(log.item.device)
        if len(self.moments) < world_size:
            raise DataError(
                f"the window to train on has {len(self.moments)} moments with a relevant event, for {world_size} "
                "process(es) to train on; give it more events or other relevant types."
            )
        self.moments_per_block = min(moments_per_block, self.batch_moments)
        self.place = Place(len(self.moments))
        self._row_of_item = torch.zeros(log.n_items, dtype=torch.int64, device=log.item.device)

    def __len__(self) -> int:
        """Return the batches of an epoch, for each process."""
        return batches_for(len(self.moments), self.batch_moments, self.world_size) // self.world_size

    def __iter__(self) -> Iterator[Batch]:
        self.place.begin(self.epoch)
        epoch = self.place.epoch
        self.epoch = epoch + 1
        left, stream = self._rest()
        cut = self.place.cuts[-1]
        for step in range(len(left) // self.world_size):
            i, blocks = left[step * self.world_size + self.rank]
            again = len(self.place.cuts) - 1
            draw = generator_of(self.seed, epoch + 1, i, *[again] * bool(again))
            cut[1] += self.world_size
            yield self._batch(blocks, stream, draw)

    def state_dict(self) -> dict[str, Any]:
        """Return what of the epoch has been taken."""
        return self.place.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass go on where the state was returned."""
        self.place.load_state_dict(state)

    def steps_left(self) -> int:
        """Return the batches that are left to each process of the epoch of a restored state."""
        return len(self._rest()[0]) // self.world_size

    def _rest(self) -> tuple[list[tuple[int, Block]], Stream]:
        """Cut the epoch's blocks as the place says; return what is left, in turn and by number, and its stream."""
        generator = generator_of(self.seed, self.place.epoch)
        cuts, size, world = self.place.cuts, self.batch_moments, self.world_size
        cuts = self.place.cuts = cuts or [[batches_for(len(self.moments), size, world), 0]]
        blocks = self._blocks(generator).into(cuts[0][0])
        stream = self._stream(blocks)
        noise = torch.rand(len(blocks.start), generator=generator, dtype=torch.float64)
        blocks = blocks.take(torch.argsort(blocks.period + noise))
        for number in itertools.count():
            batches, taken = cuts[number]
            blocks = blocks.into(batches)
            edges = blocks.edges(batches)
            turns = torch.randperm(batches, generator=generator).tolist()[taken:]
            if number + 1 == len(cuts) and comes_out_even(cuts[number], world):
                return [(i, blocks.take(slice(edges[i], edges[i + 1]))) for i in turns], stream
            blocks = blocks.take(torch.cat([torch.arange(edges[i], edges[i + 1]) for i in sorted(turns)]))
            if number + 1 == len(cuts):
                cuts.append([batches_for(int(blocks.size.sum()), size, world), 0])
        raise AssertionError("a cut comes out even")

    def _blocks(self, generator: torch.Generator) -> Block:
        """Cut each user's moments into runs; a random phase a user moves the cuts from epoch to epoch.

        Where items come and go, a run is also cut at the end of a period: the state of its items is that of its begin.
        """
        user, time = self.moments.user.cpu(), self.moments.time.cpu()
        nth = torch.arange(len(user)) - torch.searchsorted(user, user)
        phase = torch.randint(self.moments_per_block, (self.log.n_users,), generator=generator)
        label = user * len(user) + (nth + phase[user]) // self.moments_per_block
        period = (time - time.min()) // self._period
        if self._brief:
            label = label * (int(period.max()) + 1) + period
        _, size = label.unique_consecutive(return_counts=True)
        start = size.cumsum(0) - size
        return Block(start, size, period[start])

    def _stream(self, blocks: Block) -> Stream:
        """Count the blocks that bring each item into a batch, period by period."""
        moments, n_items = self.moments, self.log.n_items
        device = moments.items.device
        block_of = torch.repeat_interleave(torch.arange(len(blocks.start)), blocks.size).to(device)
        block = torch.repeat_interleave(block_of, moments.offsets.diff())
        pairs = (block * n_items + moments.items).unique()
        period = blocks.period.to(device)
        key, count = (period[pairs // n_items] * n_items + pairs % n_items).unique(return_counts=True)
        return Stream(key, count, period.bincount(), n_items)

    def _batch(self, blocks: Block, stream: Stream, generator: torch.Generator) -> Batch:
        log, moments = self.log, self.moments
        device = log.user.device
        start, size = blocks.start.to(device), blocks.size.to(device)
        slots = torch.arange(int(size.max()), device=device)
        real = slots < size[:, None]  # [G, S]
        moment = start[:, None] + torch.minimum(slots, size[:, None] - 1)  # [G, S]; the last one repeated as padding
        member = moment[real]  # [B]

        end = moments.history_end[moment]  # [G, S]
        user = moments.user[start]  # [G]
        begin = torch.maximum(moments.history_end[start] - self.history, log.offsets[user])  # [G]
        width = max(int((end[:, -1] - begin).max()), 1)
        event = begin[:, None] + torch.arange(width, device=device)  # [G, W]
        in_window = event < end[:, -1:]
        event = event.clamp(max=len(log) - 1)
        visible = (event[:, None] < end[..., None]) & (event[:, None] >= end[..., None] - self.history)
        visible &= (event >= log.offsets[user][:, None])[:, None] & real[..., None]
        age = (moments.time[moment][..., None] - log.time[event][:, None]).float() / DAY

        first, count = moments.offsets[member], moments.offsets[member + 1] - moments.offsets[member]
        query = torch.repeat_interleave(torch.arange(len(member), device=device), count)
        within = torch.arange(len(query), device=device) - (count.cumsum(0) - count)[query]
        place = first[query] + within
        positive = moments.items[place]
        drawn = torch.randint(len(self.catalogue), (self.negatives,), generator=generator).to(device)
        candidate = torch.cat([positive, self.catalogue[drawn]]).unique()

        window_item = log.item[event]
        present = torch.zeros(log.n_items, dtype=torch.bool, device=device)
        present[candidate] = True
        present[window_item[in_window]] = True
        items = present.nonzero().squeeze(1)
        self._row_of_item[items] = torch.arange(len(items), device=device)
        return Batch(
            items=items,
            candidates=self._row_of_item[candidate],
            user=moments.user[member],
            event=moments.event[member],
            slot=real.flatten().nonzero().squeeze(1),
            window=self._row_of_item[window_item] * in_window,
            repeats=log.repeats[event],
            age=age,
            visible=visible,
            positive_query=query,
            positive_candidate=torch.searchsorted(candidate, positive),
            share=stream.share(int(blocks.period[0]), candidate),
            as_of=moments.time[member].min(),
            positive_weight=None if moments.weight is None else moments.weight[place],
        )


def generator_of(*numbers: int) -> torch.Generator:
    """Return a random stream of its own for each sequence of numbers."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number) % 2**63  # more than 64 bits are no seed
    return torch.Generator().manual_seed(seed)
