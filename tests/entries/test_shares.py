"""Shares of the sources of candidates."""

from dataclasses import replace
from typing import Any

import pytest

from recsys.data.log import DAY
from recsys.entries.shares import find_shares, with_shares


def test_shares_of_candidates_follow_from_the_horizon(first_stage: Any) -> None:
    """What happens after the horizon changes nothing; what is given stays; nothing is asked where all is given."""
    cfg, prepared, log, data, towers = first_stage.parts
    cut = data.cut
    sizes = {"history": 10, "nearest": 20, "popular": 20, "near_history": 0}
    candidates = replace(cfg.ranker.candidates, limit=20, sizes=sizes, shares={"history": 40.0})
    training = replace(cfg.ranker.training, horizon_days=3)
    cfg = replace(cfg, ranker=replace(cfg.ranker, training=training, candidates=candidates))
    found = find_shares(cfg, prepared, log, data, towers, first_stage.plan, cut)
    assert found.keys() == {"history", "nearest", "popular"}
    assert (found["history"], sum(found.values())) == (40.0, pytest.approx(100.0))
    earlier = log.between(None, cut + 3 * DAY)
    assert len(earlier) < len(log)
    assert find_shares(cfg, prepared, earlier, data, towers, first_stage.plan, cut) == found
    nobody = log.between(None, cut)
    assert find_shares(cfg, prepared, nobody, data, towers, first_stage.plan, cut)["nearest"] == 30.0
    cfg = with_shares(cfg, found)
    assert find_shares(cfg, prepared, nobody, data, towers, first_stage.plan, cut) == found
