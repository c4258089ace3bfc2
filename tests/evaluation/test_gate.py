"""The gate: what lets a candidate pass, and what does not, by numbers set by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from recsys.config.promote import GateConfig
from recsys.evaluation.evaluate import ModelResult
from recsys.evaluation.gate import Contender, Decision, decide

USERS = 400


def contender(shift: float = 0.0, new: float = 0.0, coverage: float = 0.5, **changes: Any) -> Contender:
    """A model whose NDCG is the same for all but ``shift`` for each user, and ``new`` among new items."""
    base = torch.rand(USERS, generator=torch.Generator().manual_seed(0))
    per_user = {"all": {"ndcg_at_20": base + shift}, "new": {"ndcg_at_20": base + new}}
    result = ModelResult("model", {"all": {"coverage_at_20": coverage}}, per_user)
    return replace(Contender(result, 10.0, 0.01, "", 1000), **changes)


def verdict(candidate: Contender, champion: Contender | None = None, **gate: Any) -> Decision:
    return decide(candidate, champion, GateConfig(**gate), k=20, resamples=200, seed=0)


def failed(decision: Decision) -> list[str]:
    return [check.name for check in decision.checks if not check.passed]


def test_better_and_equal_ones_pass() -> None:
    for shift in (0.01, 0.0, -0.001):
        decision = verdict(contender(shift=max(shift, 0.0)), contender())
        assert decision.granted
        assert decision.why == "all 7 checks hold"


@pytest.mark.parametrize(
    ("candidate", "what"),
    [
        (contender(shift=-0.003), "NDCG@20 all"),
        (contender(new=-0.006), "NDCG@20 new"),
        (contender(coverage=0.39), "coverage@20"),
        (contender(milliseconds=15.1), "latency beside"),
        (contender(size=1501), "size"),
        (contender(calibration_error=0.03), "calibration error"),
        (contender(parity="request 3 is answered differently"), "parity"),
    ],
)
def test_each_thing_that_is_asked_for_can_refuse(candidate: Contender, what: str) -> None:
    decision = verdict(candidate, contender())
    assert failed(decision) == [what]
    assert decision.why.startswith(what)
    assert not decision.to_plain()["granted"]


def test_what_is_not_asked_for_refuses_nobody() -> None:
    bad = contender(coverage=0.0, milliseconds=1e6, size=10**9, calibration_error=0.9)
    off = dict.fromkeys(["min_coverage", "max_latency", "max_calibration_error", "max_size"])
    assert verdict(bad, contender(), **off).granted


def test_a_doubtful_loss_in_a_slice_is_let_pass_and_one_overall_only_within_the_margin() -> None:
    noise = torch.randn(USERS, generator=torch.Generator().manual_seed(1))
    noise -= noise.mean()
    wild = contender()
    wild.result.per_user["new"]["ndcg_at_20"] = wild.result.per_user["new"]["ndcg_at_20"] + noise - 0.01
    assert verdict(wild, contender()).granted  # -0.01, and an interval of about 0.1 to both sides
    wild.result.per_user["all"]["ndcg_at_20"] = wild.result.per_user["all"]["ndcg_at_20"] + noise
    assert failed(verdict(wild, contender())) == ["NDCG@20 all"]  # nothing lost on average, but it might be
    assert verdict(wild, contender(), max_loss=0.2).granted


def test_a_few_users_are_sure_of_nothing() -> None:
    champion, candidate = contender(), contender()
    candidate.result.per_user["new"] = {"ndcg_at_20": torch.tensor([0.1])}
    champion.result.per_user["new"] = {"ndcg_at_20": torch.tensor([0.9])}
    decision = verdict(candidate, champion)
    assert decision.granted
    assert "-0.8000 (under 10 users)" in [check.found for check in decision.checks]
    for one in (candidate, champion):  # that it loses no more than the margin has to be shown
        one.result.per_user["all"] = {"ndcg_at_20": torch.tensor([0.5] * 9)}
    assert failed(verdict(candidate, champion)) == ["NDCG@20 all"]


def test_without_a_champion_its_own_guard_rails_decide() -> None:
    assert verdict(contender(milliseconds=1e6)).granted
    assert failed(verdict(contender(milliseconds=31.0), max_milliseconds=30.0)) == ["latency"]
    assert failed(verdict(contender(parity="off"))) == ["parity"]
    assert verdict(contender(calibration_error=None)).granted
