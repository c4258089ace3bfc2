"""Arrays in files."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

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
    """It lies in pages of the file that are shared with it: the system writes them there where it needs memory."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("what is mapped where is known on Linux alone")

    def mapping(values: Tensor) -> tuple[str, str]:
        """Return the rights and the file of the mapping that the values lie in."""
        for line in maps.read_text().splitlines():
            extent, rights, _, _, _, *file = line.split(maxsplit=5)
            begin, end = (int(address, 16) for address in extent.split("-"))
            if begin <= values.data_ptr() and values.data_ptr() + values.nbytes <= end:
                return rights, "".join(file)
        raise AssertionError("in no mapping")

    values = torch.arange(2**16)
    kept = Spill(tmp_path).keep(values)
    assert torch.equal(kept, values)
    rights, file = mapping(kept)
    assert rights == "rw-s"
    assert file.startswith(f"{tmp_path}/log-")
    assert mapping(values)[0] == "rw-p"


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"interaction log cannot be written.*data.cache_dir.*data.log=memory"):
        Spill(tmp_path / "file").empty(5, torch.int64)


def test_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"GiB of the interaction log cannot be written"):
        Spill(tmp_path).empty(2**50, torch.int64)
    assert list(tmp_path.iterdir()) == []
