import json

import numpy as np
import pytest

from recsys.config.schema import SegmentsConfig
from recsys.errors import DataError
from recsys.segments.fit import fit_segments
from recsys.segments.store import load_segments, save_segments, write_table
from tests.segments.conftest import micros


@pytest.fixture(scope="module")
def model(planted):
    events, _ = planted
    return fit_segments(events, events.select("user_id").unique(), micros(200), SegmentsConfig(ks=[2, 3], sample=90))


def test_everything_comes_back(model, tmp_path):
    again = load_segments(save_segments(model, tmp_path / "s"))
    for name in ("cut", "relevant", "cart_types", "space", "rfm", "demographic", "intent", "kinds"):
        assert getattr(again, name) == getattr(model, name), name
    for name, clustering in model.clusterings.items():
        other = again.clusterings[name]
        assert (other.trials, other.agreement, other.height) == (
            clustering.trials, clustering.agreement, clustering.height
        )  # fmt: skip
        np.testing.assert_array_equal(other.centroids, clustering.centroids)


def test_same_model_same_bytes_and_an_older_folder_gives_way(model, tmp_path):
    first, second = (save_segments(model, tmp_path / name) for name in ("a", "b"))
    (second / "stray").touch()
    save_segments(model, second)
    names = sorted(f.name for f in first.iterdir())
    assert names == sorted(f.name for f in second.iterdir())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a", "b"]


def test_incomplete_and_foreign_folders_are_refused(model, tmp_path):
    folder = save_segments(model, tmp_path / "s")
    meta = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(meta | {"format": 99}))
    with pytest.raises(DataError, match="format 99, this version reads 1"):
        load_segments(folder)
    del meta["rfm"]
    (folder / "model.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match="not a complete folder of segments"):
        load_segments(folder)
    with pytest.raises(DataError, match="nowhere: not a complete folder"):
        load_segments(tmp_path / "nowhere")


def test_a_place_that_cannot_be_written(model, planted, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="segments cannot be written"):
        save_segments(model, tmp_path / "file" / "s")
    with pytest.raises(DataError, match="segments cannot be written"):
        write_table(planted[1], tmp_path / "file" / "s.parquet")
