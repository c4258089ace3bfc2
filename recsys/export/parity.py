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

from recsys.errors import BundleError
from recsys.features import HISTORY, REQUEST

log = logging.getLogger(__name__)

Inputs = dict[str, Tensor]
Compiled = Callable[[Inputs], Tensor]
Scores = Callable[[Tensor], Tensor]
"""Turns the output of a model, ``[B, D]``, into the scores of Q rankings, ``[Q, C]``."""


@dataclass(frozen=True)
class Tolerance:
    """How far a form may be from the eager model, relative to the largest entry of what that one gives, and why."""

    limit: float
    reason: str


SAME = Tolerance(
    1e-5,
    "Both run the same float32 operations; a compiler may order the terms of a sum differently, which moves a "
    "value by a few units of its last place (6e-8 of the largest vector entry) for each of some dozens of sums.",
)
OTHER_KERNELS = Tolerance(
    2e-4,
    "The runtime has kernels of its own: exponentials, logarithms and powers by other polynomials, matrix products in "
    "other blocks. Each differs by a few units of the last place (6e-8), and a solved system passes them on "
    "multiplied by its condition: of 100,000 random requests to a real user tower half differ by 1e-7, one in 10,000 "
    "by 7e-6, and the worst, with 512 events, by 7e-5, where torch itself is 9e-5 from the same in double precision.",
)
TOLERANCES = {
    "torchscript": SAME,
    "torch.export": SAME,
    "onnx": OTHER_KERNELS,
}
"""By form; where another device than the CPU has a part in it, kernels are others as well."""
RUNS = {"torchscript": 3}
"""By how a form begins: TorchScript profiles its first runs and optimizes after them. The last run is compared."""
TOP_K = 20
"""Items of a ranking that have to be the same."""


@dataclass(frozen=True)
class Comparison:
    """One case of one tower.

    Attributes:
        tower: ``user``, ``item`` or ``ranker``.
        form: ``torchscript``, ``torch.export`` or ``onnx``, with where it ran if that is not the CPU.
        case: What is special about the input.
        rows: B.
        max_difference: Largest absolute difference of any vector entry.
        scale: Largest absolute entry of the eager vectors.
        tolerance: Of this form.
        overlap: Share of the best :data:`TOP_K` of the eager ranking that this form has too; None where nothing was
            ranked.
        passed: Whether the difference is at most ``tolerance * scale``, and the overlap 1.
    """

    tower: str
    form: str
    case: str
    rows: int
    max_difference: float
    scale: float
    tolerance: float
    overlap: float | None
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
    tower: str,
    form: str,
    eager: nn.Module,
    compiled: Compiled,
    cases: Mapping[str, Inputs],
    scores: Scores | None = None,
) -> list[Comparison]:
    """Run both forms of a model on every case and compare the outputs ``[B, D]``, and what they rank first."""
    rows = []
    limit, runs = tolerance_of(form).limit, RUNS.get(form.split()[0], 1)
    with torch.inference_mode():
        for case, inputs in cases.items():
            expected = eager(inputs)
            for _ in range(runs):
                found = compiled(inputs)
            scale = float(expected.abs().max()) if expected.numel() else 0.0
            same_shape = found.shape == expected.shape
            difference = float((found - expected).abs().max()) if same_shape and expected.numel() else 0.0
            finite = bool(torch.isfinite(expected).all())
            passed = same_shape and finite and difference <= limit * max(scale, 1e-6)
            shared = overlap(scores(expected), scores(found), limit) if scores and same_shape else None
            passed = passed and shared in (None, 1.0)
            rows.append(Comparison(tower, form, case, len(expected), difference, scale, limit, shared, passed))
    return rows


def tolerance_of(form: str) -> Tolerance:
    """Return how far a form may be from the eager model, and why."""
    return TOLERANCES.get(form, OTHER_KERNELS)


def overlap(expected: Tensor, found: Tensor, tolerance: float, k: int = TOP_K) -> float:
    """Return the share of the best ``k`` of Q rankings that are found, the mean over the rankings.

    Candidates whose expected score is as good as that of the last one count as the same: nearer to it than twice the
    tolerance of the largest score, as each of both may have moved by that.

    Args:
        expected: Scores ``[Q, C]``.
        found: Scores ``[Q, C]``.
        tolerance: Relative to the largest of the expected scores.
        k: At most C are taken.
    """
    k = min(k, expected.size(1))
    if expected.numel() == 0:
        return 1.0
    last = expected.topk(k).values[:, -1:]
    taken = expected.gather(1, found.topk(k).indices)
    return float((taken >= last - 2 * tolerance * expected.abs().max()).float().mean())


def certificate(rows: list[Comparison], absent: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return what ``parity.json`` says.

    Args:
        rows: Of all models, forms and cases.
        absent: What was not compared, and why.

    Raises:
        BundleError: A case is off; names tower, form, case and difference.
    """
    for row in rows:
        if not row.passed:
            raise BundleError(f"parity: {off(asdict(row))} The bundle was not written.")
    forms = {form: asdict(tolerance_of(form)) for form in dict.fromkeys(row.form for row in rows)}
    return {
        "forms": forms,
        "relative_to": "largest absolute entry of what the eager model gives",
        "top_k": TOP_K,
        "max_difference": max((row.max_difference for row in rows), default=0.0),
        "absent": dict(absent or {}),
        "cases": [asdict(row) for row in rows],
    }


def off(case: Mapping[str, Any]) -> str:
    """Say what is wrong with a case of a certificate."""
    found = f"differs from the eager one by {case['max_difference']:.2e} at scale {case['scale']:.2e}"
    if case["overlap"] not in (None, 1.0):
        found += f", shares {case['overlap']:.2%} of what it ranks first"
    return (
        f"the {case['tower']} tower as {case['form']} {found} (case '{case['case']}', {case['rows']} rows), or gives "
        f"no numbers; allowed is {case['tolerance']:.0e} of the scale."
    )


def export_program(tower: nn.Module, example: Inputs, path: Path) -> torch.export.ExportedProgram | None:
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
            program = torch.export.load(archive)
    except Exception as error:  # the compiler raises many kinds
        log.warning("no %s in the bundle: torch.export cannot express it (%s)", path.name, str(error).splitlines()[0])
        return None
    path.write_bytes(archive.getbuffer())
    return program
