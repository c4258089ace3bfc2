"""Trees that were grown elsewhere, as tensors: they score pairs without the library that grew them.

A leaf is a conjunction of conditions on numbers: a cross that was found in the data instead of declared. So trees
belong to the side that memorises (boosted trees as features of a linear model, He et al. 2014).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Dict, List

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Tree:
    """A binary tree of I questions and I + 1 leaves; a pair begins at question 0.

    Attributes:
        feature: Place of the number that is asked about, ``[I]``.
        threshold: A pair goes left where its number is at most this, ``[I]``.
        missing_left: Whether a pair without the number goes left, ``[I]``.
        left: Question that follows on the left, always a later one, or ``-1 - leaf``, ``[I]``.
        right: The same on the right.
        values: Of the leaves, ``[I + 1]``.
    """

    feature: Sequence[int]
    threshold: Sequence[float]
    missing_left: Sequence[bool]
    left: Sequence[int]
    right: Sequence[int]
    values: Sequence[float]


class Forest(nn.Module):
    """The sum of T trees over named numbers.

    All pairs take as many steps as the deepest leaf needs; a leaf leads to itself, so who has arrived stays.

    Args:
        names: Of the numbers, as the trees count them.
        trees: T of them; without any, every pair scores 0.

    Attributes:
        names: Of the numbers that a tree asks about.
    """

    column: Tensor
    threshold: Tensor
    child: Tensor
    value: Tensor
    roots: Tensor
    names: List[str]  # TorchScript cannot infer the type of an empty list

    def __init__(self, names: Sequence[str] = (), trees: Sequence[Tree] = ()) -> None:
        super().__init__()
        used = sorted({place for tree in trees for place in tree.feature})
        self.names = [names[place] for place in used]
        self.steps = max((_depth(tree) for tree in trees), default=0)
        column: list[int] = []
        threshold: list[float] = []
        child: list[int] = []
        value: list[float] = []
        roots: list[int] = []
        for tree in trees:
            start, questions, leaves = len(column), len(tree.feature), len(tree.values)
            ends = list(range(start + questions, start + questions + leaves))
            roots.append(start)
            # a number stands in two columns: one where missing ones go left, and one where they go right
            asked = zip(tree.feature, tree.missing_left, strict=True)
            column += [used.index(place) + (0 if left else len(used)) for place, left in asked] + [0] * leaves
            threshold += [*tree.threshold, *[0.0] * leaves]
            for pair in zip(tree.left, tree.right, strict=True):
                child += [start + n if n >= 0 else ends[-1 - n] for n in pair]
            child += [end for end in ends for _ in range(2)]
            value += [0.0] * questions + [*tree.values]
        # Half as wide as other places of tensors: what is looked up half a million times a request stays in the cache.
        self.register_buffer("column", torch.tensor(column, dtype=torch.int32))
        self.register_buffer("threshold", torch.tensor(threshold, dtype=torch.float32))
        self.register_buffer("child", torch.tensor(child, dtype=torch.int32))
        self.register_buffer("value", torch.tensor(value, dtype=torch.float32))
        self.register_buffer("roots", torch.tensor(roots, dtype=torch.int32))

    def __len__(self) -> int:
        return len(self.roots)

    def forward(self, features: Dict[str, Tensor]) -> Tensor:
        """Score P pairs, float32 ``[P]``.

        Args:
            features: Name -> raw numbers ``[P]``, NaN where missing; at least those of ``names``, one or more.
        """
        values = torch.stack([features[name].float() for name in self.names], 1)
        missing = torch.isnan(values)
        least, most = values.masked_fill(missing, -torch.inf), values.masked_fill(missing, torch.inf)
        both = torch.cat([least, most], 1)  # [P, 2 F]
        rows, trees = both.size(0), self.roots.size(0)
        begin = (
            (torch.arange(rows, dtype=torch.int32, device=both.device) * both.size(1))
            .unsqueeze(1)
            .expand(rows, trees)
            .reshape(-1)
        )
        node = self.roots.expand(rows, trees).reshape(-1)  # [P T]: one dimension is looked up several times faster
        for _ in range(self.steps):
            number = both.view(-1).index_select(0, begin + self.column.index_select(0, node))
            goes_right = number > self.threshold.index_select(0, node)
            node = self.child.index_select(0, 2 * node + goes_right.int())
        return self.value.index_select(0, node).view(rows, trees).sum(1)


def _depth(tree: Tree) -> int:
    """Return the most questions on the way to a leaf."""
    asked = [1] * len(tree.feature)
    for node in range(len(tree.feature)):
        for child in (tree.left[node], tree.right[node]):
            if child >= 0:
                asked[child] = asked[node] + 1
    return max(asked, default=0)
