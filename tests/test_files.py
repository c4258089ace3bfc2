"""Files that are whole or not there."""

import hashlib
import os
from pathlib import Path

import pytest

from recsys.errors import DataError
from recsys.files import NODE, hashes, remove_leftovers_below, replacing, sha256, write_all, write_whole


def test_a_file_takes_its_place_with_its_folder_made(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "a" / "b.txt", b"one")
    assert path.read_bytes() == b"one"
    assert write_whole(path, b"two").read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def dies_half_way(path: Path, error: BaseException) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(b"half of the n")
        raise error


@pytest.mark.parametrize("error", [OSError(28, os.strerror(28)), KeyboardInterrupt()])
def test_after_an_error_the_old_file_stands_alone(error: BaseException, tmp_path: Path) -> None:
    path = write_whole(tmp_path / "b.txt", b"old")
    with pytest.raises((DataError, KeyboardInterrupt)):
        dies_half_way(path, error)
    assert [p.name for p in tmp_path.iterdir()] == ["b.txt"]
    assert path.read_bytes() == b"old"


def test_what_cannot_be_written_is_named_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/b\.txt: the page cannot be written: .*choose another"):
        write_whole(tmp_path / "file" / "b.txt", b"", "page")
    with pytest.raises(DataError, match=r"c: the file cannot be written: .*No space"):
        dies_half_way(tmp_path / "c", OSError(28, os.strerror(28)))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_leftovers_of_dead_processes_go_and_those_of_live_ones_stay(tmp_path: Path) -> None:
    dead, live, old = (f".x.json.{end}.tmp" for end in (f"{NODE}.{2**22 + 1}.0", f"{NODE}.{os.getppid()}.0", "7.0"))
    (tmp_path / "run").mkdir()
    for name in (dead, live, old, "x.json"):  # the first is of a number above the largest of Linux
        (tmp_path / "run" / name).write_text("half")
    os.utime(tmp_path / "run" / old, (0, 0))
    remove_leftovers_below(tmp_path)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [live, "x.json"]


def test_hashes_are_those_of_the_bytes(tmp_path: Path) -> None:
    one, two = write_all(tmp_path, {"one": b"1", "two": b"2"})
    expected = {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in (one, two)}
    assert hashes(tmp_path) == expected
    assert hashes(one) == {str(one): sha256(one)}
    assert hashes(tmp_path / "none") == {}
