"""Two processes on data that do not come out even: every sample once, the same metrics, from 2 to 1 and back."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from recsys.data.moments import moments_of
from recsys.stop import Stop
from tests.training import fits

RECALL = 0.05
"""How far recall may be from that of one process, which has the same moments in batches of twice the size, and so other
in-batch negatives: two purchases of 45. Seeds are 0.2 apart."""
PARAMETER = 5e-3
"""How far a ranker's parameters may be, whose loss compares the pairs of a group: batches of 4 and 5 groups count alike
on two processes."""

pytestmark = pytest.mark.slow
OnTwo = Callable[..., int]


@pytest.fixture(scope="module")
def on_two(little: Any, tmp_path_factory: pytest.TempPathFactory, repo: Path) -> OnTwo:
    """Do a fit on two processes, in a folder, and return the exit code."""
    shop = tmp_path_factory.mktemp("ddp") / "shop.pt"
    torch.save(little, shop)

    def run(folder: Path, kind: str, stop_after: int = 0) -> int:
        fit = [sys.executable, "-m", "tests.training.fits", str(shop), str(folder), "2", kind, str(stop_after)]
        done = subprocess.run(fit, cwd=repo, capture_output=True, text=True, timeout=600)
        print(done.stderr)
        return done.returncode

    return run


@pytest.fixture(scope="module")
def stopped(on_two: OnTwo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit of two processes that was stopped in its second epoch: one of them got the signal, both went."""
    folder = tmp_path_factory.mktemp("stopped")
    assert on_two(folder, "towers", stop_after=8) == 143
    assert last(folder)["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]["cuts"] == [[12, 4]]
    return folder


def last(folder: Path) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(folder / "last.ckpt", weights_only=True)
    return saved


def recalls(folder: Path) -> list[float]:
    return [metrics["val/recall_at_8"] for metrics in last(folder)["callbacks"]["Validation"]["results"]]


def check_ledger(folder: Path, samples: int) -> pl.DataFrame:
    """Every sample once an epoch; returns the lines."""
    lines = pl.concat([pl.read_csv(path) for path in sorted(folder.glob("ledger.*.csv"))])
    times = lines.group_by("epoch", "sample").len()
    assert set(times["len"]) == {1}
    assert times.height == fits.EPOCHS * samples
    return lines


def test_two_processes_end_where_they_would_have_without_a_stop(
    on_two: OnTwo, stopped: Path, little: Any, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert on_two(whole, "towers") == 0
    shutil.copytree(stopped, parts)
    assert on_two(parts, "towers") == 0
    one, other = last(whole), last(parts)
    assert all(other["state_dict"][name].equal(value) for name, value in one["state_dict"].items())
    assert recalls(parts) == recalls(whole)
    lines = check_ledger(parts, len(moments_of(little.log)))
    assert lines.equals(check_ledger(whole, len(moments_of(little.log))))
    assert (
        lines.group_by("step").agg(pl.col("rank").n_unique())["rank"].to_list() == [2] * 3 * 6
    )  # all ranks, all steps

    alone = fits.fit_towers(little, tmp_path / "alone", 1)
    assert alone.history == pytest.approx(recalls(whole), abs=RECALL)


def test_from_two_processes_to_one_and_back(on_two: OnTwo, stopped: Path, little: Any, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    shutil.copytree(stopped, folder)
    stop = Stop()
    with stop.listening(), stop.armed(), pytest.raises(SystemExit):
        fits.fit_towers(little, folder, 1, stop_after=3, batch_moments=30)
    (place,) = last(folder)["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert (place["epoch"], place["cuts"]) == (1, [[12, 7]])  # the same batches, one at a time
    assert on_two(folder, "towers") == 0
    lines = check_ledger(folder, len(moments_of(little.log)))
    ranks = lines.group_by("epoch", "step", maintain_order=True).agg(pl.col("rank").n_unique()).sort("step")
    assert ranks["rank"].to_list() == [2] * 8 + [1] * 3 + [2] * (2 + 6)  # 5 batches are left: their moments become 4
    (schedule,) = last(folder)["lr_schedulers"]
    assert schedule["last_epoch"] == 3 * 6  # as if there had been two all the time

    alone = fits.fit_towers(little, tmp_path / "alone", 1)
    assert alone.history == pytest.approx(recalls(folder), abs=RECALL)


def test_a_ranker_on_two_processes(on_two: OnTwo, tmp_path: Path) -> None:
    assert on_two(tmp_path / "two", "pairs") == 0
    fits.fit_pairs(tmp_path / "one", 1)
    check_ledger(tmp_path / "two", samples=26)
    one, two = (last(tmp_path / folder)["state_dict"] for folder in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=PARAMETER, rtol=0, msg=name)
