"""Explanations add up, and say what was put into the model."""

import pytest
import torch

from recsys.errors import RecsysError
from recsys.models.explanation import explain
from recsys.models.forest import Forest, Tree
from recsys.models.transforms import fit_numeric
from recsys.models.wide import Cross, IdInput
from recsys.models.wide_deep import RankerInputs, RankerShape, WideDeep
from tests.models.trained import RANKER, as_if_trained

NAN = float("nan")
IDS = (IdInput("user_id", 12), IdInput("brand", 9), IdInput("words", 20, slots=2))
NUMERICS = (
    fit_numeric("count", torch.arange(8.0)),
    fit_numeric("gap", torch.cat([torch.arange(50.0), torch.tensor([NAN])])),
)
CROSSES = (Cross(("user_id", "brand"), 64),)
INPUTS = RankerInputs(IDS, NUMERICS, CROSSES)
ATTENTIVE = RankerInputs(IDS, NUMERICS, CROSSES, history=("brand",))
PAIRS = {
    "user_id": torch.tensor([5, 5, 1]),
    "brand": torch.tensor([2, 3, 0]),
    "words": torch.tensor([[4, 7], [19, 0], [0, 0]]),
    "count": torch.tensor([0.0, 7.0, 3.0]),
    "gap": torch.tensor([12.5, NAN, 49.0]),
}
TYPICAL = {"user_id": 0, "brand": 0, "words": 0, "count": 3.0, "gap": 12.5}  # nothing, and the medians of PAIRS
TYPICAL = {name: torch.tensor(value) for name, value in TYPICAL.items()}
HISTORY = {
    "request": torch.tensor([0, 0, 0]),
    "history/brand": torch.tensor([[2, 3, 0]]),
    "history/age": torch.tensor([[1.0, 30.0, 0.0]]),
}
COLUMNS = ["user_id", "brand", "words[0]", "words[1]", "user_id x brand", "count", "gap"]


def make(inputs=INPUTS, tasks=1, **changes):
    torch.manual_seed(0)
    shape = RankerShape(**(RANKER | {"width": 4, "hidden": (8,)} | changes))
    return as_if_trained(WideDeep(inputs, shape, [0.1] * tasks))


def with_trees(tasks=1):
    """One tree: count up to 3 goes left, else by gap, where what is missing goes right."""
    tree = Tree([0, 1], [3.0, 12.5], [True, False], [-1, -2], [1, -3], [0.5, -1.0, 2.0])
    model = make(tasks=tasks)
    model.add_trees(Forest(("count", "gap"), [tree]), 0.1)
    return model


def by_name(explanation, part):
    return {c.name: c for c in explanation.contributions if c.part == part}


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize(
    ("inputs", "changes"),
    [
        (INPUTS, {}),
        (INPUTS, {"use_deep": False}),
        (INPUTS, {"use_wide": False}),
        (RankerInputs(IDS, crosses=CROSSES), {}),
        (RankerInputs((), NUMERICS), {}),
        (ATTENTIVE, {}),
    ],
)
@torch.no_grad()
def test_wide_bias_and_deep_sum_to_the_logit(inputs, changes, tasks):
    model, features = make(inputs, tasks, **changes), PAIRS | HISTORY
    logits = model(features).reshape(3, tasks)
    found = explain(model, features, TYPICAL)
    assert [e.logit for e in found] == logits[:, 0].tolist()
    for e in found:
        exact = [c.amount for c in e.contributions if c.part != "deep"]
        assert sum(exact) + e.deep == pytest.approx(e.logit, abs=1e-5)
        assert e.contributions[0].name == "bias"
        assert len(exact) == 1 + len(model.wide.columns)
        sizes = [abs(c.amount) for c in e.contributions[1:]]
        assert sizes == sorted(sizes, reverse=True)
        assert (e.deep != 0) == changes.get("use_deep", True)


@torch.no_grad()
def test_wide_names_come_with_their_own_weights_and_values():
    """One weight is set at a time: it must appear under its name, for the pairs that have the value, and only there."""
    model = make(use_deep=False)
    model.wide.table.weight.zero_()
    model.wide.bins.weight.zero_()
    model.wide.table.weight[model.wide.offsets[1] + 3 - 2] = 0.5  # brand 3
    model.wide.bins.weight[-1] = -2.0  # gap is missing
    found = explain(model, PAIRS, {})
    moved = [{c.name: c.amount for c in e.contributions if c.part == "wide" and c.amount} for e in found]
    assert moved == [{}, {"gap": -2.0, "brand": 0.5}, {}]
    values = {c.name: c.value for c in found[0].contributions}
    assert values == {"bias": None} | dict(zip(COLUMNS, [5, 2, 4, 7, (5, 2), 0.0, 12.5], strict=True))


@torch.no_grad()
def test_deep_contributions_are_what_is_lost_without_a_feature():
    model = make(use_wide=False)
    found = explain(model, PAIRS, TYPICAL)
    whole = model(PAIRS)
    for name, values in PAIRS.items():
        usual = torch.zeros_like(values) if name not in ("count", "gap") else torch.full((3,), float(TYPICAL[name]))
        expected = whole - model(PAIRS | {name: usual})
        amounts = [by_name(e, "deep")[name].amount for e in found]
        assert amounts == pytest.approx(expected.tolist(), abs=1e-5)
        assert max(map(abs, amounts)) > 1e-3
    assert by_name(found[2], "deep")["words"].value == (0, 0)
    assert by_name(found[2], "deep")["words"].amount == 0  # nothing there to take away
    assert by_name(found[2], "deep")["count"].amount == 0  # the median itself


@pytest.mark.parametrize("tasks", [1, 3])
@torch.no_grad()
def test_trees_are_a_part_of_the_sum_and_lose_what_their_numbers_bring(tasks):
    model = with_trees(tasks)
    found = explain(model, PAIRS, TYPICAL)
    plain = make(tasks=tasks)(PAIRS).reshape(3, tasks)
    assert [e.trees for e in found] == pytest.approx([0.05, 0.2, 0.05])
    logits = model(PAIRS).reshape(3, tasks)
    assert (logits[:, 0] - plain[:, 0]).tolist() == pytest.approx([0.05, 0.2, 0.05], abs=1e-6)
    assert torch.equal(logits[:, 1:], plain[:, 1:])
    for e in found:
        exact = sum(c.amount for c in e.contributions if c.part in ("bias", "wide"))
        assert exact + e.trees + e.deep == pytest.approx(e.logit, abs=1e-5)
    # Of the second pair: 7 is above 3 and gap missing. Without count it is the left leaf, without gap 12.5 or less.
    assert {name: c.amount for name, c in by_name(found[1], "trees").items()} == pytest.approx(
        {"count": 0.15, "gap": 0.3}
    )


@torch.no_grad()
def test_history_is_compared_with_none():
    model, features = make(ATTENTIVE, use_wide=False), PAIRS | HISTORY
    found = explain(model, features, TYPICAL)
    none = model(features | {"history/brand": torch.zeros(1, 3, dtype=torch.int64)})
    expected = model(features) - none
    amounts = [by_name(e, "deep")["history"].amount for e in found]
    assert amounts == pytest.approx(expected.tolist(), abs=1e-5)
    assert max(map(abs, amounts)) > 1e-3


def test_what_cannot_be_explained_is_refused():
    model = make()
    with pytest.raises(RecsysError, match="'gap' has no reference"):
        explain(model, PAIRS, {name: value for name, value in TYPICAL.items() if name != "gap"})
    with pytest.raises(RecsysError, match="training mode"):
        explain(model.train(), PAIRS, TYPICAL)
