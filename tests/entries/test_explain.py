"""``recsys explain`` on the bundle of the main job."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from recsys.bundle.reader import Bundle
from recsys.cli import main
from recsys.config.schema import ExplainConfig
from recsys.data.ranking_state import CandidatePlan
from recsys.entries import recommend
from recsys.entries.explain import item_row, run
from recsys.errors import ConfigError

pytestmark = pytest.mark.usefixtures("outside")


@pytest.fixture(scope="module")
def bundle(trained: Any) -> Bundle:
    return Bundle.load(trained.bundle)


def test_it_prints_what_moved_the_logit(trained: Any, bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    best = bundle.recommend(["u0"], k=1)
    assert main(["explain", f"bundle={trained.bundle}", "user=u0", f"item={best['item_id'][0]}", "top=6"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"user u0, item {best['item_id'][0]}: logit " in shown
    assert f", calibrated probability {best['score'][0]:.4f}; rank 1 of 80 candidates, named by" in shown
    assert "what moved it" in shown
    assert "part feature value logit" in shown
    assert "bias" in shown


def test_the_parts_sum_up_to_the_logit(trained: Any, bundle: Bundle) -> None:
    assert bundle.ranking is not None
    requests = bundle.requests(["u7"])
    pairs = bundle.ranking.candidates(requests)
    for place in (0, 40):
        item = bundle.item_ids[int(pairs.item[place])]
        found = run(ExplainConfig(str(trained.bundle), "u7", item))
        exact = [entry.amount for entry in found.contributions if entry.part in ("bias", "wide")]
        logit = bundle.ranking.score(requests, pairs)[place, 0].item()
        assert sum(exact) + found.trees + found.deep == pytest.approx(logit, abs=1e-4)
        assert found.logit == pytest.approx(logit, abs=1e-4)


def test_a_stranger(trained: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run(ExplainConfig(str(trained.bundle), "nobody", "i0"))
    shown = " ".join(capsys.readouterr().out.split())
    assert "user nobody (unknown to the bundle: answered as a stranger), item i0: logit" in shown


def test_an_item_that_is_no_candidate(
    trained: Any, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bundle.ranking is not None
    state = bundle.ranking.state
    few = CandidatePlan(4, dict.fromkeys(state.candidate_plan.sizes, 1))
    monkeypatch.setattr(bundle.ranking, "state", replace(state, candidate_plan=few))
    monkeypatch.setattr(recommend, "load", lambda *_: bundle)
    named = bundle.rank(["u0"])["item_id"].to_list()
    item = next(item for item in bundle.item_ids if item not in named)
    found = run(ExplainConfig("b", "u0", item))
    shown = " ".join(capsys.readouterr().out.split())
    assert f"not among the {len(named)} candidates: no source names it high enough" in shown
    assert f"logit {found.logit:.3f}" in shown


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["user=u0", "item=i999"], "item=i999: not in the catalogue of 80 items."),
        (["user=u0", "item=j17"], "Did you mean 'i17'?"),
        (["user=u0"], "item has no value"),
        (["item=i0"], "user has no value"),
        (["user=u0", "item=i0", "top=0"], "top=0: must be 1 or more"),
        (["user='u0,u1'", "item=i0"], "user=u0,u1: 2 users; give the id of one."),
    ],
)
def test_one_message_and_exit_code_2(
    trained: Any, asked: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", f"bundle={trained.bundle}", *asked]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err


def test_ids_that_are_numbers() -> None:
    shop: Any = SimpleNamespace(item_ids=pl.Series([10, 20, 300]))
    assert [item_row(asked, shop) for asked in (20, "300")] == [1, 2]
    with pytest.raises(ConfigError, match="not in the catalogue of 3 items"):
        item_row(3, shop)
