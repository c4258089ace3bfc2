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

    feature: Tensor
    threshold: Tensor
    missing_left: Tensor
    left: Tensor
    right: Tensor
    value: Tensor
    roots: Tensor
    names: List[str]  # TorchScript cannot infer the type of an empty list

    def __init__(self, names: Sequence[str] = (), trees: Sequence[Tree] = ()) -> None:
        super().__init__()
        used = sorted({place for tree in trees for place in tree.feature})
        self.names = [names[place] for place in used]
        self.steps = max((_depth(tree) for tree in trees), default=0)
        feature: list[int] = []
        threshold: list[float] = []
        missing_left: list[bool] = []
        left: list[int] = []
        right: list[int] = []
        value: list[float] = []
        roots: list[int] = []
        for tree in trees:
            start, questions, leaves = len(feature), len(tree.feature), len(tree.values)
            ends = list(range(start + questions, start + questions + leaves))
            roots.append(start)
            feature += [used.index(place) for place in tree.feature] + [0] * leaves
            threshold += [*tree.threshold, *[0.0] * leaves]
            missing_left += [*tree.missing_left, *[True] * leaves]
            left += [start + n if n >= 0 else ends[-1 - n] for n in tree.left] + ends
            right += [start + n if n >= 0 else ends[-1 - n] for n in tree.right] + ends
            value += [0.0] * questions + [*tree.values]
        self.register_buffer("feature", torch.tensor(feature, dtype=torch.int64))
        self.register_buffer("threshold", torch.tensor(threshold, dtype=torch.float32))
        self.register_buffer("missing_left", torch.tensor(missing_left, dtype=torch.bool))
        self.register_buffer("left", torch.tensor(left, dtype=torch.int64))
        self.register_buffer("right", torch.tensor(right, dtype=torch.int64))
        self.register_buffer("value", torch.tensor(value, dtype=torch.float32))
        self.register_buffer("roots", torch.tensor(roots, dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.roots)

    def forward(self, features: Dict[str, Tensor]) -> Tensor:
        """Score P pairs, float32 ``[P]``.

        Args:
            features: Name -> raw numbers ``[P]``, NaN where missing; at least those of ``names``, one or more.
        """
        values = torch.stack([features[name].float() for name in self.names], 1)  # [P, F]
        node = self.roots.expand(values.size(0), -1)  # [P, T]
        for _ in range(self.steps):
            number = values.gather(1, self.feature[node])
            goes_left = (number <= self.threshold[node]) | (torch.isnan(number) & self.missing_left[node])
            node = torch.where(goes_left, self.left[node], self.right[node])
        return self.value[node].sum(1)


def _depth(tree: Tree) -> int:
    """Return the most questions on the way to a leaf."""
    asked = [1] * len(tree.feature)
    for node in range(len(tree.feature)):
        for child in (tree.left[node], tree.right[node]):
            if child >= 0:
                asked[child] = asked[node] + 1
    return max(asked, default=0)
