import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from recsys.errors import DataError
from recsys.privacy.access_log import START, log_access, verify_log


def write(path, verb="train", users=3):
    return log_access(
        path, verb, columns={"events": ["user_id"]}, users=users, purpose="personalization", run="runs/train/1"
    )


def test_every_line_says_who_when_what_and_follows_the_one_before(tmp_path) -> None:
    path = tmp_path / "logs" / "access.jsonl"
    first, second = write(path, "prepare", 3), write(path, "train", 2)
    chain = verify_log(path)
    assert chain.head == second
    assert [e["previous"] for e in chain.entries] == [START, first]
    assert [(e["what"], e["users"], e["purpose"], e["run"]) for e in chain.entries] == [
        ("prepare", 3, "personalization", "runs/train/1"),
        ("train", 2, "personalization", "runs/train/1"),
    ]
    assert chain.entries[0]["columns"] == {"events": ["user_id"]}
    assert "@" in chain.entries[0]["who"]
    assert chain.entries[0]["when"].endswith("+00:00")


def change(lines):
    entry = json.loads(lines[1])
    return [lines[0], json.dumps(entry | {"users": 0}, sort_keys=True).encode() + b"\n", *lines[2:]]


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (change, 3),
        (lambda lines: [lines[0], *lines[2:]], 2),
        (lambda lines: [lines[1], lines[0], *lines[2:]], 1),
        (lambda lines: lines[1:], 1),
        (lambda lines: [lines[0], b"{}\n", *lines[2:]], 2),
        (lambda lines: [lines[0], lines[1][:-9] + b"\n", *lines[2:]], 2),
    ],
)
def test_edits_show(tmp_path, edit, line) -> None:
    path = tmp_path / "log"
    for n in range(4):
        write(path, users=n)
    path.write_bytes(b"".join(edit(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(DataError, match=f"line {line} does not follow"):
        verify_log(path)


def test_a_log_that_was_cut_short_lacks_the_line_that_somebody_kept(tmp_path) -> None:
    path = tmp_path / "log"
    heads = [write(path, users=n) for n in range(3)]
    assert len(verify_log(path, heads[1]).entries) == len(verify_log(path, heads[2]).entries) == 3
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert len(verify_log(path, heads[1]).entries) == 2
    with pytest.raises(DataError, match=f"end was cut off; the line with the hash {heads[2]}"):
        verify_log(path, heads[2])


def test_a_line_that_a_crash_cut_off_is_taken_back(tmp_path) -> None:
    path = tmp_path / "log"
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    write(path)
    assert len(verify_log(path).entries) == 2


def test_many_writers_make_one_chain(tmp_path) -> None:
    path = tmp_path / "log"
    with ThreadPoolExecutor(8) as pool:
        heads = set(pool.map(lambda n: write(path, users=n), range(40)))
    chain = verify_log(path)
    assert len(heads) == 40
    assert sorted(e["users"] for e in chain.entries) == list(range(40))


def test_a_log_that_cannot_be_written_stops(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="nothing is read without it"):
        write(tmp_path / "file" / "log")
    with pytest.raises(DataError, match="cannot be read"):
        verify_log(tmp_path / "nothing")
