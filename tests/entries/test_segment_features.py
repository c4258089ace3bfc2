"""Segments as attributes of users: as of every cut by itself, from the tables to the ids of the ranker."""

from dataclasses import replace
from typing import Any

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from recsys.config.schema import SegmentsConfig
from recsys.data.dataset import data_before, fit_data, microseconds
from recsys.data.log import DAY
from recsys.entries.lesson import ranker_ids, with_ids
from recsys.entries.ranker_fit import crosses
from recsys.entries.snapshots import group_codes, snapshot
from recsys.errors import ConfigError
from recsys.segments.features import with_segments
from recsys.segments.fit import fit_segments

SETTINGS = SegmentsConfig(features=["rfm", "kmeans", "intent"], ks=[2, 3, 4])
NAMES = ["segment_rfm", "segment_kmeans", "segment_intent"]


@pytest.fixture(scope="module")
def prepared(first_stage: Any) -> Any:
    return with_segments(first_stage.prepared, SETTINGS, 1)[0]


def test_off_by_default(first_stage: Any) -> None:
    found, segments = with_segments(first_stage.prepared, SegmentsConfig(), 1)
    assert found is first_stage.prepared
    assert segments is None


def test_users_have_their_segments_as_of_any_cut(first_stage: Any, prepared: Any) -> None:
    plain = first_stage.prepared
    start = microseconds(plain.windows.val_start)
    model = fit_segments(plain.events, plain.users, start, SETTINGS, relevant=plain.relevant, seed=1)
    for cut in (start - 20 * DAY, start, microseconds(plain.windows.end)):
        users = prepared.users_as_of(cut)
        assert users.columns == [*plain.users.columns, *NAMES]
        wanted = model.assign(plain.events, plain.users, cut)
        assert users["segment_rfm"].to_list() == [None if s == "no_events" else s for s in wanted["rfm"]]
        assert users["segment_kmeans"].to_list() == [None if s == "no_events" else s for s in wanted["kmeans"]]
    assert [f.name for f in prepared.spec] == [*(f.name for f in plain.spec), *NAMES]


def test_what_happens_at_or_after_a_cut_is_not_known(first_stage: Any, prepared: Any) -> None:
    """Also not by the model: the events of the test window are other people's and of other worth."""
    plain = first_stage.prepared
    late = pl.col("timestamp") >= plain.windows.test_start
    changed = plain.events.with_columns(
        user_id=pl.when(late).then(pl.col("user_id").reverse()).otherwise("user_id"),
        value=pl.when(late).then(1e6).otherwise("value"),
    )
    other, _ = with_segments(plain.with_events(changed), SETTINGS, 1)
    cut = microseconds(plain.windows.test_start)
    for when in (cut, cut - 30 * DAY):
        assert_frame_equal(prepared.users_as_of(when), other.users_as_of(when))
    assert not prepared.users_as_of(cut + 6 * DAY).equals(other.users_as_of(cut + 6 * DAY))


def test_every_snapshot_reads_the_segments_of_its_own_cut(first_stage: Any, prepared: Any) -> None:
    """Those of a later cut would tell what the labels say."""
    log, cfg = first_stage.log, first_stage.cfg
    data = fit_data(prepared, log, prepared.windows.test_start)
    cuts = [data.cut - 20 * DAY, data.cut - 5 * DAY]
    early = data_before(data, cuts[0], prepared.has_item_table)
    plain = (cfg, first_stage.prepared, log, first_stage.data, first_stage.towers, first_stage.plan)
    taken = [snapshot(*plain, cut, cut + 2 * DAY) for cut in cuts]
    pairs = with_ids(data, taken)
    wanted = []
    for one, cut in zip(taken, cuts, strict=True):
        ids = data.encoder.encode(prepared.users_as_of(cut), "user")
        wanted.append(ids["segment_intent"][one.users[one.query]])
        assert one.cut == cut
    assert torch.equal(pairs.features["segment_intent"], torch.cat(wanted))
    of_the_end = torch.cat([data.tables.user["segment_intent"][one.users[one.query]] for one in taken])
    assert not torch.equal(pairs.features["segment_intent"], of_the_end)
    assert torch.equal(pairs.features["user_id"], with_ids(first_stage.data, taken).features["user_id"])
    expected = data.encoder.encode(prepared.users_as_of(cuts[0]), "user")
    assert all(torch.equal(early.tables.user[name], expected[name]) for name in NAMES)


def test_crosses_and_candidate_groups_can_use_them(first_stage: Any, prepared: Any) -> None:
    data = fit_data(prepared, first_stage.log, prepared.windows.test_start)
    settings = replace(first_stage.cfg.ranker, crosses=[["segment_rfm", "kind"]])
    assert crosses(settings, data)[0].features == ("segment_rfm", "kind")
    assert set(NAMES) <= set(ranker_ids(data)[1])
    codes = group_codes("segment_kmeans", prepared, data, data.log, data.cut)
    assert codes is not None
    known = prepared.users_as_of(data.cut)["segment_kmeans"]
    assert len({*zip(codes.tolist(), known.to_list(), strict=True)}) == known.n_unique()


def test_names_that_are_taken_and_kinds_without_anything_to_go_by(first_stage: Any) -> None:
    plain = first_stage.prepared
    named = replace(plain, users=plain.users.with_columns(segment_rfm=pl.lit("x")))
    with pytest.raises(ConfigError, match="the data have one of that name"):
        with_segments(named, SETTINGS, 1)
    bare = replace(plain, users=plain.users.select("user_id"))
    with pytest.raises(ConfigError, match=r"'demographic' has nothing to go by.*segments\.demographics"):
        with_segments(bare, SegmentsConfig(features=["demographic"]), 1)
