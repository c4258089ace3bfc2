"""Checkpoints of a fit: written whole, of tensors and plain types, and refused by a fit of something else."""

import shutil
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor, nn

from recsys.config.schema import LAST
from recsys.errors import ConfigError
from recsys.files import beside

RESUME = "resume"
"""Key in a checkpoint: what it was made from, whether the fit was complete, the random states."""
NOTHING = "nothing"


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place, forces it to the disk and renames it.

    Lightning's own writes to the folder for temporary files, which may be another disk: then it is a copy that takes
    the place, and half of one if the process dies.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ARG002
        """Write one file, whole or not at all."""
        with beside(Path(path)) as temporary:
            torch.save(checkpoint, temporary)


def find(folder: Path, ckpt_path: str | None) -> Path | None:
    """Return the checkpoint that a fit with this folder goes on from; None to begin anew.

    Raises:
        ConfigError: A file is named that does not exist.
    """
    if ckpt_path is None:
        return None
    path = folder / "last.ckpt" if ckpt_path == LAST else Path(ckpt_path)
    if path.is_file():
        return path
    if ckpt_path == LAST:
        return None
    raise ConfigError(f"ckpt_path={ckpt_path}: there is no such file; name a checkpoint, or take ckpt_path=last.")


def read(path: Path, made_from: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint of a fit from the same settings and data; its tensors are read when they are looked at.

    Raises:
        ConfigError: It is no checkpoint, or one of other settings or data.
    """
    try:
        saved: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        before = saved[RESUME]["made_from"]
    except Exception as error:  # whatever pickle, zip or torch find wrong with a foreign file
        reason = f"{type(error).__name__}: {str(error)[:200].splitlines()[0]}"
        raise ConfigError(
            f"{path}: this is no checkpoint to go on from ({reason}). "
            "Name one that this version of recsys has written, or leave ckpt_path out to begin anew."
        ) from error
    keys = [key for key in {**before, **made_from} if before.get(key, NOTHING) != made_from.get(key, NOTHING)]
    if keys:
        found = "; ".join(f"{k} was {before.get(k, NOTHING)}, now it is {made_from.get(k, NOTHING)}" for k in keys)
        raise ConfigError(
            f"{path}: the checkpoint is of a fit from something else: {found}. Go on with the same, or begin anew: "
            "leave ckpt_path out, or choose another folder with hydra.run.dir=DIR."
        )
    return saved


def refuse_other_version(path: Path, saved: Mapping[str, Any], task: nn.Module) -> None:
    """Refuse a checkpoint whose tensors have other names or shapes than those of the fit.

    Raises:
        ConfigError: Names the first of them.
    """
    there, here = ({name: list(t.shape) for name, t in s.items()} for s in (saved["state_dict"], task.state_dict()))
    others = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    if others:
        was, now = (shapes.get(others[0], NOTHING) for shapes in (there, here))
        raise ConfigError(
            f"{path}: the checkpoint is of another version of recsys: tensor '{others[0]}' was {was}, now it is {now}"
            f" ({len(others)} differ). Go on with that version, or begin anew: leave ckpt_path out, or choose another"
            " folder with hydra.run.dir=DIR."
        )


def move(saved: dict[str, Any], folder: Path) -> None:
    """Let what a checkpoint says of the best one be of a folder: Lightning forgets the best score in any other."""
    for state in saved["callbacks"].values():
        if "best_model_path" in state:
            state["dirpath"] = str(folder.resolve())
            for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
                state[key] = state[key] and str(folder.resolve() / Path(state[key]).name)
            state["best_k_models"] = {
                str(folder.resolve() / Path(path).name): score for path, score in state["best_k_models"].items()
            }


def bring_best(path: Path, folder: Path) -> None:
    """Let the best checkpoint beside one that is gone on from be that of a folder; what lies there is of another fit.

    Raises:
        ConfigError: There is none beside it.
    """
    best, place = path.with_name("best.ckpt"), folder / "best.ckpt"
    if not best.is_file():
        raise ConfigError(
            f"{path}: the best epoch of its fit lay beside it, as {best.name}, and is not there. Put it back, or begin "
            "anew: leave ckpt_path out."
        )
    if best.resolve() != place.resolve():
        with beside(place) as temporary:
            shutil.copyfile(best, temporary)


def plain(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level of ``a.b`` to plain values, lists as text."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= plain(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, int | float | str | None) else str(value)
    return flat


def digest(tensors: Iterable[Tensor]) -> int:
    """Return a checksum of the whole numbers among tensors: those with a fraction may differ in their last bits."""
    checksum = 0
    for values in tensors:
        if not values.is_floating_point():
            checksum = zlib.crc32(values.contiguous().cpu().numpy().data, checksum)
    return checksum
