"""Changes of a whole bundle after its export: what was measured through it, and other touchpoints."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from recsys.bundle import format as part
from recsys.bundle.format import Manifest, read_manifest, seal, written_beside
from recsys.bundle.profiles import write_profiles
from recsys.export.card import model_card
from recsys.export.touchpoints import FittedTouchpoints


def write_metrics(folder: str | Path, metrics: Mapping[str, float], name: str) -> Manifest:
    """Add what was measured through a bundle to its manifest and card; the other parts stay as they are.

    Args:
        folder: A whole bundle; replaced at the end, or not at all.
        metrics: Metric key -> value; the ones it has are replaced.
        name: Of the model, for the card.

    Raises:
        BundleError: The bundle is not whole, or cannot be written.
    """
    with _copied(Path(folder)) as (beside, manifest, content):
        content["metrics"] = {key: float(value) for key, value in metrics.items()}
        parity = json.loads((beside / part.PARITY).read_text(encoding="utf-8"))
        card = model_card(replace(manifest, metrics=content["metrics"]), parity, name)
        (beside / part.CARD).write_text(card, encoding="utf-8")
        return seal(beside, **content)


def write_touchpoints(folder: str | Path, touchpoints: FittedTouchpoints) -> Manifest:
    """Give a bundle other touchpoints; the other parts stay as they are.

    Args:
        folder: A whole bundle; replaced at the end, or not at all.
        touchpoints: In place of those that it has.

    Raises:
        BundleError: The bundle is not whole, or cannot be written.
    """
    with _copied(Path(folder)) as (beside, _, content):
        write_profiles(beside, touchpoints.profiles, touchpoints.price)
        return seal(beside, **content)


@contextmanager
def _copied(target: Path) -> Iterator[tuple[Path, Manifest, dict[str, Any]]]:
    """Yield a copy beside a whole bundle that takes its place, its manifest, and what :func:`seal` takes of that."""
    manifest = read_manifest(target)
    manifest.verify(target)
    content = {k: v for k, v in asdict(manifest).items() if k not in ("format_version", "parts", "fingerprint")}
    with written_beside(target) as beside:
        shutil.copytree(target, beside, dirs_exist_ok=True)
        yield beside, manifest, content
