"""From encoded features to one vector: every feature adds what it knows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Dict, List

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.features import PAD_ID


@dataclass(frozen=True)
class FeatureInput:
    """What a tower must know about a feature: its name, its table size, or the scale of its numbers.

    Attributes:
        name: Key in the dictionary of encoded features.
        rows: Rows of the embedding table; 0 for a numeric feature.
        center: Median of a numeric feature in the fit window.
        spread: Robust spread of a numeric feature in the fit window, above 0.
        width: Of the embedding table where it is narrower than what the tower reads; 0: as wide.
    """

    name: str
    rows: int = 0
    center: float = 0.0
    spread: float = 1.0
    width: int = 0


class IdEmbedding(nn.Module):
    """An embedding table with a zero row for PAD_ID that takes one id or several a row.

    Several ids are averaged over those that are not padding. A narrow table, for an attribute of very many values, is
    brought to the width by a matrix that all its rows share (Lan et al. 2020).
    """

    def __init__(self, rows: int, width: int, std: float, sparse: bool = False, narrow: int = 0) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, narrow or width, padding_idx=PAD_ID, sparse=sparse)
        nn.init.normal_(self.table.weight, std=std)
        with torch.no_grad():
            self.table.weight[:2] = 0.0
        self.widen: nn.Module = nn.Identity()
        if narrow:
            self.widen = nn.Linear(narrow, width, bias=False)
            nn.init.normal_(self.widen.weight, std=narrow**-0.5)  # what comes out spreads as a wide table would

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids int64 ``[n]`` or ``[n, slots]`` to vectors ``[n, width]``."""
        vectors = self.table(ids)
        if ids.dim() == 1:
            return self.widen(vectors)
        count = (ids != 0).sum(1, keepdim=True).clamp(min=1)
        return self.widen(vectors.sum(1) / count)


class NumericEmbedding(nn.Module):
    """A robustly scaled number times a learned direction; a missing number has a vector of its own."""

    center: Tensor
    spread: Tensor

    def __init__(self, center: float, spread: float, width: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.tensor(center))
        self.register_buffer("spread", torch.tensor(spread))
        self.direction = nn.Parameter(torch.randn(width) / width**0.5)
        self.missing = nn.Parameter(torch.zeros(width))

    def forward(self, values: Tensor) -> Tensor:
        """Map numbers float32 ``[n]``, NaN where missing, to vectors ``[n, width]``."""
        missing = torch.isnan(values)
        scaled = ((values - self.center) / self.spread).masked_fill(missing, 0.0).clamp(-4.0, 4.0)
        return scaled.unsqueeze(1) * self.direction + missing.to(scaled.dtype).unsqueeze(1) * self.missing


class FeatureSum(nn.Module):
    """The sum of what all features of one side contribute, as wide as the hidden layer that follows.

    Adding embeddings of the hidden layer's width is a concatenation of narrower embeddings times the
    layer's matrix, with the product already taken: one gather a feature and no wide matrix product.
    """

    names: List[str]  # TorchScript cannot infer the type of an empty list

    def __init__(self, inputs: Sequence[FeatureInput], width: int, sparse_rows: int) -> None:
        super().__init__()
        self.names = [i.name for i in inputs]
        self.parts = nn.ModuleList(
            IdEmbedding(i.rows, width, std=width**-0.5, sparse=i.rows >= sparse_rows, narrow=i.width)
            if i.rows
            else NumericEmbedding(i.center, i.spread, width)
            for i in inputs
        )
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, features: Dict[str, Tensor], prefix: str) -> Tensor:
        """Sum over the features found under ``prefix + name``; returns ``[n, width]``."""
        total = self.bias
        for i, part in enumerate(self.parts):
            total = total + part(features[prefix + self.names[i]])
        return total


def unit(vectors: Tensor) -> Tensor:
    """Scale vectors ``[..., D]`` to length 1; one shorter than 1e-4 only by 1e4, so that its gradient stays bounded."""
    return F.normalize(vectors, dim=-1, eps=1e-4)


def brought_to(vectors: Tensor, width: int, spread: float) -> Tensor:
    """Bring vectors ``[n, W]`` to another width and spread; returns ``[n, min(W, width)]`` float32.

    Of wider ones their leading principal components are left, the directions in which they differ most. All entries
    are then scaled alike, to a root mean square of ``spread``; vectors that are all the same become zero.
    """
    x = vectors.double()
    if x.size(1) > width:
        x = x - x.mean(0)
        axes = torch.linalg.eigh(x.T @ x).eigenvectors.flip(1)[:, :width]
        x = x @ (axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign())  # the same sign on every machine
    return (x * (spread / x.square().mean().sqrt().clamp(min=1e-9))).float()
