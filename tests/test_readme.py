"""Every command and every snippet of README.md runs: a reader who copies them gets what the page says."""

import json
import random
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
import yaml

from recsys.cli import main
from tests.console import console

pytestmark = pytest.mark.timeout(900)  # the first test waits for all commands of the page

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

FAST = (
    "training.max_epochs=1", "training.batch_moments=64", "training.negatives=64", "model.width=16", "model.history=8",
    "trainer.limit_train_batches=2", "training.epoch_batches=1", "ranker.training.epoch_batches=1",
    "evaluation=quick", "ranker.training.snapshots=1", "bundle.forms=torchscript",
)  # fmt: skip
"""Appended to what trains or evaluates: the same path through the code in seconds."""
COMPOSED = (
    "recsys train trainer=gpu",
    "recsys train trainer=ddp",
    "recsys train hydra.run.dir=runs/may",
    "recsys train hydra.run.dir=runs/may ckpt_path=last",
    "recsys train model.width=128 training.max_epochs=20 evaluation=quick",
    "recsys train model=content_only",
    "recsys train ranker=none",
    "recsys train debug=does_it_run",
    "recsys train validation=expanding folds=3",
    "recsys train init_from=models:/recsys-completejourney/1",
    "recsys publish bundle=models:/recsys-myshop@champion to=redis://localhost:6379/0",
    "recsys rollback name=recsys-myshop",
    "recsys tune search=ranker study=rankers",
    "recsys tune trainer=gpu study=gpus storage=postgresql://me@db/tuning",
)
"""Need CUDA, a database server, or a while, on the default data: composed and checked with ``--cfg job``. The like of
them is trained elsewhere: ``debug=does_it_run`` in test_presets, ``trainer`` there too, studies in tuning, runs that
go on in entries/test_resume."""
SERVED = ("mlflow models serve", "curl localhost:5001/invocations")
"""How the commands begin that tests/tracking/test_rest.py gives and asks."""
TRAIN_BEST = "recsys train --config-dir tuned experiment=best"
"""Composed of what the study before it has left; that it is the main job like any other needs no minutes more."""
SWEEP = "recsys train -m seed=1,2,3"
"""Goes as far as the entry, three times."""
MAKES_AN_ENVIRONMENT = (
    "scripts/quickstart",
    "scripts/test",
    "scripts/test -m gpu",
    "source .venv/bin/activate",
    "docker build -f Dockerfile.gpu -t recsys .",
    'docker run --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/work" recsys train trainer=gpu',
)
"""Each is checked below, by a test of its own."""


EACH = "import sys; [(exec(snippet, {'__name__': '__main__'}), print(end='\\0')) for snippet in sys.argv[1:]]"
"""Runs each snippet that it is given by itself, and ends what it printed with a zero: one interpreter imports once."""


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language, in order."""
    return [text for found, text in BLOCK.findall(README.read_text()) if found == language]


def commands() -> list[str]:
    """Return the commands of the page in order, without their comments."""
    lines = (line for block in blocks("bash") for line in block.splitlines())
    return [command for line in lines if (command := line.partition("  #")[0].strip())]


@dataclass
class Visit:
    """What came out when a reader typed everything on the page, in order.

    Attributes:
        folder: Where it was typed.
        outputs: Command, or snippet, to what it printed.
    """

    folder: Path
    outputs: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def visit(
    shop_tables: Path,
    tmp_path_factory: pytest.TempPathFactory,
    python: Callable[..., subprocess.CompletedProcess[str]],
) -> Visit:
    """Type everything that trains, prepares, recommends or prints, in a folder with the tables the page names."""
    seen = Visit(tmp_path_factory.mktemp("reader"))
    for name in ("events", "items", "users"):
        (seen.folder / f"{name}.parquet").symlink_to(shop_tables / f"{name}.parquet")
    write_my_shop(seen.folder)
    for command in commands():
        if command not in (*COMPOSED, SWEEP, *MAKES_AN_ENVIRONMENT) and not command.startswith(SERVED):
            seen.outputs[command] = typed(command, seen.folder)
    snippets = blocks("python")
    done = python(seen.folder, "-c", EACH, *snippets)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    seen.outputs |= dict(zip(snippets, done.stdout.split("\0")[:-1], strict=True))
    return seen


def typed(command: str, folder: Path) -> str:
    """Run a ``recsys`` command with fast overrides and return what it printed."""
    program, *words = shlex.split(command)
    assert program == "recsys", f"the page has a command that no test knows: {command}"
    if "--cfg" not in words:
        words += FAST if words[0] in ("train", "tune", "evaluate", "promote", "touchpoints") else ()
        words += ["gate.max_calibration_error=null", "gate.requests=5"] if words[0] == "promote" else []
        words += ["trials=2"] if words[0] == "tune" else []
        words += ["--cfg", "job"] if command == TRAIN_BEST else []
        words += ["logger=none"] if words[:2] == ["train", "data=tables"] else []  # what follows uses the other one
    done = console(folder, *words)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def write_my_shop(folder: Path) -> None:
    """Write the page's own YAML file where its first line says, and the tables that it names."""
    (shop,) = blocks("yaml")
    path = folder / shop.splitlines()[0].removeprefix("# ")
    path.parent.mkdir(parents=True)
    path.write_text(shop)
    chance = random.Random(0)
    sales = {
        "customer": [f"c{chance.randrange(40)}" for _ in range(900)],
        "sku": [f"s{int(50 * chance.random() ** 2)}" for _ in range(900)],
        "bought_at": [f"{datetime(2024, 1, 1) + timedelta(minutes=11 * (i // 2))}" for i in range(900)],
        "receipt": [i // 2 for i in range(900)],
        "store": [["north", "south"][i // 2 % 2] for i in range(900)],
    }
    pl.DataFrame(sales).write_csv(folder / "sales.csv")
    products = {"sku": [f"s{i}" for i in range(50)], "brand": ["ab"[i % 2] for i in range(50)]}
    pl.DataFrame(products).write_parquet(folder / "products.parquet")
    (folder / "new.csv").write_text("item_id,brand\nnew-1,a\nnew-2,c\n")


@pytest.mark.slow
def test_every_command_runs(visit: Visit) -> None:
    known = {command for command in commands() if not command.startswith(SERVED)}
    assert {*visit.outputs, *COMPOSED, SWEEP, *MAKES_AN_ENVIRONMENT} == {*known, *blocks("python")}


def output_of(visit: Visit, start: str) -> str:
    (output,) = [text for command, text in visit.outputs.items() if command.startswith(start)]
    return output


def test_own_tables_end_with_a_table_and_a_bundle(visit: Visit) -> None:
    output = output_of(visit, "recsys train data=tables")
    assert "test window, whole catalogue" in output
    assert "two_tower" in output
    runs = sorted((visit.folder / "runs" / "train").iterdir())
    for name in ("evaluation", "bundle", "data_report.html", "checkpoints", "config.json", "environment.json"):
        assert (runs[0] / name).exists(), f"the page promises {name}"
    assert {"mlflow.db", "mlruns", "prepared"} <= {path.name for path in visit.folder.iterdir()}
    assert all((path / "features.yaml").is_file() for path in (visit.folder / "prepared").iterdir())


def test_own_configuration_file(visit: Visit) -> None:
    assert "myshop: 900 of 900 rows kept" in visit.outputs["recsys prepare --config-dir shops data=myshop"]
    assert "models:/recsys-myshop/1" in output_of(visit, "recsys train --config-dir shops")
    assert "test window, whole catalogue" in output_of(visit, "recsys evaluate")
    recs = pl.read_parquet(visit.folder / "recs.parquet")
    assert recs.columns == ["user_id", "item_id", "rank", "score"]
    assert recs.group_by("user_id").len()["len"].unique().to_list() == [20]


def test_the_plan_of_the_own_configuration_file_is_ready(visit: Visit) -> None:
    output = visit.outputs["recsys plan --config-dir shops data=myshop"]
    assert "900 rows; user_id (customer), item_id (sku), timestamp (bought_at)" in " ".join(
        output.replace("│", " ").split()
    )
    assert "ready: recsys train with the same settings" in output


def test_the_best_trial_is_what_train_takes(visit: Visit) -> None:
    assert "study myshop" in output_of(visit, "recsys tune --config-dir")
    found = json.loads((visit.folder / "tuned" / "study" / "summary.json").read_text())["best"]["params"]
    composed = yaml.safe_load(visit.outputs[TRAIN_BEST])
    assert composed["data"]["name"] == "myshop"
    assert composed["model"]["temperature"] == found["model.temperature"]
    assert composed["training"]["learning_rate"] == found["training.learning_rate"]


def test_the_first_version_becomes_champion_and_lists_come_in_parts(visit: Visit) -> None:
    assert "granted: models:/recsys-myshop@champion is models:/recsys-myshop/1" in output_of(visit, "recsys promote")
    assert {path.name for path in (visit.folder / "lists").iterdir()} >= {"part-00000.parquet", "_SUCCESS"}


def test_nothing_waits_where_the_store_was_there(visit: Visit) -> None:
    assert visit.outputs["recsys sync"] == "nothing waits below runs\n"
    assert list(visit.folder.rglob("journal.jsonl")) == []


def test_snippets_answer(visit: Visit) -> None:
    reader, mlflow, touchpoints, cold = blocks("python")
    assert "shape: (15, 4)" in visit.outputs[reader]  # 3 users, 5 items each
    assert "shape: (5, 4)" in visit.outputs[reader]
    assert len(re.findall(r"\bc[12]\b +s\d+ +[1-5]\b", visit.outputs[mlflow])) == 10
    assert re.findall(r"shape: \((\d+), 4\)", visit.outputs[touchpoints]) == ["20", "4", "5"]
    assert "models:/recsys-myshop/2" in output_of(visit, "recsys add-items")
    assert "shape: (5, 4)" in visit.outputs[cold]
    assert "shape: (10, 4)" in visit.outputs[cold]
    assert len(re.findall(r"\bnew-[12] +┆ (5|10) ", visit.outputs[cold])) == 2  # places that divide ten evenly


@pytest.mark.parametrize("command", COMPOSED)
def test_command_composes(command: str, tmp_path: Path) -> None:
    assert command in commands()
    words = shlex.split(command)[1:]
    done = console(tmp_path, *words, "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert ("tracking_uri:" if words[0] in ("publish", "rollback") else "objective:") in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("outside")
def test_sweep_starts_every_job(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SWEEP in commands()
    seeds: list[int] = []
    monkeypatch.setitem(sys.modules, "recsys.entries.train", SimpleNamespace(run=lambda cfg: seeds.append(cfg.seed)))
    assert main(shlex.split(SWEEP)[1:]) == 0
    assert seeds == [1, 2, 3]


def last_line(script: Path) -> str:
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    return script.read_text().splitlines()[-1]


def test_scripts_end_with_what_the_page_says(repo: Path) -> None:
    """That they make the environment, and only once, is tested in test_house."""
    assert last_line(repo / "scripts/quickstart") == 'exec "$bin/recsys" train ranker=none "$@"'
    tests = shlex.split(last_line(repo / "scripts/test"))
    assert (tests[0], tests[-1]) == ("$bin/pytest", "$@")
    for script in ("scripts/quickstart", "scripts/test"):
        assert 'source "$(dirname "${BASH_SOURCE[0]}")/env"' in (repo / script).read_text()
    assert "bin=$root/.venv/bin" in (repo / "scripts/env").read_text()  # what `source .venv/bin/activate` enters


def test_gpu_tests_exist(repo: Path) -> None:
    """``scripts/test -m gpu`` selects them."""
    marked = [path.name for path in (repo / "tests").rglob("test_*.py") if "@pytest.mark.gpu" in path.read_text()]
    assert marked


def test_docker_lines_are_those_of_the_dockerfile(repo: Path, tmp_path: Path) -> None:
    build, run = (command for command in commands() if command.startswith("docker"))
    dockerfile = (repo / "Dockerfile.gpu").read_text()
    assert build in dockerfile
    assert run in dockerfile
    assert 'ENTRYPOINT ["recsys"]' in dockerfile
    verb = shlex.split(run.partition(" recsys ")[2])
    assert console(tmp_path, *verb, "--cfg", "job").returncode == 0


def test_links_and_paths_exist(repo: Path) -> None:
    text = README.read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    rooms = re.findall(r"^\| `([^`]+)`(?:, `([^`]+)`)? \| ", text.partition("## The house")[2], re.MULTILINE)
    packages = {f"recsys/{path.parent.name}/" for path in repo.glob("recsys/*/__init__.py")}
    assert packages <= {room for pair in rooms for room in pair}
    for path in [*links, *(room for pair in rooms for room in pair if room)]:
        assert (repo / path).exists(), path


def test_table_has_its_place() -> None:
    text = README.read_text()
    assert [text.count(f"<!-- table:{edge} -->") for edge in ("begin", "end")] == [1, 1]
    table = text.partition("<!-- table:begin -->")[2].partition("<!-- table:end -->")[0].strip()
    assert all(name in table for name in ("wide_deep", "two_tower", "personal_frequency"))


def test_the_interpreter_is_that_of_the_package() -> None:
    """The commands above were run with this one; ``recsys`` on the page is the script beside it."""
    assert Path(sys.executable).with_name("recsys").exists()
