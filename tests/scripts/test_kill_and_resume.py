"""The script that kills the main job: that it would see a difference, and two kills by it."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture
def script(repo: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    monkeypatch.syspath_prepend(repo / "scripts")
    return import_module("kill_and_resume")


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """Write what a run of one fit leaves."""

    def write(name: str, weight: float = 1.0, samples: tuple[int, ...] = (0, 1, 1, 0)) -> Path:
        place = tmp_path / name / "checkpoints" / "early"
        place.mkdir(parents=True)
        torch.save({"state_dict": {"weight": torch.tensor([weight])}, "global_step": 4}, place / "last.ckpt")
        lines = [f"{step // 2},{step + 1},0,{sample}\n" for step, sample in enumerate(samples)]
        (place / "ledger.0.csv").write_text("epoch,step,rank,sample\n" + "".join(lines))
        return tmp_path / name

    return write


def test_equal_runs_are_equal(script: Any, run: Callable[..., Path]) -> None:
    one, other = run("one"), run("other")
    assert script.differences(one, other) == []
    assert [script.is_whole(folder) for folder in script.ledgers(other)] == [True]


def test_any_difference_is_named(script: Any, run: Callable[..., Path]) -> None:
    one = run("one")
    assert script.differences(one, run("bit", 1.0 + 2**-23)) == ["checkpoints/early/last.ckpt: weight"]
    order = run("order", samples=(1, 0, 1, 0))
    assert script.differences(one, order) == ["checkpoints/early: the ledgers differ"]
    less = run("less")
    (less / "checkpoints" / "early" / "last.ckpt").unlink()
    assert script.differences(one, less) == ["checkpoints/early/last.ckpt: is in one run alone"]


@pytest.mark.parametrize("samples", [(0, 0, 1, 0), (0, 1, 1, 0, 1), (0, 1, 0)], ids=["twice", "more", "missing"])
def test_a_ledger_with_a_sample_twice_or_without_one_is_broken(
    script: Any, run: Callable[..., Path], samples: tuple[int, ...]
) -> None:
    (folder,) = script.ledgers(run("one", samples=samples))
    assert not script.is_whole(folder)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_kills(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With twenty, it is the proof that the README speaks of."""
    assert script.main(["--kills", "2", "--folder", str(tmp_path), "--set", "model.width=8"]) == 0
    told = capsys.readouterr().out
    assert "with 2 kills came out the same" in told
    assert "SIGTERM  143" in told
    assert "SIGKILL   -9" in told
