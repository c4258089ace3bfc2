"""Readers without our code, one of them in C++, give the numbers of the golden sample, and notice when they do not."""

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from recsys.bundle.format import Manifest, read_manifest, seal
from recsys.bundle.reader import Bundle
from recsys.bundle.tensors import read_tensors, write_tensors
from recsys.errors import BundleError
from tests.bundle.shop import exported, shop

__all__ = ["exported", "shop"]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def copy(trained_onnx: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_onnx, tmp_path / "copy"))


def resealed(folder: Path) -> None:
    """Write the manifest of a folder that was changed, as a forger would."""
    seal(folder, **read_manifest(folder).content)


def test_onnx_reader_answers_by_the_ranker(trained_onnx: Path, repo: Path, python: Run) -> None:
    done = python(repo, "-I", "scripts/read_with_onnx.py", str(trained_onnx))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[1:4]] == ["user_tower", "item_tower", "ranker"]
    assert lines[-1] == "2 requests answered as in the sample, by the ranker"


def test_onnx_reader_answers_by_inner_products(exported: tuple[Path, Manifest], repo: Path, python: Run) -> None:
    if not (exported[0] / "user_tower.onnx").is_file():
        pytest.skip("the libraries of the extra onnx are not installed")
    done = python(repo, "-I", "scripts/read_with_onnx.py", str(exported[0]))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "11 requests answered as in the sample, by inner products"


def test_onnx_reader_needs_four_libraries(repo: Path) -> None:
    tree = ast.parse((repo / "scripts/read_with_onnx.py").read_text())
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    others = {name.partition(".")[0] for name in found} - set(sys.stdlib_module_names)
    assert others == {"numpy", "onnxruntime", "pyarrow"}


def test_onnx_reader_notices(copy: Path, repo: Path, python: Run) -> None:
    """A changed part; then models and answers of the sample that do not go together, all sealed as they should be."""

    def says(message: str) -> None:
        done = python(repo, "-I", "scripts/read_with_onnx.py", str(copy))
        assert (done.returncode, done.stderr) == (1, f"error: {message}\n")

    (copy / "item.index").write_bytes(b"x")
    says("item.index: its bytes are not those of this bundle")
    tensors = read_tensors(copy / "sample.safetensors")
    whole = tensors["ranker/output"]
    write_tensors(tensors | {"ranker/output": whole.flip(0)}, copy / "sample.safetensors")
    resealed(copy)
    done = python(repo, "-I", "scripts/read_with_onnx.py", str(copy))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ranker: other numbers than in the sample, by ")
    write_tensors(tensors | {"ranker/item_row": tensors["ranker/item_row"].flip(0)}, copy / "sample.safetensors")
    resealed(copy)
    done = python(repo, "-I", "scripts/read_with_onnx.py", str(copy))
    assert done.returncode == 1
    assert done.stderr.startswith("error: items of request 0: other numbers than in the sample, by ")


def test_our_own_reader_checks_the_tensors_too(copy: Path) -> None:
    Bundle.load(copy).check_sample()
    tensors = read_tensors(copy / "sample.safetensors")
    for model in ("user_tower", "item_tower", "ranker"):
        spoilt = tensors | {f"{model}/output": tensors[f"{model}/output"] * 1.01}
        write_tensors(spoilt, copy / "sample.safetensors")
        resealed(copy)
        with pytest.raises(BundleError, match=rf"sample\.safetensors: {model} gives other numbers here"):
            Bundle.load(copy).check_sample()


def test_the_tensors_are_those_of_the_sample(trained_onnx: Path) -> None:
    """The vectors of ``sample.json``, which were asked for one by one, and the candidates of two of its requests."""
    sample = json.loads((trained_onnx / "sample.json").read_text())
    tensors = read_tensors(trained_onnx / "sample.safetensors")
    for name, entries in (("user_tower", sample["requests"]), ("item_tower", sample["items"])):
        expected = torch.tensor([entry["vector"] for entry in entries])
        torch.testing.assert_close(tensors[f"{name}/output"], expected, rtol=0, atol=1e-4)
    bundle = Bundle.load(trained_onnx)
    for number in (0, len(sample["requests"]) - 1):
        mine = tensors["ranker/request"] == number
        rows, probability = tensors["ranker/item_row"][mine], tensors["ranker/output"][mine, 1]
        user = sample["requests"][number]["user_id"]
        found = bundle.rank([user], [[]]).select("item_id", "score").sort("item_id")
        shown = pl.DataFrame({"item_id": bundle.item_ids.gather(rows.numpy()), "score": probability.numpy()})
        assert shown.sort("item_id")["item_id"].to_list() == found["item_id"].to_list()
        assert shown.sort("item_id")["score"].to_list() == pytest.approx(found["score"].to_list(), abs=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_libtorch(trained_onnx: Path, repo: Path, tmp_path: Path) -> None:
    """Compiled against the wheel that is installed, run without Python."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ in the PATH")
    home = Path(torch.__file__).parent
    if not (home / "include" / "torch" / "script.h").is_file():
        pytest.skip("this torch brings no headers")
    program = tmp_path / "read_with_libtorch"
    include = [f"-I{home}/include", f"-I{home}/include/torch/csrc/api/include"]
    link = [f"-L{home}/lib", f"-Wl,-rpath,{home}/lib", "-ltorch", "-ltorch_cpu", "-lc10"]
    source = str(repo / "scripts" / "read_with_libtorch.cpp")
    built = subprocess.run(
        [compiler, "-std=c++20", "-O0", source, "-o", str(program), *include, *link], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr

    def run(folder: Path, *model: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(program), str(folder), *model], capture_output=True, text=True)

    for model in ("user_tower", "item_tower", "ranker"):
        done = run(trained_onnx, model)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith(f"{model}: ")
    copy = Path(shutil.copytree(trained_onnx, tmp_path / "copy"))
    tensors: Any = read_tensors(copy / "sample.safetensors")
    write_tensors(tensors | {"user_tower/output": tensors["user_tower/output"] * 1.01}, copy / "sample.safetensors")
    assert run(copy).returncode == 1
    assert run(tmp_path).returncode == 1
    assert "sample.safetensors: cannot be read" in run(tmp_path).stderr
