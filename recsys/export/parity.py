"""Towers leave Python: scripted and exported, and compared with the eager module value by value."""

import copy
import io
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recsys.data.recent import HISTORY, REQUEST
from recsys.errors import BundleError

log = logging.getLogger(__name__)

Inputs = dict[str, Tensor]
TOLERANCE = 1e-5
REASON = (
    "Both run the same float32 operations; a compiler may order the terms of a sum differently, which moves a "
    "value by a few units of its last place (6e-8 of the largest vector entry) for each of some dozens of sums."
)
"""The tolerance is relative to the largest entry of the eager vectors, and why."""
RUNS = 3
"""TorchScript profiles its first runs and optimizes after them; the last run is compared."""


@dataclass(frozen=True)
class Comparison:
    """One case of one tower.

    Attributes:
        tower: ``user`` or ``item``.
        form: ``torchscript`` or ``torch.export``.
        case: What is special about the input.
        rows: B.
        max_difference: Largest absolute difference of any vector entry.
        scale: Largest absolute entry of the eager vectors.
        passed: Whether the difference is at most ``TOLERANCE * scale``.
    """

    tower: str
    form: str
    case: str
    rows: int
    max_difference: float
    scale: float
    passed: bool


def serving_copy(tower: nn.Module) -> nn.Module:
    """Return a copy on the CPU, in evaluation mode, float32 and without gradients."""
    return copy.deepcopy(tower).cpu().float().eval().requires_grad_(False)


def script(tower: nn.Module) -> torch.jit.ScriptModule:
    """Compile a tower to TorchScript."""
    with warnings.catch_warnings():
        # TorchScript is deprecated upstream; it stays the one format that libtorch loads without Python
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=DeprecationWarning)
        scripted: torch.jit.ScriptModule = torch.jit.script(tower)
    return scripted


def save_script(scripted: torch.jit.ScriptModule, path: Path) -> None:
    """Write a TorchScript archive.

    Raises:
        OSError: The place cannot be written to, or is full.
    """
    archive = io.BytesIO()  # torch's own writer of files ends the process when the disk is full
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.save.*", category=DeprecationWarning)
        torch.jit.save(scripted, archive)
    path.write_bytes(archive.getbuffer())


def compare(
    tower: str, form: str, eager: nn.Module, compiled: Callable[[Inputs], Tensor], cases: Mapping[str, Inputs]
) -> list[Comparison]:
    """Run both forms of a tower on every case and compare the vectors ``[B, D]``."""
    rows = []
    with torch.inference_mode():
        for case, inputs in cases.items():
            expected = eager(inputs)
            for _ in range(RUNS):
                found = compiled(inputs)
            scale = float(expected.abs().max()) if expected.numel() else 0.0
            same_shape = found.shape == expected.shape
            difference = float((found - expected).abs().max()) if same_shape and expected.numel() else 0.0
            finite = bool(torch.isfinite(expected).all())
            passed = same_shape and finite and difference <= TOLERANCE * max(scale, 1e-6)
            rows.append(Comparison(tower, form, case, len(expected), difference, scale, passed))
    return rows


def certificate(rows: list[Comparison]) -> dict[str, Any]:
    """Return what ``parity.json`` says.

    Raises:
        BundleError: A case is off; names tower, form, case and difference.
    """
    for row in rows:
        if not row.passed:
            raise BundleError(
                f"parity: the {row.tower} tower as {row.form} differs from the eager one by {row.max_difference:.2e} "
                f"at scale {row.scale:.2e} (case '{row.case}', {row.rows} rows), or gives no numbers; allowed is "
                f"{TOLERANCE:.0e} of the scale. The bundle was not written."
            )
    return {
        "tolerance": TOLERANCE,
        "relative_to": "largest absolute entry of the eager vectors",
        "reason": REASON,
        "max_difference": max((row.max_difference for row in rows), default=0.0),
        "cases": [asdict(row) for row in rows],
    }


def export_program(tower: nn.Module, example: Inputs, path: Path) -> Callable[[Inputs], Tensor] | None:
    """Write a ``torch.export`` program with free batch (and history) dimensions, and return it loaded again.

    Args:
        tower: The eager tower.
        example: Input with at least 2 rows and, for a history, at least 2 positions.
        path: Ends in ``.pt2``.

    Returns:
        None, with a warning, where ``torch.export`` cannot express the tower: the TorchScript archive is the
        part that readers rely on.

    Raises:
        OSError: The place cannot be written to, or is full.
    """
    batch, length = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=1)
    # A ranker's histories are of requests, each with several pairs.
    owner = torch.export.Dim("requests", min=1) if REQUEST in example else batch
    shapes = {
        name: {0: owner, 1: length} if name.startswith(HISTORY) else {0: batch} for name in example
    }  # fmt: skip
    archive = io.BytesIO()  # torch's own writer of files ends the process when the disk is full
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler, about its own internals
            torch.export.save(torch.export.export(tower, (example,), dynamic_shapes=(shapes,)), archive)
            archive.seek(0)
            program: Callable[[Inputs], Tensor] = torch.export.load(archive).module()
    except Exception as error:  # the compiler raises many kinds
        log.warning("no %s in the bundle: torch.export cannot express it (%s)", path.name, str(error).splitlines()[0])
        return None
    path.write_bytes(archive.getbuffer())
    return program
