"""Latency of a bundle's answers, one request after the other on one core, beside exact search over all items."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from recsys.bundle.index import ItemIndex, best_items
from recsys.bundle.reader import Bundle
from recsys.bundle.requests import Id
from recsys.export.index import build_index

K = 20
STRANGERS = 0.2
"""Share of the requests that come from nobody known."""
FRESH = 3
"""Most events of a request that the bundle does not know of; each has at least one."""
NEIGHBOURS = 0.5
"""Items of a larger catalogue lie around those of the bundle, as far off as this share of a step to another item."""
PERCENTILES = (50, 95, 99)
PRODUCT = "sixteen products of 256 x 256 numbers"
"""Timed between the answers: what a machine that others use as well does to the same work each time."""


@dataclass(frozen=True)
class Request:
    """One request: who asks, and what they did since the bundle was made."""

    user: Id | None
    history: list[Id]


def measure(bundle: Bundle, n_requests: int, n_items: int, index: str, min_recall: float, seed: int) -> dict[str, Any]:
    """Time the parts of an answer and the whole, and return milliseconds by percentile.

    Args:
        bundle: As loaded.
        n_requests: Of each part.
        n_items: Of the catalogue in which retrieval alone is timed.
        index: Its kind.
        min_recall: Its least recall@100 against exact search.
        seed: Of users, histories and items.
    """
    chance = np.random.default_rng(seed)
    asked = requests(bundle, n_requests, chance)
    matrix, products = torch.rand(256, 256), list[float]()

    def answer(request: Request) -> None:
        bundle.recommend([request.user], K, histories=[request.history])

    def product() -> None:
        start = time.perf_counter()
        for _ in range(16):
            matrix @ matrix
        products.append(1e3 * (time.perf_counter() - start))

    answers = {"whole answer": timed(answer, asked, "answers", product)}
    answers[PRODUCT] = np.array(products)
    parts = {"user tower from raw history": timed(lambda r: bundle.embed_users([r.user], [r.history]), asked, "towers")}
    second = {} if bundle.ranking is None else second_stage(bundle, asked)
    queries = torch.cat([bundle.embed_users([r.user], [r.history]) for r in asked[:1000]])
    retrieval = larger_catalogue(bundle, queries, n_items, index, min_recall, n_requests, chance)  # takes 6 GiB: last
    parts |= retrieval.pop("milliseconds") | second | answers
    return {
        "requests": n_requests,
        "catalogue": len(bundle.item_ids),
        "large": retrieval,
        "milliseconds": {name: percentiles(values) for name, values in parts.items()},
    }


def requests(bundle: Bundle, n: int, chance: np.random.Generator) -> list[Request]:
    """Draw requests: known users and strangers, each with a few fresh events."""
    users, items = bundle.user_ids.to_list(), bundle.item_ids.filter(bundle.items["asof/eligible"]).to_list()
    strange = chance.random(n) < STRANGERS
    return [
        Request(
            None if strange[i] else users[chance.integers(len(users))],
            [items[place] for place in chance.integers(len(items), size=chance.integers(1, FRESH + 1))],
        )
        for i in range(n)
    ]


def larger_catalogue(
    bundle: Bundle,
    queries: Tensor,
    n_items: int,
    index: str,
    min_recall: float,
    n_requests: int,
    chance: np.random.Generator,
) -> dict[str, Any]:
    """Time retrieval among more items than the bundle has, by an index and by exact search.

    The further items lie between the bundle's own and others of them: clusters stay, and no two items are the same.
    """
    own = bundle.item_vectors.numpy()
    places, others = chance.integers(len(own), size=(2, n_items))
    step = NEIGHBOURS * chance.random((n_items, 1), dtype=np.float32)
    vectors = torch.from_numpy(own[places] + step * (own[others] - own[places]))
    eligible = torch.ones(n_items, dtype=torch.bool)
    start = time.perf_counter()
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))  # which is not what is timed
    built, facts = build_index(vectors.numpy(), np.arange(n_items), queries.numpy(), index, min_recall)
    faiss.omp_set_num_threads(1)
    seconds = time.perf_counter() - start
    rows = [queries[i % len(queries)][None] for i in range(n_requests)]
    found = {
        f"retrieval, {n_items:,} items": lambda q: best_items(built, vectors, eligible, q, K),
        f"retrieval, {n_items:,} items, exact": lambda q: torch.topk(vectors @ q[0], K),
    }
    return {
        **facts,
        "build_seconds": round(seconds, 1),
        f"recall_at_{K}": recall(built, vectors, eligible, queries),
        "milliseconds": {name: timed(ask, rows[: n_requests if "exact" not in name else 1000], name)
                         for name, ask in found.items()},
    }  # fmt: skip


def recall(index: ItemIndex, vectors: Tensor, eligible: Tensor, queries: Tensor) -> float:
    """Return the share of the exact best :data:`K` that is found, the mean over the queries."""
    hits = 0
    for query in queries:
        exact = torch.topk(vectors @ query, K).indices
        hits += len(np.intersect1d(best_items(index, vectors, eligible, query[None], K)[0], exact.numpy()))
    return hits / (K * len(queries))


def second_stage(bundle: Bundle, asked: list[Request]) -> dict[str, NDArray[np.float64]]:
    """Time what lies between the user's vector and the ordered candidates."""
    ranking = bundle.ranking
    assert ranking is not None
    names = ("past and features of the user", "candidates and their features", "ranker over the candidates")
    spent = np.zeros((len(asked), len(names)))
    for place, request in counted(asked, "second stage"):
        start = time.perf_counter()
        what = bundle.requests([request.user], [request.history])
        known = time.perf_counter()
        pairs = ranking.candidates(what)
        found = time.perf_counter()
        ranking.score(what, pairs)
        spent[place] = known - start, found - known, time.perf_counter() - found
    return {name: 1e3 * spent[:, place] for place, name in enumerate(names)}


def timed(
    ask: Callable[[Any], object], asked: list[Any], what: str, beside: Callable[[], object] | None = None
) -> NDArray[np.float64]:
    """Return the milliseconds of each call, after some that are not counted; ``beside`` follows every twentieth."""
    for request in asked[:50]:
        ask(request)
    spent = np.zeros(len(asked))
    for place, request in counted(asked, what):
        start = time.perf_counter()
        ask(request)
        spent[place] = time.perf_counter() - start
        if beside and place % 20 == 0:
            beside()
    found = " / ".join(f"{value:.2f}" for value in percentiles(1e3 * spent).values())
    print(f"{what}: {found} ms at p{' / p'.join(map(str, PERCENTILES))}", flush=True)
    return 1e3 * spent


def counted(asked: list[Any], what: str) -> Iterator[tuple[int, Any]]:
    """Yield requests by number, with a bar that is drawn between them: a thread of its own would be timed, too."""
    with Progress(auto_refresh=False, transient=True) as progress:
        task = progress.add_task(what, total=len(asked))
        for place, request in enumerate(asked):
            yield place, request
            if place % 100 == 0:
                progress.update(task, completed=place, refresh=True)


def percentiles(values: NDArray[np.float64]) -> dict[str, float]:
    """Return milliseconds by percentile."""
    return {f"p{p}": round(float(np.percentile(values, p)), 3) for p in PERCENTILES}


def serve_table(report: dict[str, Any], folder: Path) -> Table:
    """Return the report as a table."""
    large = report["large"]
    catalogue = f"{report['requests']:,} requests, one core, {report['catalogue']:,} items"
    larger = f"{large['items']:,} items: {large['kind']}, recall@{K} {large[f'recall_at_{K}']:.4f}"
    title = f"{folder}: {catalogue}\n{larger}, built in {large['build_seconds']:.0f} s"
    table = Table(title=title, title_justify="left")
    table.add_column("milliseconds")
    for p in PERCENTILES:
        table.add_column(f"p{p}", justify="right")
    for name, values in report["milliseconds"].items():
        table.add_row(name, *(f"{values[f'p{p}']:.2f}" for p in PERCENTILES))
    return table
