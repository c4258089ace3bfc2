"""Kills the main job at random moments, lets it go on, and compares what comes out with a job that was left alone.

::

    python scripts/kill_and_resume.py --kills 20 --folder kills     exit code 1 if a run comes out otherwise

Each run has the same small shop. It gets SIGTERM or SIGKILL by turns at random moments of its fits, and each time goes
on with ``ckpt_path=last``, until it is through; then the next run begins, until there were so many kills. What has to
be the same to the last bit: the parameters in every checkpoint, and the ledgers, which have to hold every sample once
an epoch.
"""

import argparse
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import torch

SETTINGS = (
    *("data=tables", "debug=does_it_run", "tracking.enabled=false", "trainer.limit_train_batches=null"),
    *("training.max_epochs=2", "training.patience=2", "training.batch_moments=24", "training.ledger=true"),
    *("training.checkpoint_minutes=0.01", "ranker.training.max_epochs=2", "ranker.training.batch_groups=6"),
    *("evaluation.baselines=[popular]", "evaluation.rankers=[]", "evaluation.bootstrap=100"),
    "bundle.forms=torchscript",
)
"""A job of five fits with some hundred steps; a checkpoint every 0.6 seconds, so that SIGKILL comes between two."""


@dataclass(frozen=True)
class Kill:
    """One kill of a run.

    Attributes:
        moment: Seconds after the first checkpoint that this process wrote.
        signal: That it got.
        code: Its exit code; 0 if it was through before.
        steps: Of each fit that has a checkpoint, by its folder.
    """

    moment: float
    signal: signal.Signals
    code: int
    steps: dict[str, int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the runs, print a table, and return 1 if one of them came out otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("kills"))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], help="further overrides of recsys train")
    asked = parser.parse_args(arguments)
    chance = random.Random(asked.seed)
    make_shop(asked.folder)

    begun = time.time()
    whole = start(asked.folder, "whole", asked.set)
    first = await_checkpoint(whole, asked.folder / "whole", begun)
    code = whole.wait()
    assert code == 0, f"the run that is left alone ended with {code}: see {asked.folder / 'whole.log'}"
    span = max(path.stat().st_mtime for path in lasts(asked.folder / "whole")) - first
    print(f"left alone: {time.time() - begun:.0f} s, {span:.0f} s of them from the first checkpoint to the last")
    print(f"{'run':>3}{'moment':>9}  {'signal':<8}{'code':>4}  steps of the fits at that moment")
    bad = run = kills = 0
    while kills < asked.kills:
        run += 1
        through = False
        while kills < asked.kills and not through:
            how = (signal.SIGTERM, signal.SIGKILL)[kills % 2]
            kill = kill_once(asked.folder, f"run{run}", chance.uniform(0, span / 2), how, asked.set)
            where = ", ".join(f"{name} {steps}" for name, steps in kill.steps.items())
            through = kill.code == 0
            kills += not through
            said = "was through" if through else f"{how.name:<8}{kill.code:>4}"
            print(f"{run:>3}{kill.moment:>8.1f}s  {said:<12}  {where}", flush=True)
        if not through:
            code = start(asked.folder, f"run{run}", asked.set).wait()
            assert code == 0, f"run {run} did not go on, but ended with {code}: see {asked.folder / f'run{run}.log'}"
        differs = differences(asked.folder / "whole", asked.folder / f"run{run}")
        broken = [path for path in ledgers(asked.folder / f"run{run}") if not is_whole(path)]
        bad += bool(differs or broken)
        print(f"{run:>3}  parameters {'DIFFER' if differs else 'equal'}, ledger {'BROKEN' if broken else 'whole'}")
        for name in (*differs, *broken):
            print(f"     {name}", flush=True)
    print(f"{run - bad} of {run} runs with {kills} kills came out the same")
    return int(bad > 0)


def make_shop(folder: Path) -> None:
    """Write the tables of a shop with 60 users, 80 items and 1,500 events in a week."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(0)
    events = {
        "user_id": [f"u{chance.randrange(60)}" for _ in range(1500)],
        "item_id": [f"i{int(80 * chance.random() ** 2)}" for _ in range(1500)],
        "timestamp": [datetime(2024, 1, 1) + timedelta(minutes=7 * i) for i in range(1500)],
    }
    pl.DataFrame(events).write_parquet(folder / "events.parquet")
    items = {"item_id": [f"i{i}" for i in range(80)], "category": [f"c{i % 7}" for i in range(80)]}
    pl.DataFrame(items).write_parquet(folder / "items.parquet")


def start(folder: Path, name: str, further: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Begin the job in ``folder/name``, or go on with it; what it says goes to ``folder/name.log``."""
    tables = [f"data.{kind}={kind}.parquet" for kind in ("events", "items")]
    command = [sys.executable, "-m", "recsys", "train", *tables, *SETTINGS, *further]
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [*command, f"hydra.run.dir={name}", "ckpt_path=last"], cwd=folder, stdout=log, stderr=subprocess.STDOUT
        )


def kill_once(folder: Path, name: str, moment: float, how: signal.Signals, further: Sequence[str] = ()) -> Kill:
    """Begin a run or go on with it, and kill it some seconds after it has written a checkpoint."""
    begun = time.time()
    process = start(folder, name, further)
    await_checkpoint(process, folder / name, begun)
    time.sleep(moment)
    process.send_signal(how)
    code = process.wait()
    steps = {str(p.parent.relative_to(folder / name)): read(p)["global_step"] for p in lasts(folder / name)}
    return Kill(moment, how, code, {name.replace("checkpoints", "towers", 1): n for name, n in steps.items()})


def await_checkpoint(process: "subprocess.Popen[bytes]", run: Path, since: float) -> float:
    """Wait until a job has written a checkpoint since a time, or has ended, and return the time."""
    while process.poll() is None and not any(path.stat().st_mtime > since for path in lasts(run)):
        time.sleep(0.05)
    return time.time()


def lasts(run: Path) -> list[Path]:
    """Return the last checkpoints of all fits of a run, in the order of their writing."""
    return sorted(run.glob("checkpoints/**/last.ckpt"), key=lambda path: path.stat().st_mtime)


def checkpoints(run: Path) -> list[Path]:
    """Return all checkpoints of a run."""
    return sorted(run.glob("checkpoints/**/*.ckpt"))


def ledgers(run: Path) -> list[Path]:
    """Return the folders of a run that hold ledgers."""
    return sorted({path.parent for path in run.glob("checkpoints/**/ledger.*.csv")})


def read(path: Path) -> dict[str, Any]:
    """Return a checkpoint."""
    saved: dict[str, Any] = torch.load(path, weights_only=True)
    return saved


def differences(one: Path, other: Path) -> list[str]:
    """Name checkpoints that do not hold the same parameters in two runs, and ledgers that are not the same."""
    found = []
    names = {path.relative_to(run) for run in (one, other) for path in (*checkpoints(run), *ledgers(run))}
    for name in sorted(names):
        if not ((one / name).exists() and (other / name).exists()):
            found.append(f"{name}: is in one run alone")
        elif (one / name).is_dir():
            if not taken(one / name).equals(taken(other / name)):
                found.append(f"{name}: the ledgers differ")
        else:
            states = [read(run / name)["state_dict"] for run in (one, other)]
            found += [f"{name}: {key}" for key in states[0] if not states[0][key].equal(states[1][key])]
    return found


def taken(folder: Path) -> pl.DataFrame:
    """Return the ledgers of all processes in a folder as one."""
    return pl.concat([pl.read_csv(path) for path in sorted(folder.glob("ledger.*.csv"))])


def is_whole(folder: Path) -> bool:
    """Tell whether each epoch of a ledger has each sample once."""
    lines = taken(folder)
    times = lines.group_by("epoch", "sample").len()
    return bool((times["len"] == 1).all()) and times.height == lines["epoch"].n_unique() * lines["sample"].n_unique()


if __name__ == "__main__":
    sys.exit(main())
