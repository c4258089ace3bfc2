import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from sklearn.metrics import adjusted_rand_score

from recsys.config.schema import SEGMENTS, SegmentsConfig
from recsys.errors import DataError
from recsys.segments.fit import fit_segments
from recsys.segments.store import load_segments, save_segments
from tests.segments.conftest import START, micros

SETTINGS = SegmentsConfig()


@pytest.fixture(scope="module")
def users(planted):
    events, _ = planted
    ids = events["user_id"].unique().sort()
    return pl.DataFrame({"user_id": ids, "town": [("Bonn", "Ulm", None)[n % 3] for n in range(len(ids))]})


@pytest.fixture(scope="module")
def model(planted, users):
    return fit_segments(planted[0], users, micros(200), SETTINGS)


@pytest.mark.parametrize("method", ["kmeans", "ward", "complete"])
def test_planted_segments_are_recovered(planted, users, model, method):
    events, truth = planted
    found = model.assign(events, users, micros(200)).join(truth, on="user_id")
    assert adjusted_rand_score(found["habit"], found[method]) >= 0.9


def test_columns_and_order(planted, users, model):
    shuffled = users.sample(fraction=1, shuffle=True, seed=1)
    found = model.assign(planted[0], shuffled, micros(200))
    scores = ["rfm_recency", "rfm_frequency", "rfm_monetary"]
    assert model.kinds == SEGMENTS
    assert found.columns == ["user_id", *scores, *SEGMENTS]
    assert found["user_id"].equals(shuffled["user_id"])
    assert found.select(*SEGMENTS).null_count().row(0) == (0,) * len(SEGMENTS)


def test_shuffled_rows_change_nothing(planted, users, model):
    events = planted[0].sample(fraction=1, shuffle=True, seed=3)
    again = fit_segments(events, users.sample(fraction=1, shuffle=True, seed=4), micros(200), SETTINGS)
    assert_frame_equal(again.assign(events, users, micros(200)), model.assign(planted[0], users, micros(200)))
    assert (again.rfm, again.demographic, again.intent, again.space) == (
        model.rfm, model.demographic, model.intent, model.space
    )  # fmt: skip
    for name, clustering in model.clusterings.items():
        np.testing.assert_array_equal(again.clusterings[name].centroids, clustering.centroids)


@settings(max_examples=10)
@given(seed=st.integers(0, 99), cut=st.sampled_from([120, 160, 200]), at=st.sampled_from([0, 1, 40]))
def test_events_at_or_after_the_cut_change_nothing(planted, users, seed, cut, at):
    """Neither what is fitted nor what is assigned as of the cut; the shop goes on with strange events."""
    events, _ = planted
    chance = np.random.default_rng(seed)
    known = events.filter(pl.col("timestamp").dt.epoch("us") < micros(cut))
    future = events.sample(500, seed=seed, with_replacement=True).with_columns(
        timestamp=pl.lit(START) + pl.duration(days=pl.lit(cut + at)),
        user_id=pl.Series(chance.choice([*users["user_id"], "stranger"], 500)),
        value=pl.Series(chance.normal(0, 1e6, 500)),
    )
    quick = SegmentsConfig(ks=[2, 3], seeds=2)
    alone = fit_segments(known, users, micros(cut), quick)
    later = fit_segments(pl.concat([events, future]), users, micros(cut), quick)
    assert_frame_equal(
        later.assign(pl.concat([events, future]), users, micros(cut)), alone.assign(known, users, micros(cut))
    )


def test_new_users_are_assigned_from_their_first_events(planted, users, model):
    """They were not there at fitting time: a habit's own kin, a single event, and nothing at all."""
    events, truth = planted
    often = truth.filter(pl.col("habit") == "often")["user_id"][0]
    kin = events.filter(pl.col("user_id") == often).with_columns(
        user_id=pl.lit("kin"), timestamp=pl.col("timestamp") + pl.duration(days=100)
    )
    one = kin[:1].with_columns(
        user_id=pl.lit("one"), timestamp=(pl.lit(START) + pl.duration(days=299)).dt.cast_time_unit("us")
    )
    strangers = pl.DataFrame({"user_id": ["kin", "one", "nobody"], "town": ["Ulm", "Rom", None]})
    found = model.assign(pl.concat([events, kin, one]), strangers, micros(300))
    own = model.assign(events, users, micros(200)).filter(pl.col("user_id") == often)
    assert found.row(0)[1:-2] == own.row(0)[1:-2]  # as of a hundred days later
    single = found.row(1, named=True)
    assert (single["rfm_recency"], single["rfm_frequency"], single["intent"]) == (5, 1, "just_bought")
    assert single["kmeans"].isdigit()
    assert single["demographic"] == "other"
    nothing = found.row(2, named=True)
    assert {nothing[kind] for kind in ("rfm", "kmeans", "ward", "complete", "intent")} == {"no_events"}
    assert (nothing["rfm_recency"], nothing["demographic"]) == (None, "unknown")


def test_users_who_only_looked(events_of):
    rows = [(n, "a", day, 1.0, "buy") for n in range(12) for day in range(0, 10, 1 + n % 3)]
    events = events_of([*rows, (99, "a", 9, 0.0, "view")])
    users = events.select("user_id").unique()
    model = fit_segments(events, users, micros(10), SegmentsConfig(ks=[2]), relevant=("buy",))
    found = model.assign(events, users, micros(10)).filter(pl.col("user_id") == 99).row(0, named=True)
    assert (found["rfm"], found["kmeans"], found["intent"]) == ("no_purchases", "no_purchases", "browsing")
    assert "demographic" not in model.kinds
    with pytest.raises(DataError, match="no event of the types sale before 2024-01-11"):
        fit_segments(events, users, micros(10), SETTINGS, relevant=("sale",))


def test_many_users_are_clustered_by_a_sample(planted, users):
    events, truth = planted
    small = fit_segments(events, users, micros(200), SegmentsConfig(sample=60))
    assert small.clusterings["ward"].linkage.shape == (59, 4)
    found = small.assign(events, users, micros(200)).join(truth, on="user_id")
    for method in ("kmeans", "ward"):
        assert adjusted_rand_score(found["habit"], found[method]) >= 0.9


def test_only_what_is_asked_for(planted, users):
    model = fit_segments(planted[0], users, micros(200), SegmentsConfig(kinds=["rfm", "intent"]))
    assert model.kinds == ("rfm", "intent")
    assert model.space is None


def test_users_who_are_all_alike(events_of, tmp_path):
    events = events_of([(n, "a", 1, 2.0) for n in range(6)])
    users = events.select("user_id")
    model = fit_segments(events, users, micros(5), SETTINGS)
    found = load_segments(save_segments(model, tmp_path / "s")).assign(events, users, micros(5))
    assert set(found["kmeans"]) == set(found["ward"]) == {"1"}
    assert set(found["rfm_monetary"]) == {3}


def test_a_fresh_process_assigns_the_same(planted, users, model, tmp_path, repo):
    """Without scikit-learn and SciPy, from the stored folder."""
    events, _ = planted
    folder = save_segments(model, tmp_path / "segments")
    assert {f.name for f in folder.iterdir()} == {"model.json", "centroids.parquet", "merges.parquet"}
    events.write_parquet(tmp_path / "events.parquet")
    users.write_parquet(tmp_path / "users.parquet")
    code = (
        "import sys; sys.modules['sklearn'] = sys.modules['scipy'] = None\n"
        "import polars as pl; from recsys.segments.store import load_segments\n"
        f"events, users = (pl.read_parquet('{tmp_path}/' + n) for n in ('events.parquet', 'users.parquet'))\n"
        f"found = load_segments('{folder}').assign(events, users, {micros(230)})\n"
        f"found.write_parquet('{tmp_path}/found.parquet')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_frame_equal(pl.read_parquet(tmp_path / "found.parquet"), model.assign(events, users, micros(230)))
