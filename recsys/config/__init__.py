"""Typed, closed configuration; the YAML files lie in ``conf/``."""

from pathlib import Path


def conf_dir() -> Path:
    """Return the folder of YAML files: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"
