"""Arrays in files."""

from pathlib import Path

import pytest
import torch

from recsys.data.spill import Spill
from recsys.errors import DataError


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
def test_what_is_kept_is_the_same_and_leaves_no_file(tmp_path: Path, dtype: torch.dtype, monkeypatch) -> None:
    monkeypatch.setattr("recsys.data.spill.PIECE", 3)
    spill = Spill(tmp_path / "new")
    values = torch.arange(10).to(dtype)
    kept = spill.keep(values)
    assert torch.equal(kept, values)
    assert kept.dtype == dtype
    assert kept.data_ptr() != values.data_ptr()
    assert list(spill.folder.iterdir()) == []
    assert torch.equal(spill.keep(values[:0]), values[:0])
    other = spill.empty(4, dtype)
    assert not other.any()
    other[2] = 1
    assert other.tolist() == [0, 0, 1, 0]
    assert torch.equal(kept, values)


def test_what_is_kept_takes_no_memory_of_its_own(tmp_path: Path) -> None:
    def own_memory() -> int:
        status = Path("/proc/self/status")
        if not status.exists():
            pytest.skip("what a process holds is known on Linux alone")
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1])

    spill, n = Spill(tmp_path), 2**23
    before = own_memory()
    kept = spill.empty(n, torch.int64)
    kept.copy_(torch.arange(n))
    assert own_memory() - before < 2**14  # KiB; the array has 2 ** 16
    assert int(kept[-1]) == n - 1


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"interaction log cannot be written.*data.cache_dir.*data.log=memory"):
        Spill(tmp_path / "file").empty(5, torch.int64)


def test_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"GiB of the interaction log cannot be written"):
        Spill(tmp_path).empty(2**50, torch.int64)
    assert list(tmp_path.iterdir()) == []
