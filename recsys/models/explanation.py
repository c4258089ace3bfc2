"""Why a ranker scored a pair as it did: the wide part weight by weight, the deep part feature by feature.

::

    logit = bias + sum of the wide weights + trees + deep logit
                                             └───────┴─ what each feature does to it, found by taking the feature away

The first line is exact. Trees and deep part are no sums of their features: what these do, one at a time, need not add
up.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.errors import RecsysError, did_you_mean
from recsys.features import PAD_ID
from recsys.models.wide_deep import WideDeep

HISTORY = "history"
"""What the events that attention reads are called, all together."""

Value = float | int | tuple[int, ...] | None
"""Of a feature: a number, NaN where missing; an id; several ids; None for what has no value of its own."""


@dataclass(frozen=True)
class Contribution:
    """What one thing moved.

    Attributes:
        name: ``bias``, a column of the wide part, or a feature of the trees or of the deep part.
        part: ``bias``, ``wide``, ``trees`` or ``deep``.
        value: Of the feature; of a cross the ids that it joins.
        amount: Wide: the weight in the logit. Trees and deep: what they add to the logit, less what they add with the
            feature at its reference.
    """

    name: str
    part: str
    value: Value
    amount: float


@dataclass(frozen=True)
class Explanation:
    """Why one pair got its logit.

    Attributes:
        logit: The sum of the bias, the wide contributions, ``trees`` and ``deep``.
        trees: What the trees add to the logit; 0 without any.
        deep: What the deep part adds to the logit; 0 without one.
        contributions: The bias first, then all others together, the largest first whatever their sign.
    """

    logit: float
    trees: float
    deep: float
    contributions: tuple[Contribution, ...]


@torch.no_grad()
def explain(
    model: WideDeep,
    features: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
) -> list[Explanation]:
    """Take the logits of P pairs apart; of a model with several tasks, those of the first.

    Args:
        model: In evaluation mode.
        features: As :meth:`WideDeep.forward` takes them.
        reference: Name to a value of each feature, a scalar or what stands for ``[P]`` or ``[P, slots]``, that it is
            compared with in trees and deep part: a median for a number, PAD_ID for ids. The history is compared
            with none.

    Raises:
        RecsysError: The model is in training mode, or a feature has no reference.
    """
    if model.training:
        raise RecsysError("explain: the model is in training mode, where it forgets ids by chance; call eval() first.")
    features = dict(features)
    read = [*model.deep.names, *model.numeric.names] if model.use_deep else []
    for name in (*read, *model.forest.names):
        if name not in reference:
            raise RecsysError(f"explain: feature '{name}' has no reference." + did_you_mean(name, reference))
    pairs = features[model.first_name].size(0)
    bias = Contribution("bias", "bias", None, float(model.bias[0]))
    found: list[list[Contribution]] = [[] for _ in range(pairs)]

    def note(name: str, part: str, values: Tensor | None, amounts: Tensor) -> None:
        shown = [None] * pairs if values is None else values.tolist()
        for row, value, amount in zip(found, shown, amounts.tolist(), strict=True):
            row.append(Contribution(name, part, tuple(value) if isinstance(value, list) else value, amount))

    if model.use_wide:
        encoded = model.encode(features)
        weights = model.wide.weights(encoded["wide/rows"], encoded["wide/bins"])[:, :, 0]
        columns = zip(model.wide.columns, _column_values(model, features), weights.unbind(1), strict=True)
        for name, values, amounts in columns:
            note(name, "wide", values, amounts)
    trees, deep = torch.zeros(pairs), torch.zeros(pairs)
    if model.has_trees:
        trees = model.tree_share * model.forest(features)
        for name in model.forest.names:
            without = features | {name: reference[name].to(features[name]).expand_as(features[name])}
            note(name, "trees", features[name], trees - model.tree_share * model.forest(without))
    if model.use_deep:
        deep = _deep_logits(model, features)
        for name in read:
            values = features[name]
            without = features | {name: reference[name].to(values).expand_as(values)}
            note(name, "deep", values, deep - _deep_logits(model, without))
        if model.deep.use_history:
            past = features[model.deep.mask_name]
            without = features | {model.deep.mask_name: torch.full_like(past, PAD_ID)}
            note(HISTORY, "deep", None, deep - _deep_logits(model, without))
    logits = model(features).reshape(pairs, -1)[:, 0]
    return [
        Explanation(logit, boosted, added, (bias, *sorted(row, key=lambda entry: -abs(entry.amount))))
        for logit, boosted, added, row in zip(logits.tolist(), trees.tolist(), deep.tolist(), found, strict=True)
    ]


def _column_values(model: WideDeep, features: Mapping[str, Tensor]) -> list[Tensor]:
    """Return what each column of the wide part read, in their order: ``[P]``, or ``[P, n]`` for a cross of n."""
    out: list[Tensor] = []
    for name in model.wide.names:
        out += features[name].unbind(1) if features[name].dim() == 2 else [features[name]]
    out += [torch.stack([features[name] for name in names], 1) for names in model.wide.crosses]
    return out + [features[name] for name in model.numeric.names]


def _deep_logits(model: WideDeep, features: dict[str, Tensor]) -> Tensor:
    """Return what the deep part adds to the logits of the first task, ``[P]``."""
    numbers = torch.zeros(features[model.first_name].size(0), 0)
    if model.has_numerics:
        _, position, logs = model.numeric(features)
        numbers = model.numeric.deep(position, logs)
    return model.deep(features, numbers)[:, 0]
