"""One optimizer for parameters of several kinds: huge tables of which a step touches few rows, small dense matrices.

Dense Adam moves and reads every row of every table at every step. Row-wise Adagrad keeps one number a row
and touches only the rows of the batch; it takes sparse gradients and dense ones (small tables, DDP, clipping) alike.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def may_be_sparse(processes: int, clip: float | None) -> bool:
    """Tell whether gradients may be sparse: DDP cannot reduce such ones on every backend, and torch cannot clip them.

    Args:
        processes: That train together.
        clip: Lightning's ``gradient_clip_val``.
    """
    return processes == 1 and not clip


def loss_before_step(closure: Callable[[], float] | None) -> float | None:
    """Run the closure that an optimizer's step was given, with gradients, and return its loss; None without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


class RowwiseAdagrad(torch.optim.Optimizer):
    """Adagrad with one accumulator a row: the mean of the row's squared gradients, summed over steps.

    Duchi et al. 2011; the row-wise form is that of DLRM (Naumov et al. 2019). A row without gradient does not move.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 0.05, eps: float = 1e-8) -> None:
        super().__init__(params, {"lr": lr, "eps": eps})
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["sum"] = torch.zeros(p.shape[0], device=p.device)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; returns the closure's loss, if one is given."""
        loss = loss_before_step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, self.state[p]["sum"], group["lr"], group["eps"])
        return loss

    @staticmethod
    def _update(p: nn.Parameter, total: Tensor, lr: float, eps: float) -> None:
        assert p.grad is not None
        if p.grad.is_sparse:
            grad = p.grad.coalesce()
            rows, values = grad.indices()[0], grad.values()
            seen = total[rows] + values.square().mean(1)
            total[rows] = seen
            p.index_add_(0, rows, values * (-lr / (seen.sqrt() + eps)).unsqueeze(1))
        else:
            total += p.grad.square().mean(1)
            p.add_(p.grad * (-lr / (total.sqrt() + eps)).unsqueeze(1))


class JoinedOptimizer(torch.optim.Optimizer):
    """Several optimizers, each with parameters of its own, stepped and saved as one.

    One optimizer keeps Lightning's automatic optimization, its step count and its checkpoints simple.

    Args:
        parts: No parameter is in two of them.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts: list[torch.optim.Optimizer] = []
        params = [p for part in parts for group in part.param_groups for p in group["params"]]
        super().__init__([{"params": params}], {})
        self.parts = list(parts)
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Run the closure once, then step all parts."""
        loss = loss_before_step(closure)
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all parts: tensors and plain types only."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def retriever_optimizer(model: nn.Module, *, lr: float, embedding_lr: float, weight_decay: float) -> JoinedOptimizer:
    """Move embedding tables by row-wise Adagrad and everything else by AdamW."""
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    is_table = {id(t) for t in tables}
    dense = [p for p in model.parameters() if id(p) not in is_table]
    return JoinedOptimizer(
        [RowwiseAdagrad(tables, lr=embedding_lr), torch.optim.AdamW(dense, lr=lr, weight_decay=weight_decay)]
    )
