"""Trees as tensors, by hand."""

import pytest
import torch

from recsys.models.forest import Forest, Tree

LEAF = Tree([], [], [], [], [], [7.0])
NAN = float("nan")
STUMP = Tree([2], [10.0], [False], [-1], [-2], [1.0, -1.0])
DEEP = Tree([0, 0, 2], [5.0, 2.0, 1.0], [True, True, False], [1, -1, -3], [2, -2, -4], [0.1, 0.2, 0.3, 0.4])
NUMBERS = {"a": torch.tensor([2.0, 2.5, 9.0, 9.0, NAN]), "c": torch.tensor([10.0, 10.5, NAN, 1.0, 0.0])}


def test_each_pair_falls_into_one_leaf_of_each_tree() -> None:
    assert Forest(("a", "b", "c"), [STUMP])(NUMBERS).tolist() == [1.0, -1.0, -1.0, 1.0, 1.0]
    found = Forest(("a", "b", "c"), [DEEP])(NUMBERS)
    torch.testing.assert_close(found, torch.tensor([0.1, 0.2, 0.4, 0.3, 0.1]))


def test_a_forest_is_the_sum_of_its_trees_whatever_their_depth() -> None:
    forest = Forest(("a", "b", "c"), [STUMP, DEEP, LEAF])
    alone = [Forest(("a", "b", "c"), [tree])(NUMBERS) for tree in (STUMP, DEEP)]
    torch.testing.assert_close(forest(NUMBERS), alone[0] + alone[1] + 7.0)
    assert (len(forest), forest.names, forest.steps) == (3, ["a", "c"], 2)
    assert len(Forest()) == 0
    assert forest({name: values[:0] for name, values in NUMBERS.items()}).shape == (0,)


@pytest.mark.parametrize(("trees", "score"), [([], 0.0), ([LEAF, LEAF], 14.0)])
def test_trees_that_ask_nothing_score_all_pairs_alike(trees: list[Tree], score: float) -> None:
    forest = Forest(("a", "b", "c"), trees)
    assert forest.names == []
    for scores in (forest, torch.jit.script(forest)):
        assert scores(NUMBERS).tolist() == [score] * 5
        assert scores({name: values[:0] for name, values in NUMBERS.items()}).shape == (0,)
