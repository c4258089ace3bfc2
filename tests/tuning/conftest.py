"""Studies in memory and in files, and a PostgreSQL server of our own where the machine has the programs."""

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from recsys.tuning.study import begin, quiet


@pytest.fixture
def study() -> Iterator[optuna.Study]:
    """A study in memory, to be maximised, with x = 0.5 queued as its first trial."""
    with quiet():
        made = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
        begin(made, [{"x": 0.5}])
        yield made


@pytest.fixture
def space() -> dict[str, Any]:
    return {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}


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
        running.terminate()
    shutil.rmtree(folder, ignore_errors=True)
