"""Where a run writes, what it needs there, and what else must be at hand: packages, devices, a checkpoint."""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recsys.config.schema import LAST, Config
from recsys.config.tune import TuneConfig
from recsys.errors import did_you_mean

ACCELERATORS = ("cpu", "gpu", "cuda", "mps", "tpu", "auto")
PRECISIONS = (
    *("32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true", "transformer-engine"),
    *("transformer-engine-float16", "64", "32", "16", "bf16"),
)
"""What Lightning takes; known here, since importing it takes longer than all the rest of a plan that fails."""
CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def folder_problem(key: str, folder: str, *, of_file: bool = False) -> str | None:
    """Return why a folder cannot be written to, if it cannot; nothing is left there.

    Args:
        key: Of the configuration, for the message.
        folder: That would be made; with ``of_file`` the folder of this file.
        of_file: Whether the path is that of a file.
    """
    path = Path(folder).expanduser().absolute()
    there = standing(path.parent if of_file else path)
    reason = None
    if of_file and path.is_dir():
        reason = "is a folder, and a file is meant"
    elif not there.is_dir():
        reason = f"'{there}' is a file"
    else:
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            reason = f"'{there}' cannot be written to ({os.strerror(error.errno or 0)})"
    return None if reason is None else f"{key}={folder}: {reason}; choose another place."


def standing(path: Path) -> Path:
    """Return the nearest of a path and the folders above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def disk_problems(needed: dict[tuple[str, str], float]) -> Iterator[str]:
    """Yield a message for each disk that has less room than what would be written to it.

    Args:
        needed: Key and folder to bytes.
    """
    by_disk: dict[int, list[tuple[str, str, float]]] = {}
    for (key, folder), size in needed.items():
        by_disk.setdefault(standing(Path(folder)).stat().st_dev, []).append((key, folder, size))
    for parts in by_disk.values():
        free = shutil.disk_usage(standing(Path(parts[0][1]))).free
        total = sum(size for *_, size in parts)
        if total > free:
            names = ", ".join(f"{key}={folder}" for key, folder, _ in parts)
            yield (
                f"{names}: about {total / 2**30:.1f} GiB would be written to a disk with {free / 2**30:.1f} GiB left; "
                "free some space, or choose another place."
            )


def free_memory() -> float:
    """Return the bytes of memory that a process may still get."""
    free = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    known = Path("/proc/meminfo")
    if known.is_file():
        lines = dict(line.split(":", 1) for line in known.read_text().splitlines() if ":" in line)
        free = float(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else free
    for group in map(Path, CGROUPS):
        if group.is_file() and (limit := group.read_text().strip()).isdecimal():
            free = min(free, float(limit))
    return free


def package_problems(cfg: Config) -> Iterator[str]:
    """Yield a message for each package that the configuration needs and that is not installed."""
    if isinstance(cfg, TuneConfig):
        if cfg.sampler.name == "cmaes" and not _is_there("cmaes"):
            yield "sampler.name=cmaes: the package 'cmaes' is not installed; pip install 'recsys[tuning]'."
        driver = cfg.storage.partition(":")[0].partition("+")[2] or "psycopg"
        if cfg.storage.startswith("postgresql") and not _is_there(driver):
            yield f"storage={cfg.storage}: the package '{driver}' is not installed; pip install 'recsys[tuning]'."


def checkpoint_problem(path: str | None) -> str | None:
    """Return why ``ckpt_path`` cannot be gone on from, if it cannot."""
    if path in (None, LAST) or Path(path).is_file():
        return None
    parent = Path(path).parent
    beside = [file.name for file in parent.iterdir()] if parent.is_dir() else []
    near = did_you_mean(Path(path).name, beside)
    return f"ckpt_path={path}: no such file.{near} Give a checkpoint (runs/train/TIME/checkpoints/last.ckpt), or null."


def device_problems(trainer: dict[str, Any]) -> Iterator[str]:
    """Yield a message for each device that the trainer asks for and that is not there, and for what is none."""
    asked, devices = str(trainer.get("accelerator", "auto")), trainer.get("devices", 1)
    precision = str(trainer.get("precision") or PRECISIONS[0])
    if precision not in PRECISIONS:
        near = did_you_mean(precision, PRECISIONS)
        yield f"trainer.precision={precision}: is not one of {', '.join(PRECISIONS)}.{near}"
    if devices in ([], 0, ""):
        yield f"trainer.devices={devices}: asks for no device; give a number of them, a list such as [0,1], or auto."
    if asked not in ACCELERATORS:
        near = did_you_mean(asked, ACCELERATORS)
        yield f"trainer.accelerator={asked}: is not one of {', '.join(ACCELERATORS)}.{near}"
    if asked not in ("gpu", "cuda"):
        return
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not there:
        yield (
            f"trainer.accelerator={asked}: this machine has no CUDA device; take trainer=cpu, or plan and run on a "
            "machine that has one."
        )
        return
    wanted = max(devices, default=0) + 1 if isinstance(devices, list) else int(devices) if _is_number(devices) else 1
    if wanted > there:
        yield (
            f"trainer.devices={devices}: this machine has {there} CUDA device(s), from 0 to {there - 1}; ask for no "
            "others, or -1 for all."
        )


def trainer_problem(cfg: Config) -> str | None:
    """Return why Lightning would not make its Trainer or a callback from the configuration, if it would not."""
    from hydra.utils import instantiate

    import recsys.training.epochs  # noqa: F401 - which keeps Lightning from advertising

    try:
        callbacks = [instantiate(callback) for callback in cfg.callbacks.values()]
        instantiate(cfg.trainer, callbacks=callbacks, logger=False, max_epochs=1, enable_checkpointing=False)
    except Exception as error:  # whatever a foreign class raises on what it does not know
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        first = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        shown = ", ".join(f"{key}={value}" for key, value in cfg.trainer.items() if _is_named(key, value, str(error)))
        return (
            f"trainer{f' ({shown})' if shown else ''} and callbacks: Lightning refuses them ({first}). Correct the "
            "key, or take trainer=cpu and callbacks=default."
        )
    return None


def _is_named(key: str, value: Any, text: str) -> bool:
    """Tell whether a message of Lightning names an argument or its value."""
    return not key.startswith("_") and (
        f"'{key}'" in text or (isinstance(value, str) and len(value) > 1 and value in text)
    )


def _is_number(value: Any) -> bool:
    return str(value).lstrip("-").isdecimal()


def _is_there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
