"""The house itself: what is shipped, pinned and built, and which room may enter which."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOMS = (
    ("columns", "errors", "memory", "stop"),
    ("files",),
    ("features",),
    ("config",),
    ("privacy",),
    ("data",),
    ("segments",),
    ("models",),
    ("training",),
    ("evaluation",),
    ("audit",),
    ("bundle",),
    ("export",),
    ("serving",),
    ("tracking",),
    ("tuning",),
    ("planning",),
    ("entries",),
    ("cli",),
    ("__main__",),
)
"""From the bottom to the top; a room imports from rooms below it only."""
TRAINING_CORE = ("features.py", "data/log.py", "data/batches.py", "models/*.py", "training/*.py")
"""Runs on a bare node that has torch and Lightning."""


def test_dockerfile_passes_its_linter(repo: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "Dockerfile.gpu"], cwd=repo, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("script", ["scripts/quickstart", "scripts/test", "scripts/check_reader", ".ci/run"])
def test_scripts_are_strict_and_executable(repo: Path, script: str) -> None:
    path = repo / script
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in path.read_text()
    assert subprocess.run(["bash", "-n", path]).returncode == 0


@pytest.fixture
def checkout(repo: Path, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Scripts in a fresh folder, and a PATH with a python3.11 that only notes what it is asked to do."""
    for name in ("scripts/env", "scripts/quickstart", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(repo / name, tmp_path / name)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "cat", "chmod", "cksum", "cp", "dirname", "env", "mkdir"):
        (programs / name).symlink_to(str(shutil.which(name)))
    fake = programs / "python3.11"
    fake.write_text(
        "#!/usr/bin/env bash\n"
        f'echo "$*" >>{tmp_path}/asked\n'
        'if [ "$1 $2" = "-m venv" ]; then mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; '
        f'cp "$0" "$4/bin/recsys"; fi\n'
    )
    fake.chmod(0o755)
    return tmp_path, {"PATH": str(programs)}


def asked(checkout: Path) -> list[str]:
    """What the stand-in for Python was asked to do since the last look."""
    log = checkout / "asked"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def test_quickstart_installs_once(checkout: tuple[Path, dict[str, str]]) -> None:
    root, env = checkout

    def quickstart() -> list[str]:
        done = subprocess.run([root / "scripts/quickstart", "seed=1"], env=env, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        return asked(root)

    first = quickstart()
    assert f"-m venv --clear {root}/.venv" in first
    wanted = f"-c {root}/constraints.txt -e {root}[dev,onnx,redis,tuning]"
    assert any("pip install" in line and wanted in line for line in first)
    assert first[-1] == "train ranker=none seed=1"
    assert quickstart() == ["train ranker=none seed=1"]

    with (root / "constraints.txt").open("a") as constraints:
        constraints.write("new==1\n")
    again = quickstart()
    assert any("pip install" in line for line in again)
    assert not any("venv" in line.split() for line in again)


def test_quickstart_says_that_python_is_missing(checkout: tuple[Path, dict[str, str]]) -> None:
    root, env = checkout
    (root / "programs" / "python3.11").unlink()
    done = subprocess.run([root / "scripts/quickstart"], env=env, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr == (
        "error: no Python 3.11 or newer with the venv module was found; install one (Debian: python3-venv).\n"
    )
    assert not (root / ".venv").exists()


def test_every_dependency_is_pinned_within_its_bounds(repo: Path) -> None:
    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    extras = [r for group in project["optional-dependencies"].values() for r in group]
    lines = [line for line in (repo / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in lines)
    pins = {canonicalize_name(name): pin for name, _, pin in (line.partition("==") for line in lines)}
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_wheel_works_outside_a_checkout(repo: Path, tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, repo],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    for path in (repo / "conf").rglob("*.yaml"):
        assert f"recsys/conf/{path.relative_to(repo / 'conf').as_posix()}" in names
    assert not any(name.startswith(("tests/", "conf/")) for name in names)
    assert f"recsys-{version('recsys')}.dist-info/licenses/LICENSE" in names
    for name in ("bundle/FORMAT.md", "export/report.html.j2", "data/report.css"):  # read at run time
        assert f"recsys/{name}" in names

    def python(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    assert python("-c", "from recsys.config import conf_dir; print(conf_dir())").strip() == str(
        tmp_path / "site" / "recsys" / "conf"
    )
    assert "name: completejourney" in python("-m", "recsys", "train", "--cfg", "job")


def test_version_is_one(repo: Path) -> None:
    import recsys

    assert recsys.__version__ == version("recsys")
    assert tomllib.loads((repo / "pyproject.toml").read_text())["project"]["version"] == recsys.__version__


def imported_rooms(path: Path) -> set[str]:
    """The rooms of recsys that a file imports from, anywhere in it."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [
                f"{node.module}.{alias.name}" if node.module == "recsys" else str(node.module) for alias in node.names
            ]
        else:
            continue
        rooms |= {module.split(".")[1] for module in modules if module.startswith("recsys.")}
    return rooms


def test_imports_go_downwards_only(repo: Path) -> None:
    height = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
    for path in sorted((repo / "recsys").rglob("*.py")):
        room = path.relative_to(repo / "recsys").parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        upwards = {other for other in imported_rooms(path) if other != room and height[other] >= height[room]}
        assert not upwards, f"{path.relative_to(repo)} imports from {upwards}"


def test_training_core_needs_torch_and_lightning_only(repo: Path) -> None:
    files = [path for pattern in TRAINING_CORE for path in sorted((repo / "recsys").glob(pattern))]
    modules = [".".join(path.relative_to(repo).with_suffix("").parts).removesuffix(".__init__") for path in files]
    code = (
        "import sys, importlib\n"
        "for name in ('polars', 'mlflow', 'hydra', 'omegaconf', 'optuna'): sys.modules[name] = None\n"
        f"for name in {modules}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
