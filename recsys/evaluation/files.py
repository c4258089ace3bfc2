"""Files of an evaluation, each whole or not there."""

from collections.abc import Mapping
from pathlib import Path


def write_whole(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write files by name into the folder, which is made where it is missing; return their paths.

    Each is written beside its place first, so that the path never holds half of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in contents.items():
        temporary = folder / f".{name}.tmp"
        temporary.write_bytes(content)
        paths.append(temporary.replace(folder / name))
    return paths
