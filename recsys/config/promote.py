"""Configuration of ``recsys promote`` and ``recsys rollback``: who serves, and what a successor has to show."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from recsys.config.schema import Config


@dataclass
class GateConfig:
    """What a candidate has to show beside the champion on the same window; null: not asked."""

    max_loss: float = 0.002  # of NDCG: the paired interval may begin so far below 0, and must not lie all below it
    max_slice_loss: float = 0.005  # of NDCG in a slice, where the interval leaves no doubt that it is a loss
    min_coverage: float | None = 0.8  # distinct items in all top k, as a share of the champion's
    max_latency: float | None = 1.5  # 95th percentile of single requests, as a multiple of the champion's
    max_milliseconds: float | None = None  # the same, whoever the champion is
    max_calibration_error: float | None = 0.02  # expected, of the probabilities of candidates
    max_size: float | None = 1.5  # bytes, as a multiple of the champion's
    requests: int = 100  # single requests that are timed of each


@dataclass
class PromoteConfig(Config):
    """``promote``: a candidate becomes the champion if it passes."""

    candidate: str = MISSING  # models:/NAME/VERSION
    alias: str = "champion"  # that serving asks for: models:/NAME@champion
    gate: GateConfig = field(default_factory=GateConfig)


@dataclass
class RollbackConfig:
    """``rollback``: the champion before this one serves again."""

    name: str = MISSING  # of the registered model
    alias: str = "champion"  # that serving asks for
    tracking_uri: str | None = None  # of the server with the registered models; null: MLflow's default store
