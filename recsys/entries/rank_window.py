"""The second stage on the test window: candidates and features once, through the bundle, and every ranker on them."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.config.schema import Config

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from recsys.bundle.ranking import Ranking
    from recsys.bundle.reader import Bundle
    from recsys.data.candidates import Candidates
    from recsys.entries.ranker import SecondStage
    from recsys.evaluation.coverage import Coverage
    from recsys.evaluation.importance import Importance
    from recsys.evaluation.ranking import Reliability
    from recsys.evaluation.slices import Targets
    from recsys.evaluation.two_stage import PairScorer
    from recsys.models.wide_deep import WideDeep

CHUNK_USERS = 256
"""Users whose candidates are in memory at a time."""
BOOSTING = "lightgbm"
"""Name of the trees by themselves in tables."""
MOST_IMPORTANT = 25
"""Features that the console shows."""
WIDE = 100
"""Columns that a console needs for the whole table of candidates."""
ACTIVITY = ("few items", "some items", "many items")
"""Thirds of the users by the items they had: the segments whose probabilities are looked at apart."""


@dataclass(frozen=True)
class RankedWindow:
    """What the second stage said of the users of a window.

    Attributes:
        scorers: The bundle's ranker, then its rivals.
        seconds: Name to the time that candidates, features and ranking took; as if each had been alone.
        coverage: Share of the truth among the candidates, by source.
        quality: ``auc``, ``log_loss``, ``ece`` and so on, of all pairs.
        curves: Probabilities against observed rates.
        importance: What the ranker's features are worth, the most important first; empty unless asked for.
        k: Cut-off of the NDCG that this is measured in: that of the objective.
        has_boosting: Whether the trees by themselves are one of the rivals.
    """

    scorers: "list[PairScorer]"
    seconds: dict[str, float]
    coverage: "list[Coverage]"
    quality: dict[str, float]
    curves: "dict[str, Reliability]"
    importance: "list[Importance]"
    k: int
    has_boosting: bool

    def metrics(self, root: str) -> dict[str, float]:
        """Return flat keys below ``root``."""
        found = {f"{root}/{key.replace(' ', '_')}": value for key, value in self.quality.items() if value == value}
        for entry in self.coverage:
            found |= {f"{root}/coverage/{entry.source}/{part}": share for part, share in entry.recall.items()}
        return found

    def save(self, folder: Path) -> list[Path]:
        """Write ``candidates.json``, ``ranking.json``, the reliability plot and the importances into the folder."""
        from recsys.evaluation import importance, reliability
        from recsys.evaluation.coverage import coverage_rows
        from recsys.files import json_bytes, write_all

        paths = reliability.save(self.curves, folder)
        if self.importance:
            paths += importance.save(self.importance, folder, self.k)
        contents = {"candidates.json": coverage_rows(self.coverage), "ranking.json": self.quality}
        return paths + write_all(folder, {name: json_bytes(content) for name, content in contents.items()})

    def show(self, console: "Console") -> None:
        """Print coverage, quality and importances."""
        from recsys.evaluation.coverage import coverage_table
        from recsys.evaluation.importance import importance_table

        console.print(coverage_table(self.coverage, whole=console.width >= WIDE))
        console.print()
        q = self.quality
        console.print(
            f"pairs ranked: AUC {q['auc']:.4f}, GAUC {q['gauc']:.4f}, log loss {q['log_loss']:.4f}, normalized entropy "
            f"{q['normalized_entropy']:.4f}, expected calibration error {q['ece']:.4f} "
            f"(mean probability {q['mean_probability']:.4f}, base rate {q['base_rate']:.4f})",
            highlight=False,
        )
        if self.importance:
            console.print(importance_table(self.importance[:MOST_IMPORTANT], self.k))


def rank_window(
    cfg: Config,
    bundle: "Bundle",
    targets: "Targets",
    rankers: "Mapping[str, WideDeep]",
    stage: "SecondStage | None",
) -> RankedWindow:
    """Rank the candidates of all users of a window by the loaded bundle, and by rivals on the same features.

    Args:
        cfg: Which rivals.
        bundle: With a second stage, fitted before the window.
        targets: The window.
        rankers: Rankers in memory; the bundle's own, which is measured through the bundle, is not looked at.
        stage: With the trees that are measured by themselves; None leaves them out.
    """
    import torch

    from recsys.entries.ranker import MAIN
    from recsys.evaluation.coverage import coverage
    from recsys.evaluation.two_stage import PairScorer, ranking_metrics
    from recsys.training.fit_ranker import predict

    assert bundle.ranking is not None
    rivals = {name: model for name, model in rankers.items() if name != MAIN}
    trees = stage.forest if stage and BOOSTING in cfg.evaluation.rankers else None
    query, item, looked_at = [], [], []
    values: dict[str, list[Tensor]] = {}
    seconds: dict[str, float] = {}

    def say(name: str, scores: "Tensor", start: float, before: float) -> None:
        values.setdefault(name, []).append(scores)
        seconds[name] = seconds.get(name, 0.0) + before + time.perf_counter() - start

    def ranked(ranking: "Ranking") -> "Iterator[tuple[Tensor, Mapping[str, Tensor], Candidates]]":
        """Rank a few users at a time; yield what their sources named, which nobody keeps."""
        for rows in torch.arange(len(targets.users)).split(CHUNK_USERS):
            users = targets.users[rows]
            start = time.perf_counter()
            requests = bundle.requests(bundle.user_ids.gather(users.numpy()))
            pairs = ranking.candidates(requests)
            shared = time.perf_counter() - start
            start = time.perf_counter()
            say(MAIN, ranking.score(requests, pairs), start, shared)
            start = time.perf_counter()
            features = ranking.inputs(requests, pairs, torch.arange(len(pairs)))
            shared += time.perf_counter() - start
            for name, model in rivals.items():
                start = time.perf_counter()
                say(name, predict(model, features), start, shared)
            if trees is not None:
                start = time.perf_counter()
                say(BOOSTING, trees(features), start, shared)
            if len(rows) and rows[0] < cfg.evaluation.importance:
                looked_at.append(features)
            query.append(pairs.query + rows[0])
            item.append(pairs.item)
            yield users, pairs.lists, pairs.candidates

    covered = coverage(ranked(bundle.ranking), targets)
    whole_query, whole_item = torch.cat(query), torch.cat(item)
    found = {name: torch.cat(parts) for name, parts in values.items()}
    main = found[MAIN]
    labels = targets.find(targets.users[whole_query], whole_item[:, None])[0][:, 0].float()
    quality, curves = ranking_metrics(
        main[:, 0], main[:, 1], labels, whole_query, activity(targets)[whole_query], ACTIVITY
    )
    warn_if_off(quality, float(labels.sum()))
    scorers = [
        PairScorer(
            name, targets.n_items, targets.users, whole_query, whole_item, main[:, 0] if name == MAIN else scores,
            bundle.scores,
        )
        for name, scores in found.items()
    ]  # fmt: skip
    worth = importances(bundle.ranking, looked_at, labels, whole_query, cfg) if looked_at else []
    k = cfg.objective.k
    return RankedWindow(scorers, seconds, covered, quality, curves, worth, k, trees is not None)


def warn_if_off(quality: "Mapping[str, float]", positives: float) -> None:
    """Say where probabilities are far from rates: an error before the window, in it perhaps a change of behaviour."""
    import logging

    from recsys.entries.serving import is_off

    mean, rate = quality["mean_probability"], quality["base_rate"]
    if is_off(mean, rate, positives):
        logging.getLogger(__name__).warning(
            "the mean probability of the pairs ranked is %.4g, their base rate %.4g: users behave otherwise than "
            "before the window, or the data of the two differ; the order of items need not suffer, but do not rely on "
            "the probabilities before they are calibrated on newer data.",
            mean,
            rate,
        )


def importances(
    ranking: "Ranking", features: "list[dict[str, Tensor]]", labels: "Tensor", query: "Tensor", cfg: Config
) -> "list[Importance]":
    """Return what the features are worth to the bundle's ranker, by the pairs of the first users."""
    from recsys.data.recent import join_pairs
    from recsys.evaluation.importance import families, permutation_importance
    from recsys.features import HISTORY, REQUEST

    joined = join_pairs(features)
    histories = {name: values for name, values in joined.items() if name.startswith(HISTORY)}
    of_pairs = {name: values for name, values in joined.items() if name not in histories}
    request = of_pairs.pop(REQUEST, None)
    groups = families(of_pairs, ranking.state.plan.prefixes)
    if request is not None:  # a pair of another request sees another history
        of_pairs["history"] = request

    def score(some: "dict[str, Tensor]") -> "Tensor":
        """Return the logits of pairs."""
        shown = {REQUEST: some["history"]} if histories else {}
        return ranking.run(some | shown | histories)[:, 0]

    pairs = len(next(iter(of_pairs.values())))
    return permutation_importance(
        score,
        of_pairs,
        labels[:pairs],
        query[:pairs],
        k=cfg.objective.k,
        groups=groups,
        repeats=1,
        seed=cfg.seed,
        most_groups=cfg.evaluation.importance,
    )


def activity(targets: "Targets") -> "Tensor":
    """Return which third of the users, by items they had, each user of the window belongs to, int64 ``[T]``."""
    import numpy as np
    import torch

    had = torch.bincount(targets.seen_keys // targets.n_items, minlength=int(targets.users.max()) + 1)[targets.users]
    thirds = np.quantile(had.numpy(), (1 / 3, 2 / 3))  # torch's own takes 16 million users at most
    return torch.bucketize(had, torch.from_numpy(thirds))
