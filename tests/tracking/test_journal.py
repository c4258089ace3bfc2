"""What is written stays, whole and in order, whatever ends the process; a full disk costs the tracking alone."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from recsys.tracking.journal import JOURNAL, Journal

Opened = Callable[[Journal], Journal]


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Notes journals that are to be closed at the end of a test."""
    with ExitStack() as ends:

        def note(journal: Journal) -> Journal:
            ends.callback(journal.close)
            return journal

        yield note


def kinds(journal: Journal) -> list[str]:
    return [entry["kind"] for entry, _ in journal.waiting()]


def test_entries_wait_in_order_until_they_are_sent(opened: Opened, tmp_path: Path) -> None:
    journal = opened(Journal.begin(tmp_path))
    for kind in ("open", "params", "status"):
        journal.append(kind, "main", values={"größe": float("inf")})
    entries = list(journal.waiting())
    assert [entry["values"] for entry, _ in entries] == [{"größe": float("inf")}] * 3
    journal.runs["main"] = "abc"
    journal.advance(entries[1][1])
    again = opened(Journal(journal.folder))  # another process
    assert kinds(again) == ["status"]
    assert again.runs == {"main": "abc"}


def test_a_torn_last_line_is_not_there(opened: Opened, tmp_path: Path) -> None:
    journal = opened(Journal.begin(tmp_path))
    journal.append("open", "main", uri="sqlite:///m.db")
    with (journal.folder / JOURNAL).open("ab") as file:
        file.write(b'{"kind": "metrics", "run": "ma')
    assert kinds(journal) == ["open"]
    assert (journal.count(), journal.uri()) == (1, "sqlite:///m.db")


def test_a_full_disk_is_told_once_and_spoils_nothing_else(
    opened: Opened, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Full:
        """Takes a few bytes of each line."""

        def write(self, line: bytes) -> int:
            return disk.write(line[:9])

    journal = opened(Journal.begin(tmp_path))
    journal.append("open", "main")
    disk = journal._file
    journal._file = Full()  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING):
        journal.append("metrics", "main")
        journal.append("metrics", "main")
    journal._file = disk
    journal.append("status", "main")
    assert kinds(journal) == ["open", "status"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{journal.folder}: cannot be written (no space left); the job goes on, its tracking is lost."
    ]


def test_a_file_is_kept_as_it_was(opened: Opened, tmp_path: Path) -> None:
    journal, original = opened(Journal.begin(tmp_path / "run")), tmp_path / "plots"
    original.mkdir()
    (original / "a.txt").write_text("before")
    kept = journal.folder / journal.copy(original)
    (original / "a.txt").write_text("after")
    assert (kept.name, (kept / "a.txt").read_text()) == ("plots", "before")


def test_one_process_at_a_time(opened: Opened, tmp_path: Path) -> None:
    journal = opened(Journal.begin(tmp_path))
    journal.append("open", "main")
    assert not opened(Journal(journal.folder)).take()
    journal.discard()
    assert journal.folder.is_dir()  # something waits
    journal.close()
    other = opened(Journal(journal.folder))
    assert other.take()
    other.advance(list(other.waiting())[-1][1])
    other.discard()
    assert not journal.folder.exists()
