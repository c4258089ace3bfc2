"""The least-squares part of the retriever: fixed item factors, and a user factor solved from any history.

Implicit matrix factorisation (Hu, Koren, Volinsky 2008) with confidences that fade with time. The item factors are
fitted once, by alternating least squares, before the towers are trained; the factor of a user is the solution of a
ridge regression over the history that the request brings, so that a user never seen in training has one too.
"""

import torch
from torch import Tensor, nn

from recsys.features import OOV_ID, PAD_ID


def event_confidence(age: Tensor, confidence: float, decay: float) -> Tensor:
    """Return what an event of ``age`` days counts: ``confidence * (1 + age / 30) ** -decay``, same shape."""
    return confidence * (age.clamp(min=0.0) / 30.0 + 1.0).pow(-decay)


class FoldIn(nn.Module):
    """Item factors ``Y [rows, K]`` and the user factors that fit them.

    A user factor minimises ``sum_i c_i (1 - x y_i)^2 + sum_j (x y_j)^2 + r |x|^2`` over the items ``i`` of the history,
    with ``c_i`` the summed confidence of its events, and all other items ``j``. The system is solved by conjugate
    gradients, preconditioned with the inverse of its part that all users share, in a fixed number of products that any
    runtime can do.
    """

    gram: Tensor
    inverse: Tensor
    scale: Tensor

    def __init__(self, rows: int, width: int, confidence: float, decay: float, steps: int = 3) -> None:
        """Start with factors of zero.

        Args:
            rows: Of the item id table.
            width: K.
            confidence: Of an event of today; that of an item without event is 1.
            decay: Power of the age in months that it falls with, at least 0.
            steps: Conjugate gradient steps.
        """
        super().__init__()
        self.width, self.confidence, self.decay, self.steps = width, confidence, decay, steps
        self.oov = OOV_ID
        # Not trained, yet a parameter: DDP would send a buffer round at every step.
        self.factors = nn.Embedding(rows, width, padding_idx=PAD_ID)
        self.factors.weight.requires_grad_(False).zero_()
        self.register_buffer("gram", torch.eye(width))
        self.register_buffer("inverse", torch.eye(width))
        self.register_buffer("scale", torch.tensor(1.0))

    @torch.no_grad()
    def start_from(self, ids: Tensor, factors: Tensor, regularization: float, scale: float) -> None:
        """Take the factors ``[N, K]`` of the items ``ids``, int64 ``[N]``; user factors are multiplied by ``scale``."""
        known = ids > self.oov
        self.factors.weight[ids[known]] = factors[known]
        gram = factors[known].double().T @ factors[known].double()
        gram.diagonal().add_(regularization)
        self.gram.copy_(gram)
        self.inverse.copy_(torch.linalg.inv(gram))
        self.scale.fill_(scale)

    def items(self, ids: Tensor) -> Tensor:
        """Return the factors of item ids ``[n]``, ``[n, K]``; zero for one without events in the fit window."""
        return self.factors(ids)

    def forward(self, ids: Tensor, age: Tensor) -> Tensor:
        """Solve for the factors of B users.

        Args:
            ids: Item ids of their histories, int64 ``[B, L]``; PAD_ID and OOV_ID count for nothing.
            age: Days from event to request, float32 ``[B, L]``.

        Returns:
            ``[B, K]``; zero where no item of the history has a factor.
        """
        y = self.factors(ids)  # [B, L, K]
        known = (ids > self.oov).to(y.dtype)
        confidence = event_confidence(age, self.confidence, self.decay) * known
        target = torch.bmm(confidence.unsqueeze(1), y).squeeze(1)
        # The shared part counts every item once with confidence 1; an item of the history leaves it, once.
        extra = confidence - first_occurrence(ids) * known
        x = target @ self.inverse
        residual = target - self._normal(x, y, extra)
        z = residual @ self.inverse
        direction = z
        power = (residual * z).sum(1, keepdim=True)
        for _ in range(self.steps):
            image = self._normal(direction, y, extra)
            step = power / (direction * image).sum(1, keepdim=True).clamp(min=1e-30)
            x = x + step * direction
            residual = residual - step * image
            z = residual @ self.inverse
            fresh = (residual * z).sum(1, keepdim=True)
            direction = z + fresh / power.clamp(min=1e-30) * direction
            power = fresh
        return x * self.scale

    def _normal(self, x: Tensor, y: Tensor, extra: Tensor) -> Tensor:
        """Multiply ``[B, K]`` with each user's matrix of the normal equations."""
        inner = torch.bmm(y, x.unsqueeze(2)).squeeze(2) * extra  # [B, L]
        return x @ self.gram + torch.bmm(inner.unsqueeze(1), y).squeeze(1)


def first_occurrence(ids: Tensor) -> Tensor:
    """Return 1 where an id occurs for the first time in its row of ``[B, L]``, else 0; float32."""
    ordered, place = torch.sort(ids, dim=1, stable=True)
    # Rolled rather than sliced: a slice would keep torch.export from histories of any length.
    same = ordered == ordered.roll(1, 1)
    first = torch.arange(ids.size(1), device=ids.device) == 0
    return torch.zeros(ids.shape, device=ids.device).scatter(1, place, (first | ~same).float())
