"""The golden sample: requests with the answers that every reader of the bundle must give."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recsys.bundle import format as part
from recsys.bundle.parts import read_tower, run_tower
from recsys.bundle.tensors import read_tensors
from recsys.errors import BundleError

if TYPE_CHECKING:
    from recsys.bundle.reader import Bundle

K = 20
KNOWN, ITEMS = 8, 16
TOLERANCE = 1e-4
"""Of a score or a vector entry, relative to the largest: other processors add in another order."""


def golden_sample(bundle: "Bundle") -> dict[str, Any]:
    """Return requests (known users, with fresh events, unknown with and without a history) and their answers."""
    users = bundle.user_ids.gather_every(max(len(bundle.user_ids) // KNOWN, 1)).to_list()[:KNOWN]
    items = bundle.item_ids.gather_every(max(len(bundle.item_ids) // ITEMS, 1)).to_list()[:ITEMS]
    requests: list[dict[str, Any]] = [{"user_id": user, "history": []} for user in users]
    requests += [{"user_id": users[0], "history": items[:3]}, {"user_id": None, "history": items[3:6]}]
    requests += [{"user_id": None, "history": []}]
    for request in requests:
        request["k"] = K
        request |= _answer(bundle, request)
    vectors = bundle.embed_items(items).tolist()
    return {
        "tolerance": TOLERANCE,
        "requests": requests,
        "items": [{"item_id": item, "vector": vector} for item, vector in zip(items, vectors, strict=True)],
    }


def check_sample(bundle: "Bundle", path: Path) -> int:
    """Ask the bundle everything in ``sample.json`` and return the number of answers that agreed: all of them.

    The compiled models are run on the tensors beside it as well.

    Two items may change places where their scores differ by less than the tolerance.

    Raises:
        BundleError: Names the first request whose answer differs.
    """
    sample = json.loads(path.read_text(encoding="utf-8"))
    for number, request in enumerate(sample["requests"]):
        found = _answer(bundle, request)
        if not _agree(request, found, sample["tolerance"]):
            raise BundleError(
                f"{path.name}: request {number} (user {request['user_id']!r}) is answered differently here."
            )
    items = sample["items"]
    vectors = bundle.embed_items([item["item_id"] for item in items]).tolist()
    for item, vector in zip(items, vectors, strict=True):
        if not _close(item["vector"], vector, sample["tolerance"]):
            raise BundleError(f"{path.name}: the vector of item {item['item_id']!r} is another one here.")
    if (path.parent / part.TENSORS).is_file():  # bundles of earlier versions have none
        _check_tensors(path.parent, sample["tolerance"])
    return len(sample["requests"]) + len(items)


def golden_tensors(bundle: "Bundle", sample: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the sample as the models meet it, so that a reader in another language can check its own calls.

    ::

        user_tower/inputs/NAME   a row a request of the sample      user_tower/output   their vectors
        item_tower/inputs/NAME   a row an item of the sample        item_tower/output   their vectors
        ranker/inputs/NAME       a row a candidate of the first and of the last request
        ranker/output            logit and probability              ranker/request, ranker/item_row   whose, and of what

    Args:
        bundle: Whose models answer.
        sample: What :func:`golden_sample` returned.
    """
    users = [request["user_id"] for request in sample["requests"]]
    histories = [request["history"] for request in sample["requests"]]
    read = {
        part.USER_TOWER: bundle.user_inputs(users, histories),
        part.ITEM_TOWER: bundle.item_inputs([item["item_id"] for item in sample["items"]]),
    }
    more = {}
    if bundle.ranking is not None:
        ends = [0, len(users) - 1]
        asked = bundle.requests([users[i] for i in ends], [histories[i] for i in ends])
        pairs = bundle.ranking.candidates(asked)
        read[part.RANKER] = bundle.ranking.inputs(asked, pairs, torch.arange(len(pairs)))
        more = {"ranker/request": torch.tensor(ends)[pairs.query], "ranker/item_row": pairs.item}
    for name, inputs in read.items():
        stem = name.removesuffix(".pt")
        more |= {f"{stem}/inputs/{feature}": column for feature, column in inputs.items()}
        more[f"{stem}/output"] = run_tower(read_tower(bundle.folder / name), inputs)
    return more


def _check_tensors(folder: Path, tolerance: float) -> None:
    tensors = read_tensors(folder / part.TENSORS)
    for name in (part.USER_TOWER, part.ITEM_TOWER, part.RANKER):
        stem = name.removesuffix(".pt")
        if f"{stem}/output" not in tensors:
            continue
        start = f"{stem}/inputs/"
        inputs = {key.removeprefix(start): column for key, column in tensors.items() if key.startswith(start)}
        expected = tensors[f"{stem}/output"]
        found = run_tower(read_tower(folder / name), inputs)
        if found.shape != expected.shape or not _close(
            expected.flatten().tolist(), found.flatten().tolist(), tolerance
        ):
            raise BundleError(f"{part.TENSORS}: {stem} gives other numbers here.")


def _answer(bundle: "Bundle", request: Mapping[str, Any]) -> dict[str, Any]:
    user, history = [request["user_id"]], [request["history"]]
    best = bundle.recommend(user, request["k"], histories=history)
    return {
        "vector": bundle.embed_users(user, history)[0].tolist(),
        "item_ids": best["item_id"].to_list(),
        "scores": best["score"].to_list(),
    }


def _agree(expected: Mapping[str, Any], found: Mapping[str, Any], tolerance: float) -> bool:
    scores = found["scores"]
    if len(scores) != len(expected["scores"]) or not _close(expected["vector"], found["vector"], tolerance):
        return False
    if not _close(expected["scores"], scores, tolerance):
        return False
    limit = 2 * tolerance * max((abs(s) for s in scores), default=0.0)
    place = {item: rank for rank, item in enumerate(found["item_ids"])}
    for rank, item in enumerate(expected["item_ids"]):
        # an item that fell off the end must have stood within the tolerance of the last score
        score = scores[place[item]] if item in place else scores[-1]
        if abs(score - expected["scores"][rank]) > limit:
            return False
    return True


def _close(expected: list[float], found: list[float], tolerance: float) -> bool:
    limit = tolerance * max((abs(x) for x in expected), default=0.0)
    return all(abs(a - b) <= limit for a, b in zip(expected, found, strict=True))
