"""The wide part: one linear weight for everything that can be named."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Dict, List

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError, did_you_mean
from recsys.features import FIRST_ID, OOV_ID


@dataclass(frozen=True)
class IdInput:
    """A categorical feature of a pair.

    Attributes:
        name: Key of its ids.
        rows: Size of its vocabulary, the two reserved ids included.
        slots: Ids a pair; 0 for one id, int64 ``[P]``, else int64 ``[P, slots]``.
        width: Of its embedding in the deep part; 0 takes the model's.
    """

    name: str
    rows: int
    slots: int = 0
    width: int = 0


@dataclass(frozen=True)
class Cross:
    """A conjunction of categorical features (Cheng et al. 2016): one weight for each combination of values, hashed.

    Attributes:
        features: Names of at least two features of one id a pair.
        buckets: Weights that the combinations share.
    """

    features: tuple[str, ...]
    buckets: int

    @property
    def name(self) -> str:
        """The names of its features, joined."""
        return " x ".join(self.features)


def mix(x: Tensor) -> Tensor:
    """Scramble integers in [0, 2^32) into others, one to one; same shape.

    Xor-shift and multiply, twice (the scheme of MurmurHash3's finalizer); with multipliers below 2^31 no product
    leaves int64, so that every runtime computes the same.
    """
    x = x ^ (x >> 16)
    x = (x * 0x21F0AAAD) & 0xFFFFFFFF
    x = x ^ (x >> 15)
    x = (x * 0x735A2D97) & 0xFFFFFFFF
    return x ^ (x >> 15)


def cross_buckets(ids: List[Tensor], salt: int, buckets: int) -> Tensor:
    """Hash combinations of ids.

    Args:
        ids: The ids of each feature of a cross, int64 ``[P]``.
        salt: In [0, 2^32); another one hashes independently.
        buckets: Size of the range, at most 2^31.

    Returns:
        int64 ``[P]`` in [0, buckets).
    """
    state = mix(torch.full_like(ids[0], salt))
    for part in ids:
        state = mix(state ^ (part & 0xFFFFFFFF))
    return (state * buckets) >> 32


class WidePart(nn.Module):
    """Weights of ids, of hashed crosses of ids and of bins of numbers, ``[..., T]``, all from 0.

    What is missing or unseen adds nothing, and neither does a cross that has such a part: nothing was memorised
    about it, and its bucket belongs to others. A missing number has a weight like any bin.

    Ids and crosses share one table, of which a step touches few rows; bins have a small one, of which it touches all.

    Args:
        ids: Categorical features.
        crosses: Of these.
        numerics: Names of the numeric features.
        bin_counts: Bins of each.
        outputs: T.
        sparse_rows: A table of ids and crosses of at least so many rows gets sparse gradients.

    Attributes:
        columns: What each of the S + F weights of a pair stands for.

    Raises:
        ConfigError: A cross names something else than two or more of the features with one id a pair.
    """

    names: List[str]  # TorchScript cannot infer the type of an empty list
    offsets: List[int]
    crosses: List[List[str]]
    salts: List[int]
    buckets: List[int]
    cross_offsets: List[int]
    bin_offsets: Tensor

    def __init__(
        self,
        ids: Sequence[IdInput],
        crosses: Sequence[Cross],
        numerics: Sequence[str],
        bin_counts: Sequence[int],
        outputs: int,
        sparse_rows: int,
    ) -> None:
        super().__init__()
        for cross in crosses:
            _check(cross, ids)
        self.oov = OOV_ID
        self.first = FIRST_ID
        self.names = [i.name for i in ids]
        self.crosses = [list(c.features) for c in crosses]
        self.salts = [zlib.crc32(c.name.encode()) for c in crosses]
        self.buckets = [c.buckets for c in crosses]
        sizes = [max(i.rows - FIRST_ID, 0) for i in ids] + self.buckets
        starts = [1, *(1 + end for end in accumulate(sizes))]  # row 0 is the weight of nothing
        self.offsets, self.cross_offsets = starts[: len(ids)], starts[len(ids) : -1]
        ends = list(accumulate(bin_counts))
        self.register_buffer("bin_offsets", torch.tensor([0, *ends], dtype=torch.int64)[: len(ends)])
        self.columns = [f"{i.name}[{s}]" if i.slots else i.name for i in ids for s in range(max(i.slots, 1))]
        self.columns += [c.name for c in crosses] + list(numerics)
        self.table = nn.Embedding(starts[-1], outputs, padding_idx=0, sparse=starts[-1] >= sparse_rows)
        self.bins = nn.Embedding(max(sum(bin_counts), 1), outputs)
        for part in (self.table, self.bins):
            nn.init.zeros_(part.weight)

    def encode(self, features: Dict[str, Tensor], pairs: int) -> Tensor:
        """Find the rows of the table of ids and crosses that each pair sums over; nothing here is learned.

        Args:
            features: Name -> ids, int64 ``[P]`` or ``[P, slots]``.
            pairs: P.

        Returns:
            int32 ``[P, S]``.
        """
        found = [torch.zeros(pairs, 0, dtype=torch.int64, device=self.bin_offsets.device)]
        for i, name in enumerate(self.names):
            ids = features[name]
            rows = torch.where(ids > self.oov, ids + (self.offsets[i] - self.first), 0)
            found.append(rows if ids.dim() == 2 else rows.unsqueeze(1))
        for i, names in enumerate(self.crosses):
            parts = [features[name] for name in names]
            known = parts[0] > self.oov
            for part in parts:
                known = known & (part > self.oov)
            rows = cross_buckets(parts, self.salts[i], self.buckets[i]) + self.cross_offsets[i]
            found.append(torch.where(known, rows, 0).unsqueeze(1))
        return torch.cat(found, 1).int()

    def forward(self, rows: Tensor, bins: Tensor) -> Tensor:
        """Sum the weights of P pairs; returns ``[P, T]``.

        Args:
            rows: What :meth:`encode` found, ``[P, S]``.
            bins: Of the numbers, any integers ``[P, F]``.
        """
        return self.table(rows.long()).sum(1) + self.bins(bins.long() + self.bin_offsets).sum(1)

    @torch.jit.export
    def weights(self, rows: Tensor, bins: Tensor) -> Tensor:
        """Return each of the weights that :meth:`forward` sums, ``[P, S + F, T]``, in the order of ``columns``."""
        return torch.cat([self.table(rows.long()), self.bins(bins.long() + self.bin_offsets)], 1)


def _check(cross: Cross, ids: Sequence[IdInput]) -> None:
    single = [i.name for i in ids if i.slots == 0]
    for name in cross.features:
        if name not in single:
            raise ConfigError(
                f"cross '{cross.name}': '{name}' is not a feature with one id a pair; legal: {', '.join(single)}."
                + did_you_mean(name, single)
            )
    if len(set(cross.features)) < 2 or len(set(cross.features)) < len(cross.features):
        raise ConfigError(f"cross '{cross.name}': name two or more different features.")
    if not 0 < cross.buckets <= 2**31:
        raise ConfigError(f"cross '{cross.name}': buckets {cross.buckets} is not between 1 and 2^31.")
