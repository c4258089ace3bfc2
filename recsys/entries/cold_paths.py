"""Strangers on the test window: its users asked about as if the bundle did not know them, beside popularity."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.config.schema import Config

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console
    from torch import Tensor

    from recsys.bundle.reader import Bundle
    from recsys.bundle.requests import Event
    from recsys.evaluation.evaluate import ModelResult
    from recsys.evaluation.recommender import Past
    from recsys.evaluation.report import Comparison
    from recsys.evaluation.significance import Interval
    from recsys.evaluation.slices import Targets

CLICKS = 5
"""Events that a stranger with a few clicks brings: the user's last ones before the cut, and nothing later."""
POPULARITY = ("popular", "recent_popular")
"""Baselines that need nothing of a stranger."""


@dataclass(frozen=True)
class ColdPath:
    """How well one kind of stranger, or new products, are answered.

    Attributes:
        name: Slice of the metric keys.
        users: Who were asked about.
        ndcg: NDCG@k of the bundle.
        recall: Recall@k of the bundle.
        rival: The better one of the popularity baselines, by NDCG.
        rival_ndcg: Its NDCG@k on the same users.
        gain: NDCG@k of the bundle less that, paired.
    """

    name: str
    users: int
    ndcg: float
    recall: float
    rival: str
    rival_ndcg: float
    gain: "Interval"


@dataclass(frozen=True)
class ColdPaths:
    """All of them, at one cut-off."""

    k: int
    paths: tuple[ColdPath, ...]

    @property
    def metrics(self) -> dict[str, float]:
        """Flat keys: ``test/cold_clicks/ndcg_at_20``, ``test/cold_clicks/difference_ndcg_at_20`` with its interval."""
        found: dict[str, float] = {}
        for path in self.paths:
            if path.name == "cold_items":
                continue  # has its keys already
            root, gain = f"test/{path.name}", f"test/{path.name}/difference_ndcg_at_{self.k}"
            found |= {f"{root}/users": float(path.users), f"{root}/ndcg_at_{self.k}": path.ndcg}
            found |= {f"{root}/recall_at_{self.k}": path.recall, f"{root}/popular_ndcg_at_{self.k}": path.rival_ndcg}
            found[gain] = path.gain.mean
            if path.gain.is_bounded:
                found |= {f"{gain}_low": path.gain.low, f"{gain}_high": path.gain.high}
        return found

    def save(self, folder: Path) -> list[Path]:
        """Write ``cold.json`` into the folder, if there is anything; return its path."""
        from recsys.files import json_bytes, write_all

        if not self.paths:
            return []
        content = {"k": self.k, "paths": [asdict(path) | {"gain": path.gain.to_plain()} for path in self.paths]}
        return write_all(folder, {"cold.json": json_bytes(content)})

    def show(self, console: "Console") -> None:
        """Print one line a path, if there is any."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        from recsys.evaluation.margins import signed

        if not self.paths:
            return
        table = Table(title="cold start", box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
        for title in ("asked with", "users", f"NDCG\n@{self.k}", f"Recall\n@{self.k}", "popularity", "gain in NDCG"):
            table.add_column(title, justify="left" if title in ("asked with", "popularity") else "right")
        for path in self.paths:
            rival, gain = f"{path.rival_ndcg:.4f} {path.rival}", signed(path.gain, interval=True)
            table.add_row(SAID[path.name], f"{path.users:,}", f"{path.ndcg:.4f}", f"{path.recall:.4f}", rival, gain)
        console.print()
        console.print(table)


OTHER = ""
"""Type of an event that does not count: one that no data set has."""
SAID = {
    "cold_clicks": f"the last {CLICKS} events",
    "cold_attributes": "attributes alone",
    "cold_nothing": "nothing",
    "cold_items": "new products",
}


def cold_paths(
    cfg: Config, bundle: "Bundle", targets: "Targets", past: "Past", comparison: "Comparison | None" = None
) -> ColdPaths:
    """Ask a bundle about users of a window whose ids are hidden.

    Args:
        cfg: How many users, cut-offs, resamples and seed.
        bundle: Fitted before the window, with the rows of the prepared tables.
        targets: The window.
        past: What was known at its beginning.
        comparison: Of the window, whose new products stand beside; None leaves them out.
    """
    import torch

    from recsys.columns import USER_ID
    from recsys.evaluation.baselines import make_baseline
    from recsys.evaluation.evaluate import fit_and_evaluate

    settings, k = cfg.evaluation, cfg.objective.k
    wanted = settings.cold_users
    if wanted == 0:
        return ColdPaths(k, ())
    few = targets.only(targets.users[evenly_spaced(len(targets.users), wanted)])
    rivals = [*fit_and_evaluate((make_baseline(name) for name in POPULARITY), past, few, (k,), settings.chunk_users)]
    told = bundle.users.drop(USER_ID, *derived(bundle))[few.users.numpy()]
    clicks = last_events(bundle, past, few.users)
    has_told = ~told.select(_all_null()).to_series() if told.width else None
    asked: dict[str, tuple[Tensor, dict[str, Any]]] = {
        "cold_clicks": (torch.tensor([len(events) > 0 for events in clicks]), {"histories": clicks}),
        "cold_nothing": (torch.ones(len(few.users), dtype=torch.bool), {}),
    }
    if has_told is not None:
        asked["cold_attributes"] = (torch.from_numpy(has_told.to_numpy().copy()), {"attributes": told})
    found = []
    for name in ("cold_clicks", "cold_attributes", "cold_nothing"):
        if name in asked and asked[name][0].any():
            keep, given = asked[name]
            theirs = {key: _some(values, keep) for key, values in given.items()}
            ours = answered(bundle, few.only(few.users[keep]), k, theirs, settings.chunk_users)
            found.append(_beside(name, ours, rivals, keep, k, settings.bootstrap, cfg.seed))
    return ColdPaths(k, (*found, *_new_products(comparison, k, settings.bootstrap, cfg.seed)))


def derived(bundle: "Bundle") -> list[str]:
    """Return the attributes of a bundle's users that follow from their history, which a stranger has not told."""
    from recsys.bundle.format import SEGMENTS
    from recsys.segments.model import PREFIX
    from recsys.segments.store import load_segments

    folder = bundle.folder / SEGMENTS
    return [PREFIX + kind for kind in load_segments(folder).kinds] if folder.is_dir() else []


def evenly_spaced(n: int, wanted: int) -> "Tensor":
    """Return evenly spaced places of n, at most as many as are wanted, int64: ids often grow with the age of users."""
    import torch

    few = min(n, wanted)
    return torch.arange(few) * n // max(few, 1)


def last_events(bundle: "Bundle", past: "Past", users: "Tensor") -> "list[list[Event]]":
    """Return the last events of users before the cut, oldest first, as a stranger's request brings them."""
    from recsys.data.log import as_time

    history = past.history
    start, end = history.offsets[users], history.offsets[users + 1]
    start = start.maximum(end - CLICKS)
    found: list[list[Event]] = []
    for first, last in zip(start.tolist(), end.tolist(), strict=True):
        items = bundle.item_ids.gather(history.item[first:last].numpy()).to_list()
        types = [None if counts else OTHER for counts in history.relevant[first:last].tolist()]
        found.append([*zip(items, map(as_time, history.time[first:last].tolist()), types, strict=True)])
    return found


def answered(bundle: "Bundle", targets: "Targets", k: int, given: dict[str, Any], chunk_users: int) -> "ModelResult":
    """Evaluate what a bundle says to strangers: the users of ``targets`` without their ids.

    Args:
        bundle: That is asked.
        targets: The questions.
        k: Items of an answer.
        given: Further arguments of the request, one value for each user; none: all get the same answer.
        chunk_users: Users scored at a time.
    """
    import numpy as np
    import torch

    from recsys.columns import ITEM_ID, RANK
    from recsys.evaluation.evaluate import evaluate
    from recsys.evaluation.two_stage import PairScorer

    n = len(targets.users)
    answer = bundle.recommend([None] * (n if given else 1), k, **given)
    rows = {item: row for row, item in enumerate(bundle.item_ids.to_list())}
    item = torch.tensor([rows[i] for i in answer[ITEM_ID]])
    rank = torch.from_numpy(answer[RANK].to_numpy().copy())
    query = (rank == 1).cumsum(0) - 1
    if not given:
        query = torch.from_numpy(np.repeat(np.arange(n), len(item)))
        item, rank = item.repeat(n), rank.repeat(n)
    scorer = PairScorer("bundle", targets.n_items, targets.users, query, item, -rank.float())
    return evaluate(scorer, targets, (k,), ("all",), chunk_users)


def _some(values: Any, keep: "Tensor") -> Any:
    import polars as pl

    if isinstance(values, pl.DataFrame):
        return values.filter(pl.Series(keep.numpy()))
    return [value for value, kept in zip(values, keep.tolist(), strict=True) if kept]


def _all_null() -> "pl.Expr":
    import polars as pl

    return pl.all_horizontal(pl.all().is_null())


def _beside(
    name: str, ours: "ModelResult", rivals: "Sequence[ModelResult]", keep: "Tensor", k: int, resamples: int, seed: int
) -> ColdPath:
    """Compare what strangers get with the better popularity; ``keep`` says which of its users were asked about."""
    from recsys.evaluation.significance import paired_difference

    ndcg, recall = (ours.per_user["all"][f"{family}_at_{k}"] for family in ("ndcg", "recall"))
    theirs = {rival.name: rival.per_user["all"][f"ndcg_at_{k}"][keep] for rival in rivals}
    best = max(theirs, key=lambda rival: float(theirs[rival].double().mean()))
    return ColdPath(
        name,
        len(ndcg),
        float(ndcg.double().mean()),
        float(recall.double().mean()),
        best,
        float(theirs[best].double().mean()),
        paired_difference(ndcg, theirs[best], resamples, seed=seed),
    )


def _new_products(comparison: "Comparison | None", k: int, resamples: int, seed: int) -> list[ColdPath]:
    """Return the slice of products without an event before the window, where the comparison has it."""
    import torch

    if comparison is None or "cold_items" not in comparison.slices:
        return []
    from dataclasses import replace

    def as_all(result: "ModelResult") -> "ModelResult":
        return replace(result, per_user={"all": result.per_user["cold_items"]})

    rivals = [as_all(result) for result in comparison.results if result.name in POPULARITY]
    if not rivals:
        return []
    ours = as_all(comparison.results[0])
    keep = torch.ones(len(ours.per_user["all"][f"ndcg_at_{k}"]), dtype=torch.bool)
    return [_beside("cold_items", ours, rivals, keep, k, resamples, seed)]
