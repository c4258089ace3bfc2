"""From what is known of the tables to rows, memory and time of a run; arithmetic alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from recsys.config.schema import HOLDOUT, MODEL_FORMS, Config
from recsys.data.partitions import BASE_GIB, BYTES_A_ROW
from recsys.data.place import batch_size

BASE = 0.9 * 2**30
"""Bytes that the program itself takes."""
LOG_BYTES = 90
"""Of an event in the interaction log and what is derived of it."""
POSITIVE_SHARE = 0.06
"""Of the candidates that are kept whatever ``ranker.training.negatives`` says, about."""
EASE_ITEMS, EASE_BYTES = 10_000, 12
"""Most items of that baseline, and what each pair of them takes."""
RANKED_BYTES = 72
"""Of a candidate of the users who are asked about, kept for all of them: whose, which, and what each ranker says."""
SPREAD = (0.7, 1.6)
"""What a forecast of memory is multiplied by for its range."""
CUDA = 0.6 * 2**30
"""Bytes that CUDA itself takes of a device."""


def expected_distinct(counts: pl.Series, share: float, most: int | None = None) -> int:
    """Estimate how many different values a column has, from a sample of its rows.

    Chao's estimate (1984): values that the sample has once, against those that it has twice, tell of those that it
    does not have. Exact where the sample is the whole.

    Args:
        counts: Rows of each different value in the sample.
        share: Of all rows that are in the sample.
        most: That there can be.
    """
    found = len(counts)
    if share >= 1 or not found:
        return found
    once, twice = (int((counts == times).sum()) for times in (1, 2))
    unseen = once * once / (2 * twice) if twice else once * (once - 1) / 2
    ceiling = int(float(counts.sum()) / share) if most is None else most
    return max(found, min(int(found + unseen), ceiling))


@dataclass(frozen=True)
class Sizes:
    """What memory and time depend on.

    Attributes:
        rows: Of the events table.
        events: That are kept.
        train: Of them in the training window.
        users: U.
        items: N.
        is_prepared: Whether they have been prepared before.
        is_exact: Whether these numbers are known, not estimated from a sample.
        event_bytes: Of a prepared event in memory.
    """

    rows: int
    events: int
    train: int
    users: int
    items: int
    is_prepared: bool
    is_exact: bool
    event_bytes: float


@dataclass(frozen=True)
class Fit:
    """One kind of model and what a step of its training takes.

    Attributes:
        parameters: Of the model, by part.
        table_share: Of the parameters that are embeddings, whose optimizer keeps a number a row.
        held: Bytes that a step keeps for its gradients.
        seconds: Of the steps that were timed on this CPU.
        steps: Of an epoch on the training window.
        exported: Bytes of its scripted form.
        raw: Bytes of an example as it is collected; 0 where examples are made as they are needed.
        encoded: Bytes of an example as it is trained on.
    """

    parameters: dict[str, int]
    table_share: float
    held: int
    seconds: tuple[float, ...]
    steps: int
    exported: int
    raw: float = 0.0
    encoded: float = 0.0

    @property
    def size(self) -> int:
        """How many parameters there are."""
        return sum(self.parameters.values())

    @property
    def state_bytes(self) -> float:
        """Parameters, gradients and what their optimizers keep, float32."""
        return 4 * self.size * (2 + 2 * (1 - self.table_share))


def steps_of(moments: float, cfg: Config, world: int) -> int:
    """Return the steps of an epoch of the retriever, as its batches count them."""
    size = batch_size(int(moments), cfg.training.batch_moments, cfg.training.epoch_batches, world)
    return limited(max(int(moments) // (size * world), 1), cfg.trainer)


def limited(steps: int, trainer: dict[str, Any]) -> int:
    """Return the steps that are left of an epoch by ``trainer.overfit_batches`` and ``limit_train_batches``."""
    for limit in (trainer.get("overfit_batches") or None, trainer.get("limit_train_batches")):
        if limit is not None:
            return max(min(steps, limit) if isinstance(limit, int) else int(steps * limit), 1)
    return steps


def processes(trainer: dict[str, Any], devices_there: int) -> int:
    """Return how many processes train together."""
    devices, nodes = trainer.get("devices", 1), int(trainer.get("num_nodes", 1) or 1)
    if isinstance(devices, list):
        own = len(devices)
    else:
        listed = str(devices).count(",") + 1  # "0,1"
        asked = int(devices) if str(devices).lstrip("-").isdecimal() else -1 if devices == "auto" else listed
        own = asked if asked > 0 else max(devices_there, 1)
    return max(own, 1) * nodes


def extra_folds(cfg: Config) -> int:
    """Return how many folds are fitted beside the training window."""
    return 0 if cfg.validation == HOLDOUT else cfg.folds


def lesson_fits(cfg: Config) -> int:
    """Return how many retrievers are fitted for what rankers learn from: one before the snapshots, two in a fold."""
    return 1 + 2 * extra_folds(cfg) if cfg.ranker.enabled else 0


def retriever_fits(cfg: Config) -> int:
    """Return how many times the retriever is fitted: chosen, for lessons, on more data, variants."""
    choice = 1 + extra_folds(cfg)
    again = 1 + (cfg.bundle.refit_on == "all")
    return choice + lesson_fits(cfg) + again + (choice + 1) * len(cfg.evaluation.variants)


def ranker_fits(cfg: Config) -> int:
    """Return how many times a ranker is fitted: chosen, on more data, its parts."""
    both = cfg.ranker.use_wide and cfg.ranker.use_deep
    parts = sum(name in cfg.evaluation.rankers for name in ("wide_only", "deep_only")) if both else 0
    return 2 + extra_folds(cfg) + parts + (cfg.bundle.refit_on == "all")


def trial_fits(cfg: Config) -> tuple[int, int]:
    """Return how many retrievers and rankers a trial of a study fits, if it fits the retriever again."""
    folds = extra_folds(cfg)
    if not cfg.ranker.enabled:
        return 1 + folds, 0
    return 1 + folds + (2 * folds or 1), folds or 1


def fits_seconds(one: Fit, fits: float, most_epochs: int) -> tuple[float, float]:
    """Return the seconds that all fits take: with one epoch each at the fastest step, with all at the slowest."""
    return fits * one.steps * min(one.seconds), fits * one.steps * max(one.seconds) * most_epochs


def batch_bytes(cfg: Config, history: int, candidates: int) -> float:
    """Return what a step of the retriever keeps at least, before anything is computed: histories and scores.

    Args:
        cfg: Sizes of model and batch.
        history: Events that are really read, at most ``model.history``.
        candidates: Items that a batch compares with.
    """
    model, training = cfg.model, cfg.training
    blocks = math.ceil(training.batch_moments / training.moments_per_block)
    of_history = blocks * history * (model.code_width + model.width * 2)
    of_scores = training.batch_moments * candidates * 3
    return 4.0 * (of_history + of_scores)


def host_stages(cfg: Config, sizes: Sizes, retriever: Fit, ranker: Fit | None, *, evaluates: bool) -> dict[str, float]:
    """Return bytes at the peak of each stage of a job, the program and the data included.

    Args:
        cfg: Of the job.
        sizes: Of the data.
        retriever: Its first stage.
        ranker: Its second stage, or None.
        evaluates: Whether the baselines are fitted and measured.
    """
    data = BASE + sizes.events * (sizes.event_bytes + LOG_BYTES * (1 + sizes.train / max(sizes.events, 1)))
    stages = {}
    if not sizes.is_prepared:
        parts = cfg.data.partitions
        all_at_once = BASE_GIB * 2**30 + sizes.rows * BYTES_A_ROW
        stages["prepare"] = max(all_at_once / parts, BASE)
        if cfg.data.memory_gib is not None:
            stages["prepare"] = min(stages["prepare"], cfg.data.memory_gib * 2**30)
    vectors = 4.0 * (sizes.users + sizes.items) * (cfg.model.width + cfg.model.code_width + cfg.model.factor_width)
    stages["two-tower"] = data + retriever.state_bytes + 1.5 * retriever.held
    if ranker is not None:
        training = cfg.ranker.training
        pairs = min(training.max_users, sizes.users) * min(cfg.ranker.candidates.limit, sizes.items)
        thinned = pairs * (training.snapshots + 1) * min(training.negatives + POSITIVE_SHARE, 1.0)
        of_pairs = 2 * pairs * ranker.raw + thinned * (ranker.raw + ranker.encoded)  # of validation all, of others some
        stages["ranker"] = data + vectors + of_pairs + ranker.state_bytes + 1.5 * ranker.held
    if evaluates:
        ease = EASE_BYTES * min(sizes.items, EASE_ITEMS) ** 2 if "ease" in cfg.evaluation.baselines else 0
        asked = min(sizes.users, cfg.evaluation.max_users or sizes.users)
        ranked = asked * min(cfg.ranker.candidates.limit, sizes.items) * RANKED_BYTES if ranker is not None else 0.0
        stages["evaluation"] = data + vectors + 24.0 * cfg.evaluation.chunk_users * sizes.items + ease + ranked
    return stages


def device_bytes(sizes: Sizes, fits: Sequence[Fit]) -> float:
    """Return bytes that a GPU must have: the data of the training window and the larger of the models with its step."""
    return CUDA + sizes.train * LOG_BYTES + max(fit.state_bytes + 1.5 * fit.held for fit in fits)


def disk_bytes(cfg: Config, fits: Sequence[Fit], bundle: float) -> float:
    """Return bytes that a run folder ends with: checkpoints of every fit, and the bundle."""
    counts = (retriever_fits(cfg) + 1, ranker_fits(cfg) + 1)  # the chosen one keeps its best and its last
    checkpoints = sum(count * (fit.state_bytes - 4 * fit.size) for count, fit in zip(counts, fits, strict=False))
    return checkpoints + bundle + 20 * 2**20


def bundle_bytes(cfg: Config, sizes: Sizes, fits: Sequence[Fit]) -> float:
    """Return the bytes of a bundle: its models in every form, vectors, index and histories."""
    width = cfg.model.width + cfg.model.code_width + 1 + (cfg.model.factor_width if cfg.model.use_ids else 0)
    histories = sizes.events if cfg.ranker.enabled else min(sizes.events, sizes.users * cfg.model.history)
    forms = 1 + MODEL_FORMS.index(cfg.bundle.forms)
    return forms * sum(fit.exported for fit in fits) + 4.0 * width * (sizes.users + 2 * sizes.items) + 12.0 * histories
