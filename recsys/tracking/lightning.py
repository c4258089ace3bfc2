"""Metrics of a Lightning fit, sent to the run that is already open."""

from collections.abc import Mapping
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.loggers.logger import Logger

from recsys.tracking.run import Run


class RunLogger(Logger):
    """Forwards what Lightning logs to a :class:`Run`.

    Lightning's own MLflow logger closes the run when the fit ends; here the job goes on after it
    (refit, evaluation, bundle), and an outage must not end the fit.

    Args:
        run: The open run.
        prefix: Put before every metric, such as ``"refit/"``, to keep a second fit apart.
    """

    def __init__(self, run: Run, prefix: str = "") -> None:
        super().__init__()
        self._run = run
        self._prefix = prefix

    @property
    def name(self) -> str:
        """Return the name of the experiment."""
        return self._run.experiment

    @property
    def version(self) -> str:
        """Return nothing: Lightning would show the last characters of a run's id in the progress bar."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send metrics of one step or epoch; Lightning's own ``epoch`` counter is left out."""
        named = {f"{self._prefix}{key}": value for key, value in metrics.items() if key != "epoch"}
        self._run.log_metrics(named, step or 0)

    def log_hyperparams(self, params: Any = None, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the job has logged its whole configuration."""
