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

    All trees are made as deep as the deepest, D, and complete: below a leaf that comes earlier every way leads to its
    value. So the questions of a level stand side by side, those that follow on question n as 2 n and 2 n + 1, and
    nothing has to be looked up to find them. That takes ``T * 2 ** D`` places.

    Args:
        names: Of the numbers, as the trees count them.
        trees: T of them; without any, every pair scores 0.

    Attributes:
        names: Of the numbers that a tree asks about.
    """

    column: Tensor
    threshold: Tensor
    value: Tensor
    names: List[str]  # TorchScript cannot infer the type of an empty list

    def __init__(self, names: Sequence[str] = (), trees: Sequence[Tree] = ()) -> None:
        super().__init__()
        used = sorted({place for tree in trees for place in tree.feature})
        self.names = [names[place] for place in used]
        self.trees, self.steps = len(trees), max((_depth(tree) for tree in trees), default=0)
        column: list[int] = []
        threshold: list[float] = []
        reached = [(tree, 0 if tree.feature else -1) for tree in trees]
        for _ in range(self.steps):
            following = []
            for tree, node in reached:
                if node < 0:
                    column.append(0)
                    threshold.append(0.0)
                    following += [(tree, node)] * 2
                else:  # a number stands in two columns: one where missing ones go left, and one where they go right
                    column.append(used.index(tree.feature[node]) + (0 if tree.missing_left[node] else len(used)))
                    threshold.append(tree.threshold[node])
                    following += [(tree, tree.left[node]), (tree, tree.right[node])]
            reached = following
        value = [tree.values[-1 - node] for tree, node in reached]
        # Half as wide as other places of tensors: what is looked up half a million times a request stays in the cache.
        self.register_buffer("column", torch.tensor(column, dtype=torch.int32))
        self.register_buffer("threshold", torch.tensor(threshold, dtype=torch.float32))
        self.register_buffer("value", torch.tensor(value, dtype=torch.float32))

    def __len__(self) -> int:
        return self.trees

    def forward(self, features: Dict[str, Tensor]) -> Tensor:
        """Score P pairs, float32 ``[P]``.

        Args:
            features: Name -> raw numbers ``[P]``, NaN where missing; at least those of ``names``, one or more.
        """
        if len(self.names) == 0:  # no tree asks anything: the pairs, by whatever comes first, are all in one leaf
            some = list(features.values())[0]  # noqa: RUF015 - TorchScript knows no next
            return self.value.sum().expand(some.size(0))
        values = torch.stack([features[name].float() for name in self.names], 1)
        missing = torch.isnan(values)
        least, most = values.masked_fill(missing, -torch.inf), values.masked_fill(missing, torch.inf)
        both = torch.cat([least, most], 1)  # [P, 2 F]
        rows, places = both.size(0), torch.arange(self.trees, dtype=torch.int32, device=both.device)
        begin = torch.arange(rows, dtype=torch.int32, device=both.device) * both.size(1)
        # [P T]: one dimension is looked up several times faster
        begin = begin.unsqueeze(1).expand(rows, self.trees).contiguous().view(-1)
        node = places.expand(rows, self.trees).contiguous().view(-1)
        first, count = 0, self.trees  # questions of the level
        for _ in range(self.steps):
            column = self.column[first : first + count].index_select(0, node)
            threshold = self.threshold[first : first + count].index_select(0, node)
            goes_right = both.view(-1).index_select(0, column.add_(begin)) > threshold
            node = node.mul_(2).add_(goes_right.int())
            first, count = first + count, 2 * count
        return self.value.index_select(0, node).view(rows, self.trees).sum(1)


def _depth(tree: Tree) -> int:
    """Return the most questions on the way to a leaf."""
    asked = [1] * len(tree.feature)
    for node in range(len(tree.feature)):
        for child in (tree.left[node], tree.right[node]):
            if child >= 0:
                asked[child] = asked[node] + 1
    return max(asked, default=0)
