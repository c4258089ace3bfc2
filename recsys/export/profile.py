"""What the data looked like when the bundle was made, so that a monitor can say how it has drifted since."""

from typing import Any

import torch
from torch import Tensor

from recsys.bundle.requests import UserInputs
from recsys.data.encode import Encoder
from recsys.export.parity import Inputs
from recsys.features import OOV_ID, PAD_ID, Feature

QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
TOP = 20
"""The most frequent ids whose shares are kept."""


def data_profile(encoder: Encoder, inputs: UserInputs, item_inputs: Inputs) -> dict[str, Any]:
    """Return for each feature of users and items how its encoded values are distributed.

    Args:
        encoder: Encodes the users' table.
        inputs: Holds the users' table.
        item_inputs: Encoded item features ``[N, ...]``.
    """
    columns = encoder.encode(inputs.users, "user") | item_inputs
    return {f.name: _profile(f, columns[f.name]) for f in encoder.spec.side("user", "item")}


def _profile(feature: Feature, column: Tensor) -> dict[str, Any]:
    head = {"side": feature.side, "kind": feature.kind, "rows": len(column)}
    if not feature.is_categorical:
        known = column[torch.isfinite(column)].double()
        quantiles = {str(q): float(torch.quantile(known[:100_000], q)) for q in QUANTILES} if len(known) else {}
        return head | {"missing": 1 - len(known) / max(len(column), 1), "quantiles": quantiles}
    rows = column.reshape(len(column), -1)
    ids, counts = torch.unique(rows[rows > OOV_ID], return_counts=True)
    order = torch.argsort(counts, descending=True, stable=True)[:TOP]
    total = max(int(counts.sum()), 1)
    return head | {
        "missing": float((rows == PAD_ID).all(1).double().mean()),
        "unseen": float((rows == OOV_ID).any(1).double().mean()),
        "distinct": len(ids),
        "top_ids": {str(int(ids[i])): int(counts[i]) / total for i in order},
    }
