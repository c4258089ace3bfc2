"""Whether a candidate may take the champion's place: paired differences on one window, and guard rails.

A candidate need not be surely better, since a model of newer data is worth something by itself; it must not be worse by
more than a margin (non-inferiority, Piaggio et al. 2012), nor surely worse in any slice.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from recsys.config.promote import GateConfig
from recsys.evaluation.evaluate import ModelResult
from recsys.evaluation.margins import signed
from recsys.evaluation.significance import paired_difference


@dataclass(frozen=True)
class Contender:
    """What was measured of one model.

    Attributes:
        result: On the window; the same users for both contenders.
        milliseconds: 95th percentile of single requests.
        calibration_error: Expected, in [0, 1]; None without probabilities.
        parity: Why it does not answer as it was proven to; empty if it does.
        size: Bytes.
    """

    result: ModelResult
    milliseconds: float
    calibration_error: float | None
    parity: str
    size: int


@dataclass(frozen=True)
class Check:
    """One thing that was asked of the candidate.

    Attributes:
        name: Of it.
        found: What was measured.
        legal: What was asked for.
        passed: Whether it holds.
    """

    name: str
    found: str
    legal: str
    passed: bool


@dataclass(frozen=True)
class Decision:
    """What was decided, and why.

    Attributes:
        checks: All of them.
    """

    checks: tuple[Check, ...]

    @property
    def granted(self) -> bool:
        """Whether all checks hold."""
        return all(check.passed for check in self.checks)

    @property
    def why(self) -> str:
        """What speaks against the candidate; else that nothing does."""
        against = [f"{check.name}: {check.found}, asked was {check.legal}" for check in self.checks if not check.passed]
        return "; ".join(against) or f"all {len(self.checks)} checks hold"

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return {"granted": self.granted, "why": self.why, "checks": [asdict(check) for check in self.checks]}


def decide(
    candidate: Contender, champion: Contender | None, gate: GateConfig, k: int, resamples: int, seed: int
) -> Decision:
    """Decide about a candidate; without a champion by its own guard rails alone.

    Args:
        candidate: Who wants to serve.
        champion: Who serves.
        gate: What is asked.
        k: Cut-off of NDCG and coverage.
        resamples: Bootstrap samples of every interval.
        seed: Of the bootstrap.
    """
    checks = list(_own(candidate, gate))
    if champion is not None:
        checks += [*_quality(candidate, champion, gate, k, resamples, seed), *_beside(candidate, champion, gate, k)]
    return Decision(tuple(checks))


def _own(candidate: Contender, gate: GateConfig) -> Iterator[Check]:
    """Check what needs no champion."""
    yield Check("parity", candidate.parity or "answers as proven", "answers as proven", not candidate.parity)
    if gate.max_calibration_error is not None and candidate.calibration_error is not None:
        error = candidate.calibration_error
        legal = f"at most {gate.max_calibration_error:g}"
        yield Check("calibration error", f"{error:.4f}", legal, error <= gate.max_calibration_error)
    if gate.max_milliseconds is not None:
        spent, legal = candidate.milliseconds, f"at most {gate.max_milliseconds:g} ms"
        yield Check("latency", f"{spent:.1f} ms", legal, spent <= gate.max_milliseconds)


def _quality(
    candidate: Contender, champion: Contender, gate: GateConfig, k: int, resamples: int, seed: int
) -> Iterator[Check]:
    """Compare NDCG user by user: over all, and in every slice that both have."""
    key = f"ndcg_at_{k}"
    for part, values in candidate.result.per_user.items():
        other = champion.result.per_user.get(part)
        if other is None or key not in values or not len(values[key]):
            continue
        margin = paired_difference(values[key], other[key], resamples, seed=seed)
        if part == "all":
            legal = f"its interval from {-gate.max_loss:+.4f} on, and not all below 0"
            holds = margin.low >= -gate.max_loss and not margin.below_zero
        else:
            legal = f"no sure loss of more than {gate.max_slice_loss:g}"
            holds = not (margin.below_zero and margin.mean < -gate.max_slice_loss)
        yield Check(f"NDCG@{k} {part.replace('_', ' ')}", signed(margin, interval=True), legal, holds)


def _beside(candidate: Contender, champion: Contender, gate: GateConfig, k: int) -> Iterator[Check]:
    """Check the guard rails that are set by the champion."""
    key = f"coverage_at_{k}"
    if gate.min_coverage is not None:
        own, least = candidate.result.metrics["all"][key], gate.min_coverage * champion.result.metrics["all"][key]
        yield Check(f"coverage@{k}", f"{own:.4f}", f"at least {least:.4f}", own >= least)
    if gate.max_latency is not None:
        most = gate.max_latency * champion.milliseconds
        holds = candidate.milliseconds <= most
        yield Check("latency beside", f"{candidate.milliseconds:.1f} ms", f"at most {most:.1f} ms", holds)
    if gate.max_size is not None:
        limit = gate.max_size * champion.size
        found, legal = f"{candidate.size / 2**20:.1f} MiB", f"at most {limit / 2**20:.1f} MiB"
        yield Check("size", found, legal, candidate.size <= limit)
