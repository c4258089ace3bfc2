"""What a run needs to be understood later: configuration, libraries, devices, the state of the code, the data."""

import json
import platform
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from recsys.config.schema import Config
from recsys.files import write_whole

RUN_FILE = "mlflow_run"
"""In the folder of a job: the id of its run."""

if TYPE_CHECKING:
    from recsys.data.prepared import Prepared
    from recsys.tracking.run import Run


def describe(tracked: "Run", cfg: Config, prepared: "Prepared", folder: Path) -> None:
    """Write ``config.json`` and ``environment.json`` into the run folder and log them with what names the data.

    Raises:
        OSError: The folder cannot be written.
    """
    git = git_state()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(cfg), indent=1, default=str))
    (folder / "environment.json").write_text(json.dumps(environment() | {"git": git}, indent=1, default=str))
    if not tracked.goes_on:
        tracked.log_params(asdict(cfg))
    tracked.log_tags({"data_fingerprint": prepared.fingerprint, **{f"git.{key}": value for key, value in git.items()}})
    tracked.log_file(folder / "config.json")
    tracked.log_file(folder / "environment.json")
    tracked.log_file(prepared.path / "features.yaml")


def note_run(folder: Path, tracked: "Run") -> None:
    """Write down which MLflow run the folder of a job belongs to, for :func:`noted_run`."""
    if tracked.run_id:
        write_whole(folder / RUN_FILE, f"{tracked.run_id}\n".encode())


def noted_run(folder: Path) -> str | None:
    """Return the id of the MLflow run that a folder belongs to; None where no job has begun in it, or none tracked."""
    path = folder / RUN_FILE
    return path.read_text().strip() if path.is_file() else None


def environment() -> dict[str, Any]:
    """Return Python, platform, CPU threads, CUDA devices and every installed package with its version."""
    cuda = torch.cuda.is_available()
    packages = {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"]}
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
        "threads": torch.get_num_threads(),
        "packages": dict(sorted(packages.items(), key=lambda row: row[0].lower())),
    }


def git_state(folder: str | Path | None = None) -> dict[str, Any]:
    """Return commit, branch and whether files differ from the commit; ``{}`` where there is no git or no commit.

    Args:
        folder: Any folder of the checkout; by default the one that holds this package.
    """
    place = str(folder or Path(__file__).resolve().parent)

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", place, *words], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "branch": git("rev-parse", "--abbrev-ref", "HEAD"),
            "dirty": bool(git("status", "--porcelain")),
        }
    except (OSError, subprocess.SubprocessError):
        return {}
