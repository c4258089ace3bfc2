"""When the ranker's snapshots are taken: cuts inside the training window, and how long labels are collected after.

::

    train_start ── a past for features ──┬ cut ── horizon ──┬ val_start
"""

from typing import TYPE_CHECKING

from recsys.config.schema import Config
from recsys.errors import DataError

if TYPE_CHECKING:
    from recsys.data.prepared import Prepared

MIN_PAST = 0.2
"""Share of the training window that lies before a cut at least: features need a past."""
LONGEST = 0.4
"""Share of the training window that a horizon takes at most by default: three cuts, half of it apart, have a past."""


def horizon(cfg: Config, prepared: "Prepared") -> int:
    """Return how long labels are collected after a cut, in microseconds.

    By default as long as validation lasts, or :data:`LONGEST`, where most happened early and validation is the longer
    window.
    """
    from recsys.data.dataset import microseconds
    from recsys.data.log import DAY

    days, windows = cfg.ranker.training.horizon_days, prepared.windows
    start, middle, end = map(microseconds, (windows.train_start, windows.val_start, windows.test_start))
    return int(days * DAY) if days else min(end - middle, int(LONGEST * (middle - start)))


def cuts(cfg: Config, prepared: "Prepared") -> list[int]:
    """Return the cuts of the snapshots, the first first; the labels of the last end where validation begins.

    Raises:
        DataError: None of them lies in the training window.
    """
    from recsys.data.dataset import microseconds
    from recsys.data.log import DAY

    settings, length = cfg.ranker.training, horizon(cfg, prepared)
    stride = int(settings.stride_days * DAY) if settings.stride_days else length // 2
    last = microseconds(prepared.windows.val_start) - length
    start = microseconds(prepared.windows.train_start)
    found = [last - number * stride for number in range(settings.snapshots)]
    inside = [cut for cut in reversed(found) if cut - start >= MIN_PAST * (last + length - start)]
    if not inside:
        raise DataError(
            f"ranker.training: a horizon of {length / DAY:.1f} days leaves less than {MIN_PAST:.0%} of the training "
            f"window, {(last + length - start) / DAY:.1f} days, before the last cut; set ranker.training.horizon_days "
            "lower, or ranker=none."
        )
    return inside


def require_labels(cfg: Config, prepared: "Prepared") -> None:
    """Check that something relevant happens between the first snapshot and the validation window.

    Raises:
        DataError: Nothing does, or there is no snapshot.
    """
    from recsys.data.dataset import require_relevant
    from recsys.data.log import as_time

    learned_from = (as_time(cuts(cfg, prepared)[0]), prepared.windows.val_start)
    remedy = "Set ranker.training.snapshots or stride_days higher, other types in data.relevant, or ranker=none."
    require_relevant(prepared, {"what the ranker learns from": learned_from}, remedy)
