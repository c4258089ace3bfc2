"""Batches of pairs for the ranker: whole groups, so that a loss may compare what one user could have been shown.

::

    pairs of a set, by group   0 0 0 1 1 2 2 2 2 3 4 4
    a batch of groups 4, 1             x x         x x
    its group numbers                  0 0         1 1
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recsys.data.batches import generator_of
from recsys.data.place import Place, batch_size, batches_for, comes_out_even
from recsys.data.recent import take_pairs
from recsys.errors import DataError


@dataclass(frozen=True)
class PairBatch:
    """p pairs of ``n_groups`` whole groups.

    Attributes:
        encoded: What a ranker's score reads, ``[p, ...]`` each; histories as :func:`take_pairs` takes them.
        labels: Float32 ``[p, T]``.
        weights: How many pairs each one stands for, float32 ``[p]``.
        group: int64 ``[p]`` in [0, n_groups), ascending.
        n_groups: Number of groups.
        samples: What tells the groups of a set apart, int64 ``[n_groups]``, ascending.
    """

    encoded: dict[str, Tensor]
    labels: Tensor
    weights: Tensor
    group: Tensor
    n_groups: int
    samples: Tensor

    def to(self, device: torch.device | str) -> "PairBatch":
        """Return the batch on another device."""
        return replace(
            self,
            encoded={name: values.to(device) for name, values in self.encoded.items()},
            labels=self.labels.to(device),
            weights=self.weights.to(device),
            group=self.group.to(device),
            samples=self.samples.to(device),
        )


class PairBatches:
    """Iterates over all groups once an epoch, shuffled; batches have ``batch_groups`` or, to come out even, some more.

    The order depends on ``seed`` and the epoch alone. Under several processes each takes every ``world_size``-th
    batch, and all take the same number. What is left of an epoch can be taken by another number of processes than
    what was taken of it: :class:`~recsys.data.place.Place`. Batches lie where the set lies.
    """

    def __init__(
        self,
        encoded: dict[str, Tensor],
        labels: Tensor,
        weights: Tensor,
        group: Tensor,
        *,
        batch_groups: int,
        epoch_batches: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Prepare batches over P pairs.

        Args:
            encoded: What a ranker's score reads, rows of P pairs; histories as :func:`take_pairs` takes them.
            labels: Float32 ``[P, T]``.
            weights: Float32 ``[P]``.
            group: int64 ``[P]``, ascending; every group from 0 to the last has a pair.
            batch_groups: Groups of a batch, about, at most.
            epoch_batches: Batches of an epoch for each process, at least: few groups make them smaller, to a quarter.
            seed: Of the order.
            rank: Of this process.
            world_size: Number of processes.

        Raises:
            DataError: There are fewer groups than processes.
        """
        self.encoded, self.labels, self.weights = encoded, labels, weights
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch = 0
        self._size = torch.bincount(group)
        self._start = self._size.cumsum(0) - self._size
        self.batch_groups = batch_size(len(self._size), batch_groups, epoch_batches, world_size)
        self.place = Place(len(self._size))
        if len(self._size) < world_size:
            raise DataError(
                f"the ranker's training set has {len(self._size)} groups (users at a cut) for {world_size} "
                "process(es) to train on; each needs one: take more snapshots or fewer devices."
            )

    def __len__(self) -> int:
        """Return the batches of an epoch, for each process."""
        return batches_for(len(self._size), self.batch_groups, self.world_size) // self.world_size

    def __iter__(self) -> Iterator[PairBatch]:
        self.place.begin(self.epoch)
        self.epoch = self.place.epoch + 1
        left = self._rest()
        cut = self.place.cuts[-1]
        for groups in left[self.rank :: self.world_size]:
            cut[1] += self.world_size
            yield self._batch(groups.sort().values)

    def state_dict(self) -> dict[str, Any]:
        """Return what of the epoch has been taken."""
        return self.place.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass go on where the state was returned."""
        self.place.load_state_dict(state)

    def steps_left(self) -> int:
        """Return the batches that are left to each process of the epoch of a restored state."""
        return len(self._rest()) // self.world_size

    def _rest(self) -> list[Tensor]:
        """Cut the epoch's groups as the place says, and return the batches that are left."""
        rest = torch.randperm(len(self._size), generator=generator_of(self.seed, self.place.epoch))
        cuts = self.place.cuts = self.place.cuts or [[batches_for(len(rest), self.batch_groups, self.world_size), 0]]
        for batches, taken in cuts:
            edges = [i * len(rest) // batches for i in range(taken, batches + 1)]
            whole, rest = rest, rest[edges[0] :]
        if not comes_out_even(cuts[-1], self.world_size):
            cuts.append([batches_for(len(rest), self.batch_groups, self.world_size), 0])
            return self._rest()
        return [whole[begin:end].to(self._size.device) for begin, end in itertools.pairwise(edges)]

    def _batch(self, groups: Tensor) -> PairBatch:
        size = self._size[groups]
        local = torch.repeat_interleave(size)
        first = size.cumsum(0) - size
        rows = torch.arange(len(local), device=local.device) + (self._start[groups] - first)[local]
        return PairBatch(
            take_pairs(self.encoded, rows),
            self.labels[rows],
            self.weights[rows],
            local,
            n_groups=len(groups),
            samples=groups,
        )
