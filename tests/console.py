"""The console without a process of its own: what ``python -m recsys`` does in a folder, without its imports."""

import contextlib
import io
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from recsys.cli import main


@contextlib.contextmanager
def console_in(folder: Path) -> Iterator[None]:
    """Work in a folder, and take back what Hydra and MLflow leave in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HYDRA_FULL_ERROR", "0")
        for key in [key for key in os.environ if key.startswith("MLFLOW_")]:
            patch.delenv(key)
        root = logging.getLogger()
        handlers, level = list(root.handlers), root.level
        try:
            yield
        finally:
            for handler in set(root.handlers) - set(handlers):
                root.removeHandler(handler)
                handler.close()
            root.handlers[:], root.level = handlers, level
            if "mlflow" in sys.modules:
                sys.modules["mlflow"].set_tracking_uri(None)
            for key in [key for key in os.environ if key.startswith("MLFLOW_")]:
                del os.environ[key]


def console(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Type ``recsys`` with arguments in a folder; warnings fail no command, as they do for no user."""
    out, err = io.StringIO(), io.StringIO()
    with (
        console_in(folder),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        warnings.simplefilter("ignore")
        code = main(arguments)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
