"""Changes of a whole bundle after its export: a changed copy takes its place, proven and described anew."""

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import torch

from recsys.bundle import format as part
from recsys.bundle.format import Manifest, read_manifest, seal, written_beside
from recsys.bundle.parts import read_tower
from recsys.bundle.reader import Bundle
from recsys.bundle.requests import UserInputs, microseconds
from recsys.bundle.towers import Towers
from recsys.export.card import model_card
from recsys.export.onnx_form import load_onnx
from recsys.export.parity import Inputs, certificate, compare
from recsys.export.parity_cases import ranker_cases
from recsys.export.parity_page import write_page
from recsys.export.profile import data_profile
from recsys.export.prove import STEM
from recsys.files import json_bytes

PROGRAM, ONNX = ".pt2", ".onnx"


def whole(folder: Path) -> Manifest:
    """Return the manifest of a bundle.

    Raises:
        BundleError: The bundle is not whole.
    """
    manifest = read_manifest(folder)
    manifest.verify(folder)
    return manifest


@contextmanager
def copied(source: Path, target: Path, manifest: Manifest) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield a copy of a bundle that takes a place at the end, or not at all, and what :func:`seal` takes for it.

    Args:
        source: Of the bundle.
        target: The place; that of the bundle itself, or another.
        manifest: Of the bundle.

    Raises:
        BundleError: The place cannot be written to.
    """
    with written_beside(target) as beside:
        shutil.copytree(source, beside, dirs_exist_ok=True)
        yield beside, manifest.content


def set_aside(folder: Path) -> Path:
    """Move a bundle that was found wanting to ``NAME.refused`` beside its place, and return where it is."""
    refused = folder.with_name(f"{folder.name}.refused")
    shutil.rmtree(refused, ignore_errors=True)  # of an earlier time
    return folder.replace(refused)


def write_metrics(folder: str | Path, metrics: Mapping[str, float], name: str) -> Manifest:
    """Add what was measured through a bundle to its manifest and card; the other parts stay as they are.

    Args:
        folder: A whole bundle; replaced at the end, or not at all.
        metrics: Metric key -> value; the ones it has are replaced.
        name: Of the model, for the card.

    Raises:
        BundleError: The bundle is not whole, or cannot be written.
    """
    target = Path(folder)
    manifest = whole(target)
    with copied(target, target, manifest) as (beside, content):
        content["metrics"] = {key: float(value) for key, value in metrics.items()}
        parity = json.loads((beside / part.PARITY).read_text(encoding="utf-8"))
        card = model_card(replace(manifest, metrics=content["metrics"]), parity, name)
        (beside / part.CARD).write_text(card, encoding="utf-8")
        return seal(beside, **content)


def prove_programs(bundle: Bundle, inputs: UserInputs, cases: Mapping[str, dict[str, Inputs]]) -> dict[str, Any]:
    """Compare scripts with the programs beside them, where there are any; return the certificate.

    Args:
        bundle: Whose ranker, if it has one, is asked as well.
        inputs: What its user tower reads.
        cases: Name of the script of a tower to the inputs that it is asked about.

    Raises:
        BundleError: They do not say the same.
    """
    if bundle.ranking is not None:
        now = microseconds(datetime.fromisoformat(bundle.manifest.cut), "cut")
        cases = {**cases, part.RANKER: ranker_cases(bundle.ranking, inputs, bundle.user_vectors, now)}
    rows = []
    for name, inputs_of in cases.items():
        path = bundle.folder / name
        script, side = read_tower(path), name.partition(".")[0]
        if path.with_suffix(PROGRAM).is_file():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the compiler, about its own internals
                program = torch.export.load(path.with_suffix(PROGRAM)).module()
            rows += compare(side, "torch.export", script, program, inputs_of)
        if path.with_suffix(ONNX).is_file():
            rows += compare(side, "onnx", script, load_onnx(path.with_suffix(ONNX)), inputs_of)
    return certificate(rows)


def describe(folder: Path, manifest: Manifest) -> None:
    """Make the profile and the card again, and take out of the certificate what is no part any more."""
    towers = Towers(folder, manifest, pl.read_parquet(folder / part.USERS), pl.read_parquet(folder / part.CATALOGUE))
    profile = data_profile(towers.inputs.encoder, towers.inputs, towers.item_features)
    (folder / part.PROFILE).write_bytes(json_bytes(profile))
    card = folder / part.CARD
    title = card.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
    parity = json.loads((folder / part.PARITY).read_text(encoding="utf-8"))
    for side, stem in STEM.items():
        gone = f"{stem}{ONNX}"
        if (
            any((case["tower"], case["form"]) == (side, "onnx") for case in parity["cases"])
            and not (folder / gone).is_file()
        ):  # no other change takes a part away
            parity["absent"][gone] = "left out when people were erased: it could not be made again without them"
            parity["cases"] = [case for case in parity["cases"] if (case["tower"], case["form"]) != (side, "onnx")]
            (folder / part.PARITY).write_bytes(json_bytes(parity))
            write_page(parity, title, folder / part.PARITY_PAGE)
    card.write_text(model_card(manifest, parity, title), encoding="utf-8")
