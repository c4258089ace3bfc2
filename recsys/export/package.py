"""The reader's code as a small ``recsys`` package that travels with a registered model."""

import shutil
from pathlib import Path

import recsys

MODULES = (
    "__init__.py", "errors.py", "columns.py", "features.py", "files.py",
    "data/__init__.py", "data/asked.py", "data/candidate_sources.py", "data/candidate_tables.py",
    "data/candidates.py", "data/dtypes.py", "data/encode.py", "data/item_state.py", "data/log.py", "data/log_rows.py",
    "data/pair_features.py", "data/pair_plan.py", "data/past_lines.py", "data/ranking_state.py",
    "data/ranking_store.py", "data/recent.py", "data/rhythm.py", "data/segmented.py", "data/sessions.py",
    "data/snapshots.py", "data/topk.py",
    "bundle/__init__.py", "bundle/answers.py", "bundle/cold.py", "bundle/explore.py", "bundle/filters.py",
    "bundle/format.py", "bundle/histories.py", "bundle/ids.py", "bundle/index.py", "bundle/parts.py",
    "bundle/past.py", "bundle/picking.py", "bundle/profiles.py", "bundle/pyfunc.py", "bundle/ranking.py",
    "bundle/reader.py", "bundle/requests.py", "bundle/sample.py", "bundle/segments.py", "bundle/signals.py",
    "bundle/tensors.py", "bundle/touchpoints.py", "bundle/towers.py",
    "segments/__init__.py", "segments/behaviour.py", "segments/clusters.py", "segments/demographic.py",
    "segments/intent.py", "segments/model.py", "segments/rfm.py", "segments/store.py",
)  # fmt: skip
"""All that ``recsys.bundle.reader`` and ``recsys.bundle.pyfunc`` import; a test holds the list to that."""


def write_reader_package(folder: Path) -> Path:
    """Copy the reader's modules to ``folder/recsys`` and return that path."""
    root = Path(recsys.__file__).parent
    target = folder / "recsys"
    for module in MODULES:
        (target / module).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / module, target / module)
    return target
