"""A bundle proves that its compiled models say what the trained ones do, and is believed only as far as it did."""

import copy
import io
import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recsys.bundle import format as part
from recsys.bundle.format import Manifest
from recsys.errors import BundleError
from recsys.export.onnx_form import export_onnx, missing_libraries
from recsys.export.parity import (
    Comparison,
    Compiled,
    Inputs,
    Scores,
    certificate,
    compare,
    export_program,
    off,
    script,
)  # fmt: skip

log = logging.getLogger(__name__)

STEM = {"user": "user_tower", "item": "item_tower", "ranker": "ranker"}
"""Name of the parts of a model, before ``.pt``, ``.pt2`` or ``.onnx``."""
FORMS = {".pt": "torchscript", ".pt2": "torch.export", ".onnx": "onnx"}
UNASKED = "bundle.forms is"
"""How the reason begins why a form is not there that nobody asked for."""
RANKED_USERS, RANKED_ITEMS = 64, 100_000
"""The most rows of a case whose rankings are compared, and the most items of the catalogue in each."""


def prove(
    towers: Mapping[str, nn.Module],
    scripted: Mapping[str, Any],
    cases: Mapping[str, dict[str, Inputs]],
    vectors: Mapping[str, Tensor],
    folder: Path,
    forms: str = "onnx",
) -> dict[str, Any]:
    """Write the further forms of every model beside its script, compare all of them, and return the certificate.

    Args:
        towers: Eager models on the CPU: ``user``, ``item`` and maybe ``ranker``.
        scripted: The same, compiled.
        cases: Inputs of each; ``odd`` serves as the example that a program is made of.
        vectors: ``user`` ``[U, D]`` and ``item`` ``[N, D]``, which rankings are made with.
        folder: Where the parts lie.
        forms: ``torchscript``, ``torch.export`` or ``onnx``; each brings those before it along.

    Raises:
        BundleError: TorchScript or ``torch.export`` is off; an ONNX model that is off is left out, with a warning.
    """
    rows: list[Comparison] = []
    absent: dict[str, str] = {}
    lacking = missing_libraries()
    without = f"{UNASKED} {forms}"
    no_onnx = "" if forms == "onnx" else without
    if not no_onnx and lacking:
        no_onnx = f"not installed: {lacking}; pip install 'recsys[onnx]' brings them"
    for side, tower in towers.items():
        scores = scores_of(side, vectors)
        rows += compare(side, "torchscript", tower, scripted[side], cases[side], scores)
        if forms == "torchscript":
            absent |= {f"{STEM[side]}.pt2": without, f"{STEM[side]}.onnx": without}
        else:
            found, lost = export_further(side, tower, cases[side], scores, folder, no_onnx)
            rows, absent = rows + found, absent | lost
        if torch.cuda.is_available():
            try:
                rows += across(side, tower, cases[side], torch.device("cuda"), scores)
            except RuntimeError as error:  # out of memory, a driver that is too old
                absent[f"{STEM[side]} on cuda"] = str(error).splitlines()[0]
                log.warning("%s was not compared on cuda: %s", STEM[side], absent[f"{STEM[side]} on cuda"])
    if not torch.cuda.is_available():
        absent["cuda"] = "no CUDA device where the bundle was made"
    return certificate(rows, absent)


def export_further(
    side: str, tower: nn.Module, cases: dict[str, Inputs], scores: Scores, folder: Path, no_onnx: str = ""
) -> tuple[list[Comparison], dict[str, str]]:
    """Write a model as a ``torch.export`` program and as ONNX, which is made of that, and compare both.

    Args:
        side: ``user``, ``item`` or ``ranker``.
        tower: Eager, on the CPU.
        cases: Its inputs.
        scores: As :func:`recsys.export.parity.compare` takes them.
        folder: Where the parts lie.
        no_onnx: Why that form is not made; empty: it is.

    Returns:
        The comparisons, and what is not there, with the reason.
    """
    path, onnx_path = folder / f"{STEM[side]}.pt2", folder / f"{STEM[side]}.onnx"
    program = export_program(tower, cases["odd"], path)
    if program is None:
        return [], dict.fromkeys((path.name, onnx_path.name), "torch.export cannot express the model")
    rows = compare(side, "torch.export", tower, program.module(), cases, scores)
    if no_onnx:
        return rows, {onnx_path.name: no_onnx}
    model = export_onnx(program, onnx_path)
    if model is None:
        return rows, {onnx_path.name: "ONNX cannot express the model"}
    found = compare(side, "onnx", tower, model, cases, scores)
    wrong = [row for row in found if not row.passed]
    if not wrong:
        return rows + found, {}
    onnx_path.unlink()  # a form that nobody has to have: the bundle does without it, and says so
    why = off(asdict(wrong[0]))
    log.warning("no %s in the bundle: %s", onnx_path.name, why)
    return rows, {onnx_path.name: why}


def scores_of(side: str, vectors: Mapping[str, Tensor]) -> Scores:
    """Return what makes rankings of a model's output.

    Vectors of users rank the items of the catalogue, stored vectors of users rank the items of a case, and the logits
    of a ranker rank the pairs of a case.
    """
    if side == "user":
        return lambda found: found[:RANKED_USERS] @ vectors["item"][:RANKED_ITEMS].T
    if side == "item":
        return lambda found: vectors["user"][:RANKED_USERS] @ found.T
    return lambda found: found[:, :1].T


def across(
    side: str, tower: nn.Module, cases: Mapping[str, Inputs], device: torch.device, scores: Scores | None = None
) -> list[Comparison]:
    """Compare a model compiled on a device, and the archives that cross over from it and to it, with the eager one.

    Args:
        side: ``user``, ``item`` or ``ranker``.
        tower: Eager, on the CPU.
        cases: On the CPU.
        device: The other one.
        scores: As :func:`recsys.export.parity.compare` takes them.
    """
    there = copy.deepcopy(tower).to(device)
    compiled = {
        f"torchscript on {device}": on(device, script(there)),
        f"torchscript from {device}": crossed(script(there), torch.device("cpu")),
        f"torchscript to {device}": on(device, crossed(script(tower), device)),
    }
    return [row for form, model in compiled.items() for row in compare(side, form, tower, model, cases, scores)]


def on(device: torch.device, model: Compiled) -> Compiled:
    """Return the model as one that takes and gives tensors on the CPU."""
    return lambda inputs: model({name: column.to(device) for name, column in inputs.items()}).cpu()


def crossed(scripted: torch.jit.ScriptModule, device: torch.device) -> Any:
    """Return a compiled model as it is loaded to a device from its archive."""
    archive = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
        torch.jit.save(scripted, archive)
        archive.seek(0)
        return torch.jit.load(archive, map_location=device)


def refuse_unproven(folder: Path, manifest: Manifest) -> None:
    """Refuse a bundle whose certificate does not speak for every compiled model that it carries.

    Raises:
        BundleError: The certificate cannot be read, a case failed, or a model has none; names the part.
    """
    again = "It is not registered; export it again."
    try:
        content = json.loads((folder / part.PARITY).read_text(encoding="utf-8"))
        cases = [{"tolerance": content.get("tolerance"), "overlap": None} | case for case in content["cases"]]
        failed = [case for case in cases if not holds(case)]
        proven = {(case["tower"], case["form"]) for case in cases}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BundleError(
            f"bundle {folder}: part '{part.PARITY}' is no certificate ({type(error).__name__}: {error}). {again}"
        ) from error
    if failed:
        raise BundleError(f"bundle {folder}: part '{part.PARITY}': {off(failed[0])} {again}")
    for side, stem in STEM.items():
        for suffix, form in FORMS.items():
            if stem + suffix in manifest.parts and (side, form) not in proven:
                raise BundleError(f"bundle {folder}: no case of '{part.PARITY}' is about '{stem}{suffix}'. {again}")


def left_out(folder: Path) -> dict[str, list[str]]:
    """Return why forms of models that were asked for are not in a bundle: reason to files."""
    found: dict[str, list[str]] = {}
    for name, why in json.loads((folder / part.PARITY).read_text(encoding="utf-8"))["absent"].items():
        if Path(name).suffix in FORMS and not why.startswith(UNASKED):
            found.setdefault(why, []).append(name)
    return found


def holds(case: Mapping[str, Any]) -> bool:
    """Return whether a case says that it passed, and its own numbers say so too."""
    within = case["max_difference"] <= case["tolerance"] * max(case["scale"], 1e-6)
    return bool(case["passed"] and within and case["overlap"] in (None, 1.0))
