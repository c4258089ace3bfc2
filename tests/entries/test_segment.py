"""``recsys segment``: what it writes, and that others can use it."""

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from recsys.config.compose import compose
from recsys.config.schema import SEGMENTS
from recsys.data.dataset import microseconds
from recsys.data.prepare import prepare
from recsys.entries.segment import run, segment_groups
from recsys.errors import ConfigError
from recsys.segments.store import load_segments


@pytest.fixture
def overrides(shop_tables, tmp_path):
    tables = [f"data.{key}={shop_tables}/{key}.parquet" for key in ("events", "items", "users")]
    return ["data=tables", *tables, f"data.cache_dir={tmp_path / 'prepared'}", f"run_dir={tmp_path / 'run'}"]


def test_files_of_a_run(overrides, tmp_path, capsys):
    cfg = compose("segment", overrides)
    run(cfg)
    prepared = prepare(cfg.data)
    table = pl.read_parquet(tmp_path / "run" / "segments.parquet")
    assert table["user_id"].equals(prepared.users["user_id"])
    assert set(SEGMENTS) < set(table.columns)
    assert (tmp_path / "run" / "segments_report.html").read_text().startswith("<!doctype html>")
    stored = load_segments(tmp_path / "run" / "segments")
    assert stored.cut == microseconds(prepared.windows.val_start)
    end = microseconds(prepared.windows.end)
    assert_frame_equal(stored.assign(prepared.events, prepared.users, end), table)
    assert "Purchase intent" in capsys.readouterr().out


def test_as_of_the_end_of_another_window(overrides, tmp_path):
    cfg = compose("segment", [*overrides, "segments.as_of=train", "segments.kinds=[rfm,intent]"])
    model = run(cfg)
    prepared = prepare(cfg.data)
    table = pl.read_parquet(tmp_path / "run" / "segments.parquet")
    assert table.columns == ["user_id", "rfm_recency", "rfm_frequency", "rfm_monetary", "rfm", "intent"]
    assert_frame_equal(model.assign(prepared.events, prepared.users, model.cut), table)


def test_groups_for_the_evaluation(overrides):
    cfg = compose("segment", [*overrides, "segments.slices=[rfm,demographic]", "segments.as_of=val"])
    prepared = prepare(cfg.data)
    cut = microseconds(prepared.windows.test_start)
    groups = segment_groups(cfg, prepared, cut)
    run(cfg)
    table = pl.read_parquet(Path(cfg.run_dir, "segments.parquet"))
    assert {name.split("_")[0] for name in groups} == {"rfm", "demographic"}
    for kind in ("rfm", "demographic"):
        for segment in table[kind].unique():
            assert groups[f"{kind}_{segment}"].tolist() == (table[kind] == segment).to_list()
    assert segment_groups(compose("segment", overrides), prepared, cut) == {}


def test_names_of_groups_can_be_names_of_metrics(overrides, tmp_path):
    users = pl.DataFrame({"user_id": [f"u{i}" for i in range(60)], "age": ["65+ (very old)", "19-24"] * 30})
    users.write_parquet(tmp_path / "users.parquet")
    cfg = compose("segment", [*overrides, f"data.users={tmp_path}/users.parquet", "segments.slices=[demographic]"])
    prepared = prepare(cfg.data)
    assert sorted(segment_groups(cfg, prepared, microseconds(prepared.windows.end))) == [
        "demographic_19-24",
        "demographic_65_very_old_",
    ]


def test_groups_need_something_to_go_by(overrides, tmp_path):
    pl.DataFrame({"user_id": ["u0", "u1"], "name": ["a", "b"]}).head(1).write_parquet(tmp_path / "users.parquet")
    cfg = compose("segment", [*overrides, f"data.users={tmp_path}/users.parquet", "segments.slices=[demographic]"])
    prepared = prepare(cfg.data)
    with pytest.raises(ConfigError, match=r"segments\.slices: 'demographic' has nothing to go by"):
        segment_groups(cfg, prepared, microseconds(prepared.windows.end))


def test_unknown_attribute_is_refused(overrides):
    with pytest.raises(ConfigError, match=r"Did you mean 'segment'\?"):
        run(compose("segment", [*overrides, "segments.demographics=[segmnt]"]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("segments.kinds=[rmf]", "Did you mean 'rfm'?"),
        ("segments.kinds=[]", "segments.kinds=[]: must be one or more kinds"),
        ("segments.ks=[1,2]", "segments.ks"),
        ("segments.ks=[]", "segments.ks"),
        ("segments.as_of=end", "segments.as_of: 'end' is not one of train, val, test"),
        ("segments.recent_days=0", "segments.recent_days=0.0: must be above 0"),
    ],
)
def test_illegal_settings(overrides, override, message):
    with pytest.raises(ConfigError) as caught:
        compose("segment", [*overrides, override])
    assert message in str(caught.value)
