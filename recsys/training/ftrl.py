"""FTRL-Proximal: the optimizer of the wide part, which leaves most of its weights at exactly 0."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from recsys.training.optimizers import loss_before_step


class FTRL(torch.optim.Optimizer):
    """Follow the (proximally) regularised leader, per coordinate, with L1 and L2 (McMahan et al. 2013, algorithm 1).

    Takes sparse gradients and dense ones alike: a coordinate with a gradient of 0 stays where it is. A weight that
    starts elsewhere than 0 starts from a state of which it is the solution.

    The rate of a coordinate falls by itself, as ``lr / (beta + sqrt(sum of squared gradients))``; ``lr`` is to stay
    as it is from step to step, a schedule would move weights without a gradient.

    Args:
        params: To move.
        lr: alpha, above 0.
        beta: Above 0, in the units of a gradient, as l1. The paper's 1 is for gradients of single examples; with a
            loss that is a mean over P pairs they are a P-th of that, and a beta of 1 holds every weight back.
        l1: At least 0. A weight leaves 0 only once its gradients have summed up to more.
        l2: At least 0.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float = 0.05, beta: float = 1e-6, l1: float = 0.0, l2: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "l1": l1, "l2": l2})
        for group in self.param_groups:
            for p in group["params"]:
                w = p.detach()
                self.state[p]["n"] = torch.zeros_like(w)
                self.state[p]["z"] = -w * (group["beta"] / group["lr"] + group["l2"]) - w.sign() * group["l1"]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; returns the closure's loss, if one is given."""
        loss = loss_before_step(closure)
        for group in self.param_groups:
            rates = group["lr"], group["beta"], group["l1"], group["l2"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                n, z = self.state[p]["n"], self.state[p]["z"]
                if p.grad.is_sparse:
                    grad = p.grad.coalesce()
                    rows = grad.indices()[0]
                    p[rows], n[rows], z[rows] = _moved(p[rows], n[rows], z[rows], grad.values(), *rates)
                else:
                    for old, new in zip((p, n, z), _moved(p, n, z, p.grad, *rates), strict=True):
                        old.copy_(new)
        return loss


def _moved(
    w: Tensor, n: Tensor, z: Tensor, g: Tensor, alpha: float, beta: float, l1: float, l2: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights, sums of squared gradients and leader's state after the gradients ``g``; all of one shape."""
    total = n + g.square()
    z = z + g - (total.sqrt() - n.sqrt()) / alpha * w
    beyond = (z.abs() - l1).clamp(min=0.0)
    moved = -z.sign() * beyond / ((beta + total.sqrt()) / alpha + l2)
    return torch.where(g != 0, moved, w), total, z
