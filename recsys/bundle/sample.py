"""The golden sample: requests with the answers that every reader of the bundle must give."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    return len(sample["requests"]) + len(items)


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
