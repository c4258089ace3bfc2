"""Markers and fixtures for all tests."""

import fcntl
import json
import os
import pwd
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from hypothesis import settings

from recsys.data.log import InteractionLog
from tests.console import console_in

settings.register_profile(
    "shared", deadline=None
)  # on a busy machine time says nothing; pytest-timeout ends what hangs
settings.load_profile("shared")


@pytest.fixture(autouse=True)
def own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what a test adds to ``sys.path``: a loaded MLflow model brings a copy of the reader along."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture(scope="session")
def repo() -> Path:
    """The top of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def log_of() -> Callable[..., InteractionLog]:
    """Make a log of rows ``(user, item, time[, basket[, relevant]])`` in any order.

    ``basket`` is any number of the user's own; None, or none given, makes a basket of each (user, time).
    """

    def make(rows: Sequence[tuple[Any, ...]], n_users: int, n_items: int) -> InteractionLog:
        full = [(*row, *(None, True)[len(row) - 3 :]) for row in rows]
        full.sort(key=lambda r: (r[0], r[2], r[1], r[3] is None, r[3] or 0, r[4]))
        keys = [(r[0], "time", r[2]) if r[3] is None else (r[0], "basket", r[3]) for r in full]
        number = {key: i for i, key in enumerate(sorted(set(keys)))}

        def column(values: list[Any], dtype: torch.dtype = torch.int64) -> torch.Tensor:
            return torch.tensor(values, dtype=dtype)

        return InteractionLog(
            user=column([r[0] for r in full]),
            item=column([r[1] for r in full]),
            time=column([r[2] for r in full]),
            basket=column([number[k] for k in keys]),
            relevant=column([bool(r[4]) for r in full], torch.bool),
            n_users=n_users,
            n_items=n_items,
        )

    return make


@dataclass(frozen=True)
class Trained:
    """A main job that has run: ``recsys train data=tables ... debug=does_it_run`` in a folder of its own.

    Attributes:
        folder: Where the command ran; MLflow's store and the prepared data lie in it.
        data: Overrides that name the tables.
        bundle: The bundle's folder.
        output: What the console showed.
        seconds: CPU time it took, which a busy machine does not stretch as it does the time on the wall.
    """

    folder: Path
    data: tuple[str, ...]
    bundle: Path
    output: str
    seconds: float


@pytest.fixture(scope="session")
def shop_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``events``, ``items`` and ``users.parquet`` of a small shop: 1,500 events in a week."""
    folder = tmp_path_factory.mktemp("shop")
    chance = random.Random(0)
    events = {
        "user_id": [f"u{chance.randrange(60)}" for _ in range(1500)],
        "item_id": [f"i{int(80 * chance.random() ** 2)}" for _ in range(1500)],  # the first items sell best
        "timestamp": [datetime(2024, 1, 1) + timedelta(minutes=7 * i) for i in range(1500)],
    }
    items = {"category": [f"c{i % 7}" for i in range(80)], "price": [1.5 * i for i in range(80)]}
    pl.DataFrame(events).write_parquet(folder / "events.parquet")
    pl.DataFrame({"item_id": [f"i{i}" for i in range(80)]} | items).write_parquet(folder / "items.parquet")
    users = {"user_id": [f"u{i}" for i in range(60)], "segment": ["ab"[i % 2] for i in range(60)]}
    pl.DataFrame(users).write_parquet(folder / "users.parquet")
    return folder


@pytest.fixture(scope="session")
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python with arguments in a folder, in an environment that MLflow has left nothing in."""

    def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        return subprocess.run([sys.executable, *arguments], cwd=folder, env=clean, capture_output=True, text=True)

    return run


@pytest.fixture(scope="session")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """Put an empty store of MLflow at a path and return its URI: a copy, for making its tables takes seconds."""
    import mlflow

    from recsys.tracking.server import connect

    empty = tmp_path_factory.mktemp("store") / "mlflow.db"
    connect(f"sqlite:///{empty}")
    mlflow.set_tracking_uri(None)

    def put(path: Path) -> str:
        shutil.copyfile(empty, path)
        return f"sqlite:///{path}"

    return put


@pytest.fixture(scope="session")
def trained(
    shop_tables: Path,
    tmp_path_factory: pytest.TempPathFactory,
    python: Callable[..., subprocess.CompletedProcess[str]],
    new_store: Callable[[Path], str],
) -> Trained:
    """The main job on the small shop, run once for all tests of all processes; each process has a copy of its own."""

    def make(folder: Path) -> None:
        new_store(folder / "mlflow.db")  # where the job looks for one
        data = ("data=tables", *(f"data.{key}={shop_tables}/{key}.parquet" for key in ("events", "items", "users")))
        before = _seconds_of_children()
        done = python(folder, "-m", "recsys", "train", *data, "debug=does_it_run", "hydra.run.dir=run")
        assert done.returncode == 0, done.stdout + done.stderr
        known = {"data": data, "output": done.stdout, "seconds": _seconds_of_children() - before}
        (folder / "known.json").write_text(json.dumps(known))

    folder = _copy_of("trained", make, tmp_path_factory)
    known = json.loads((folder / "known.json").read_text())
    return Trained(folder, tuple(known["data"]), folder / "run" / "bundle", known["output"], known["seconds"])


@pytest.fixture(scope="session")
def trained_script(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of that job with its models as TorchScript alone, which is changed in a fraction of the time."""
    from recsys.bundle.format import read_manifest, seal
    from recsys.export.changes import copied

    folder = tmp_path_factory.mktemp("script") / "bundle"
    with copied(trained.bundle, folder, read_manifest(trained.bundle)) as (beside, content):
        for program in beside.glob("*.pt2"):
            program.unlink()
        seal(beside, **content)
    return folder


@pytest.fixture(scope="session")
def trained_onnx(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of that job with its models as ONNX beside, which ``debug=does_it_run`` leaves out to be quick."""
    from recsys.bundle.format import read_manifest, seal
    from recsys.export.onnx_form import export_onnx, missing_libraries

    if missing_libraries():
        pytest.skip(f"not installed: {missing_libraries()}")

    def make(folder: Path) -> None:
        shutil.copytree(trained.bundle, folder, dirs_exist_ok=True)
        for program in folder.glob("*.pt2"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the compiler, about its own internals
                assert export_onnx(torch.export.load(program), program.with_suffix(".onnx"))
        seal(folder, **read_manifest(folder).content)

    return _copy_of("bundle", make, tmp_path_factory)


def _copy_of(name: str, make: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, for this process alone, of a folder that whichever process needs it first makes for all."""
    own = tmp_path_factory.getbasetemp()
    common = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    original, done = common / f"{name}-of-all", common / f"{name}.done"
    with (common / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(original, ignore_errors=True)  # of a process that failed at it
            original.mkdir()
            make(original)
            done.touch()
    return Path(shutil.copytree(original, tmp_path_factory.mktemp(name), dirs_exist_ok=True))


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def program(name: str) -> str | None:
    """Where a program of PostgreSQL lies; Debian keeps them out of the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """A server in a temporary folder; called with a name, it makes a database and returns its URL."""
    psycopg = pytest.importorskip("psycopg", reason="the driver of PostgreSQL, psycopg, is not installed")
    initdb, server = program("initdb"), program("postgres")
    if initdb is None or server is None:
        pytest.skip("no PostgreSQL server on this machine: neither in the PATH nor in /usr/lib/postgresql")
    owner: dict[str, Any] = {}
    folder = tmp_path_factory.mktemp("postgres")
    if os.getuid() == 0:  # it refuses to run as root
        users = [entry.pw_name for entry in pwd.getpwall()]
        owner = {"user": "postgres" if "postgres" in users else "nobody"}
        folder = Path(subprocess.check_output(["mktemp", "-d"], text=True, **owner).strip())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    make = [initdb, "-D", str(folder / "data"), "-A", "trust", "-U", "tuner", "--no-sync"]
    subprocess.run(make, check=True, capture_output=True, cwd=folder, **owner)
    run = [server, "-D", str(folder / "data"), "-p", str(port), "-k", str(folder), "-h", "127.0.0.1", "-F"]
    with subprocess.Popen(run, stderr=subprocess.DEVNULL, cwd=folder, **owner) as running:
        url = f"postgresql://tuner@127.0.0.1:{port}/postgres"
        for _ in range(100):
            try:
                psycopg.connect(url).close()
                break
            except psycopg.OperationalError:
                assert running.poll() is None, "the server ended"
                subprocess.run(["sleep", "0.1"])

        def database(name: str) -> str:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}")
            return url.replace("/postgres", f"/{name}")

        yield database
        running.send_signal(signal.SIGINT)  # SIGTERM would wait for connections that a pool holds
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """Call the console in an empty folder, and take back what it leaves in this process."""
    with console_in(tmp_path):
        yield tmp_path


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device in turn; CUDA only where there is one."""
    return torch.device(request.param)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU on machines without one; begin with the files that take long.

    Files are handed out in this order, so no process is left alone with a long one at the end.
    """
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)
