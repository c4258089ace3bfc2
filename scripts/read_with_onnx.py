"""Reads a bundle as somebody would who has neither torch nor this project: NumPy, PyArrow, onnxruntime, JSON.

::

    python scripts/read_with_onnx.py BUNDLE     exit code 1 if the golden sample comes out otherwise

The layout of the folder is written down in the bundle's own FORMAT.md.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
from numpy.typing import NDArray

Array = NDArray[Any]
DTYPES: dict[str, str] = {"F32": "<f4", "I64": "<i8"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify the folder, run its models on the golden sample, and rank with what they say; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="folder with a manifest.json")
    folder = parser.parse_args(arguments).bundle
    try:
        manifest = verified(folder)
        print(f"{len(manifest['parts'])} parts, all as listed; fingerprint {manifest['fingerprint'][:12]}")
        sample = json.loads((folder / "sample.json").read_text(encoding="utf-8"))
        tensors = read_tensors(folder / "sample.safetensors")
        for model in ("user_tower", "item_tower", "ranker"):
            if f"{model}/output" in tensors:
                print(check_model(folder, model, tensors, sample["tolerance"]))
        print(check_answers(folder, tensors, sample, bool(manifest["ranker"])))
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def verified(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder that holds what it lists, byte for byte."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if manifest["format_version"] != 3:
        raise ValueError(f"manifest.json: format version {manifest['format_version']}; this program reads 3")
    content = {key: value for key, value in manifest.items() if key != "fingerprint"}
    if hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest() != manifest["fingerprint"]:
        raise ValueError("manifest.json: it was changed after it was written")
    for name, expected in manifest["parts"].items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{name}: it lies outside the folder")
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise ValueError(f"{name}: its bytes are not those of this bundle")
    return manifest


def read_tensors(path: Path) -> dict[str, Array]:
    """Read a safetensors file."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    out = {}
    for name, entry in json.loads(content[8:start]).items():
        first, end = entry["data_offsets"]
        numbers = np.frombuffer(content[start + first : start + end], DTYPES[entry["dtype"]])
        out[name] = numbers.reshape(entry["shape"])
    return out


def check_model(folder: Path, model: str, tensors: dict[str, Array], tolerance: float) -> str:
    """Run a model on the inputs of the sample and say how far its output is from the sample's."""
    start, expected = f"{model}/inputs/", tensors[f"{model}/output"]
    inputs = {name.removeprefix(start): array for name, array in tensors.items() if name.startswith(start)}
    session = onnxruntime.InferenceSession(folder / f"{model}.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["output"], {entry.name: inputs[entry.name] for entry in session.get_inputs()})
    difference = close(model, expected, found, tolerance)
    return f"{model}: {len(found)} rows of the sample, largest difference {difference:.1e}"


def check_answers(folder: Path, tensors: dict[str, Array], sample: dict[str, Any], ranked: bool) -> str:
    """Answer requests of the sample: by the ranker's logits where there is one, else by inner products."""
    catalogue = pq.read_table(folder / "catalogue.parquet")
    item_ids = catalogue["item_id"].to_pylist()
    requests = sample["requests"]
    if ranked:
        of, rows, output = (tensors[f"ranker/{name}"] for name in ("request", "item_row", "output"))
        answers = {int(n): (rows[of == n], *output[of == n].T) for n in np.unique(of)}
    else:
        eligible = np.flatnonzero(catalogue["asof/eligible"].to_numpy())
        table = pq.read_table(folder / "item_embeddings.parquet")["vector"].combine_chunks()
        vectors = table.values.to_numpy().reshape(len(item_ids), -1)[eligible]
        scores = tensors["user_tower/output"] @ vectors.T
        answers = {n: (eligible, row, row) for n, row in enumerate(scores)}
    checked = 0
    for number, (rows, order, scores) in answers.items():
        request = requests[number]
        if len(rows) < request["k"]:
            continue  # a catalogue so small that the candidates are filled up
        best = np.lexsort((rows, -order))[: request["k"]]
        close(f"request {number}", np.array(request["scores"]), scores[best], sample["tolerance"])
        at = dict(zip((item_ids[row] for row in rows), scores, strict=True))
        mine = np.array([at[item] for item in request["item_ids"]])  # of the items of the sample, in its order
        close(f"items of request {number}", np.array(request["scores"]), mine, 2 * sample["tolerance"])
        checked += 1
    return f"{checked} requests answered as in the sample, " + ("by the ranker" if ranked else "by inner products")


def close(what: str, expected: Array, found: Array, tolerance: float) -> float:
    """Return the largest difference, which has to be within the tolerance, relative to the largest number."""
    if expected.shape != found.shape:
        raise ValueError(f"{what}: shape {found.shape}, not {expected.shape}")
    difference = float(np.abs(expected - found).max(initial=0.0))
    if not difference <= tolerance * float(np.abs(expected).max(initial=0.0)):
        raise ValueError(f"{what}: other numbers than in the sample, by {difference:.1e}")
    return difference


if __name__ == "__main__":
    sys.exit(main())
