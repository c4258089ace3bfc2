"""Models that look as if they had been trained."""

from typing import Any, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)
TOWERS: dict[str, Any] = {
    "width": 64, "code_width": 64, "hidden": 128, "heads": 4, "dropout": 0.1, "id_dropout": 0.3,
    "user_id_dropout": 0.5, "history_dropout": 0.3, "context_dropout": 0.5, "use_ids": True, "use_content": True,
    "factor_width": 0, "factor_weight": 1.5, "factor_confidence": 0.6, "factor_decay": 0.5,
}  # fmt: skip
"""A whole shape of towers, to be changed where a test needs others."""
BOUNDS = (0.02, 1.0)
RANKER: dict[str, Any] = {
    "width": 16, "hidden": (256, 128), "dropout": 0.1, "id_dropout": 0.1, "norm": "layer", "forms": ("normal", "log"),
    "attention": 16, "use_wide": True, "use_deep": True,
}  # fmt: skip
"""The same of a ranker."""


@torch.no_grad()
def as_if_trained(model: Model) -> Model:
    """Move every weight of a fresh model by chance, but for the padding of embeddings, and put it into evaluation."""
    for p in model.parameters():
        p.add_(torch.randn(p.shape) * 0.3)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.weight[0] = 0.0  # padding never learns
    return model.eval()
