"""Exact evaluation over the whole catalogue in memory that does not grow with the number of users."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from recsys.data.topk import top_k
from recsys.errors import RecsysError
from recsys.evaluation.metrics import CatalogueMetrics, RankingMetrics, metric_keys, ranking_values
from recsys.evaluation.recommender import Past, Recommender, Scorer
from recsys.evaluation.slices import LIST_OF, OTHER_LISTS, Targets

Progress = Callable[[str, int, int], None]
"""Called with the model's name, the users done and the users in all."""

KEPT = ("ndcg", "recall")
"""Families whose values are kept for every user."""


@dataclass(frozen=True)
class ModelResult:
    """What one model reached in one window.

    Attributes:
        name: Of the model.
        metrics: Slice to ``ndcg_at_20`` ... and ``users``; slice ``all`` also has the catalogue metrics.
        per_user: Slice to ``ndcg_at_20``, ``recall_at_20`` ... to one value for each user of the slice, float32, in
            the order of ``Targets.users``: the same users for every model of the window.
        fit_seconds: Time to fit; 0 when it was fitted elsewhere.
        score_seconds: Time to score, rank and measure.
    """

    name: str
    metrics: dict[str, dict[str, float]]
    per_user: dict[str, dict[str, Tensor]] = field(repr=False)
    fit_seconds: float = 0.0
    score_seconds: float = 0.0

    def flat(self, window: str) -> dict[str, float]:
        """Return the metrics as flat keys: ``val/ndcg_at_20``, ``val/new/ndcg_at_20`` ..."""
        return {
            f"{window}/{key}" if part == "all" else f"{window}/{part}/{key}": value
            for part, values in self.metrics.items()
            for key, value in values.items()
        }


@torch.no_grad()
def evaluate(
    recommender: Scorer,
    targets: Targets,
    ks: Sequence[int] = (10, 20, 50, 100),
    slices: Sequence[str] | None = None,
    chunk_users: int = 64,
    progress: Progress | None = None,
    fit_seconds: float = 0.0,
    distributed: bool = False,
) -> ModelResult:
    """Rank the catalogue for every user of the window and measure each slice.

    Memory is a few times ``chunk_users x N x 4`` bytes; chunks small enough for the allocator to use their memory
    again (below 32 MB with glibc) are several times faster than large ones. Equal scores are ordered by item row.
    Items that are not eligible are never recommended; a truth among them counts as missed.

    Args:
        recommender: Fitted; must answer every user of ``targets``.
        targets: The window.
        ks: Cut-offs.
        slices: Of the targets, all by default; ``("all",)`` is the fast way after an epoch.
        chunk_users: Users scored at a time.
        progress: Told after each chunk.
        fit_seconds: Passed on to the result.
        distributed: Every process of the group calls this and takes its share of the users; metrics are those of
            all users, ``per_user`` holds the process's own share, nothing where that is empty.

    Raises:
        RecsysError: The scores have a wrong shape or are NaN.
    """
    start = time.perf_counter()
    ks = tuple(sorted(ks))
    names = [name for name in slices or targets.truth_slices if name in targets.truth_slices]
    kinds = {name: LIST_OF.get(name, OTHER_LISTS) for name in names}
    ranking = {name: RankingMetrics(ks, sync_on_compute=distributed) for name in names}
    catalogue = CatalogueMetrics(
        ks, targets.item_users, targets.n_known_users, targets.eligible, sync_on_compute=distributed
    )
    n_relevant = {name: targets.n_relevant(name) for name in names}
    kept: dict[str, list[Tensor]] = {name: [] for name in names}
    rows = torch.arange(len(targets.users))
    if distributed:
        rows = rows[dist.get_rank() :: dist.get_world_size()]
    done = 0
    for chunk in rows.split(chunk_users) if len(rows) else ():  # a process may be left without a user
        users = targets.users[chunk]
        lists = dict(_lists(recommender, targets, users, max(ks), set(kinds.values())))
        found = {kind: targets.find(users, items) for kind, (_, items) in lists.items()}
        for name in names:
            true, places = found[kinds[name]]
            shown = lists[kinds[name]][0]
            relevant = n_relevant[name][chunk]
            asked = relevant > 0
            hits = (true & shown & targets.truth_slices[name][places])[asked]
            values = ranking_values(hits, relevant[asked], ks)
            ranking[name].update(values)
            kept[name].append(values[: len(KEPT)].float())
        if "full" in lists:
            catalogue.update(lists["full"][1], lists["full"][0])
        done += len(chunk)
        if progress:
            progress(recommender.name, done, len(rows))
    if distributed:
        for metric in (*ranking.values(), catalogue):
            metric.to(_device_of_group())
    metrics = {name: {key: value.item() for key, value in ranking[name].compute().items()} for name in names}
    if "all" in metrics:
        metrics["all"] |= {key: value.item() for key, value in catalogue.compute().items()}
    keys = metric_keys(ks)[: len(KEPT) * len(ks)]
    per_user = {n: dict(zip(keys, torch.cat(kept[n], -1).flatten(0, 1), strict=True)) for n in names if kept[n]}
    return ModelResult(recommender.name, metrics, per_user, fit_seconds, time.perf_counter() - start)


def fit_and_evaluate(
    recommenders: Iterable[Recommender],
    past: Past,
    targets: Targets,
    ks: Sequence[int] = (10, 20, 50, 100),
    chunk_users: int = 64,
    progress: Progress | None = None,
) -> Iterator[ModelResult]:
    """Fit and evaluate models one after the other, holding one in memory at a time.

    Args:
        recommenders: Unfitted; a generator that makes them lets each be freed before the next.
        past: What they learn from.
        targets: The window.
        ks: Cut-offs.
        chunk_users: Users scored at a time.
        progress: Told after each chunk.
    """
    for recommender in recommenders:
        start = time.perf_counter()
        recommender.fit(past)
        seconds = time.perf_counter() - start
        yield evaluate(recommender, targets, ks, chunk_users=chunk_users, progress=progress, fit_seconds=seconds)
        del recommender


def _device_of_group() -> torch.device:
    """Return where tensors must lie to be gathered: of a fit on CUDA the processes talk by NCCL, which knows no CPU."""
    if "cpu:" in dist.get_backend_config():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _lists(
    recommender: Scorer, targets: Targets, users: Tensor, k: int, wanted: set[str]
) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    """Yield each kind of list: bool, which places hold an item, and item rows, both ``[B, <=k]`` on the CPU."""
    scores = _masked_scores(recommender, users, targets.eligible)
    if "full" in wanted:
        yield "full", _shown(*top_k(scores, k))
    if "cold" in wanted:
        cold = targets.cold_items.to(scores.device)
        values, places = top_k(scores[:, cold], k)
        yield "cold", _shown(values, cold[places])
    if "seen" in wanted or "unseen" in wanted:
        rows, columns, items = (part.to(scores.device) for part in targets.seen(users))
        if "seen" in wanted:
            width = int(columns.max()) + 1 if len(columns) else 1
            own_items = items.new_zeros(len(users), width)
            own_scores = scores.new_full((len(users), width), -torch.inf)
            own_items[rows, columns] = items
            own_scores[rows, columns] = scores[rows, items]
            values, places = top_k(own_scores, k)
            yield "seen", _shown(values, own_items.gather(1, places))
        if "unseen" in wanted:
            scores[rows, items] = -torch.inf
            yield "unseen", _shown(*top_k(scores, k))


def _masked_scores(recommender: Scorer, users: Tensor, eligible: Tensor) -> Tensor:
    """Return the model's scores in memory of our own, ``[B, N]``, with ``-inf`` for items that are not eligible."""
    scores = recommender.scores(users)
    if scores.shape != (len(users), len(eligible)):
        raise RecsysError(
            f"model '{recommender.name}': scores have shape {tuple(scores.shape)}, "
            f"needed is {(len(users), len(eligible))}, one row a user and one column an item."
        )
    return torch.where(eligible.to(scores.device), scores, -torch.inf)


def _shown(values: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    return (values > -torch.inf).cpu(), items.cpu()
