"""``recsys evaluate``: a bundle in; its table beside the baselines on the test window out.

``recsys train`` opens the test window with the same :func:`evaluate_bundle`, so the rows of the two tables agree. What
a bundle does not carry has none here: the parts of the ranker (``evaluation.rankers``), and trees by themselves among
the baselines.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.columns import USER_ID
from recsys.config.schema import Config, EvaluateConfig
from recsys.entries.rank_window import BOOSTING
from recsys.errors import BundleError

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from recsys.bundle.reader import Bundle
    from recsys.data.dataset import FittedData
    from recsys.data.log import InteractionLog
    from recsys.data.prepared import Prepared
    from recsys.entries.cold_paths import ColdPaths
    from recsys.entries.rank_window import RankedWindow
    from recsys.entries.ranker import SecondStage
    from recsys.evaluation.report import Comparison
    from recsys.models.two_tower import TwoTower
    from recsys.models.wide_deep import WideDeep


def run(cfg: EvaluateConfig) -> "Comparison":
    """Evaluate a bundle on the test window that it has not seen; print, save and log the table.

    Raises:
        BundleError: The bundle cannot be used, has seen the test window, or belongs to other data.
        RecsysError: Data, tracking server or output folder cannot be used.
    """
    from rich.console import Console

    from recsys.data.dataset import interaction_log
    from recsys.data.prepare import prepare
    from recsys.data.sources import check_paths
    from recsys.entries.prepare import note_access
    from recsys.entries.recommend import load
    from recsys.tracking.environment import describe
    from recsys.tracking.run import start_run

    console, folder = Console(), Path(cfg.run_dir)
    check_paths(cfg.data)  # a mistyped path shall not leave a run, or even a store, behind
    bundle = load(cfg.bundle_uri, cfg.tracking.uri)
    refuse_seen(bundle, cfg.bundle_uri)
    with start_run(cfg.tracking, folder) as tracked:
        prepared = prepare(cfg.data)
        note_access(cfg, prepared, "evaluate")
        refuse_other_data(bundle, cfg.bundle_uri, prepared)
        describe(tracked, cfg, prepared, folder)
        tracked.log_tags({"bundle_fingerprint": bundle.manifest.fingerprint})
        report = evaluate_bundle(cfg, prepared, interaction_log(prepared), bundle)
        paths = report.save(folder / "evaluation")
        tracked.log_metrics(report.metrics)
        tracked.log_file(folder / "evaluation", "evaluation")
    report.show(console)
    console.print(f"bundle          {cfg.bundle_uri}\ntable and plot  {paths[0].parent}", markup=False, soft_wrap=True)
    return report.comparison


def refuse_seen(bundle: "Bundle", uri: str) -> None:
    """Refuse a bundle whose model was fitted on the test window.

    Raises:
        BundleError: It was.
    """
    fitted_on = bundle.manifest.fitted_on
    if fitted_on == "all":
        raise BundleError(
            f"bundle_uri={uri}: fitted_on is '{fitted_on}' in its manifest, so it has seen the test window and its "
            "numbers would mean nothing; those of the model before that refit are in the manifest's metrics. "
            "Train with bundle.refit_on=train_val to have a bundle to evaluate."
        )


def refuse_other_data(bundle: "Bundle", uri: str, prepared: "Prepared") -> None:
    """Refuse data that the bundle was not made from: its windows, or even its rows, would be others.

    Raises:
        BundleError: The fingerprints differ, users were erased from one of the two alone, or the bundle was given
            further items.
    """
    own, given = bundle.manifest.data_fingerprint, prepared.fingerprint
    if own != given:
        raise BundleError(
            f"bundle_uri={uri}: made from prepared data {own[:12]}, but this configuration gives {given[:12]} "
            f"({prepared.path}); repeat the data settings of its training run (data=..., data.columns, data.split), "
            "which its config.json lists, on the same tables."
        )
    if not bundle.user_ids.equals(prepared.users[USER_ID]):
        raise BundleError(
            f"bundle_uri={uri}: knows {len(bundle.user_ids):,} users and the data {len(prepared.users):,}, and a row "
            "is not the same user in both, since recsys erase has taken people out of one of the two alone; run it "
            "again with both, cache_dirs=[...] and bundles=[...]."
        )
    if bundle.manifest.n_items != len(prepared.items):
        raise BundleError(
            f"bundle_uri={uri}: knows {bundle.manifest.n_items:,} items and the data {len(prepared.items):,}, since "
            "recsys add-items gave it further ones; evaluate the version before."
        )


def evaluate_bundle(
    cfg: Config,
    prepared: "Prepared",
    log: "InteractionLog",
    bundle: "Bundle",
    others: Iterable[tuple[str, "FittedData", "TwoTower"]] = (),
    rankers: "Mapping[str, WideDeep] | None" = None,
    stage: "SecondStage | None" = None,
) -> "Report":
    """Open the test window once: the loaded bundle, variants and baselines, all fitted on what came before it.

    Args:
        cfg: Cut-offs, baselines, objective and seed.
        prepared: The data set that the bundle was made from.
        log: Its events, from :func:`recsys.data.dataset.interaction_log`.
        bundle: Fitted before the test window.
        others: Name, data and towers of variants, fitted before the test window.
        rankers: The bundle's ranker in memory and its rivals, fitted before the test window.
        stage: What they learned from; LightGBM learns from it, too.
    """
    from recsys.data.dataset import fit_data, microseconds
    from recsys.entries.cold_paths import cold_paths
    from recsys.entries.rank_window import rank_window
    from recsys.entries.segment import segment_groups
    from recsys.evaluation.baselines import make_baseline
    from recsys.evaluation.evaluate import evaluate, fit_and_evaluate
    from recsys.evaluation.progress import progress_bar
    from recsys.evaluation.recommender import Past
    from recsys.evaluation.report import compare
    from recsys.evaluation.slices import make_targets, with_groups
    from recsys.evaluation.towers import TowerScorer

    settings, windows = cfg.evaluation, prepared.windows
    data = fit_data(prepared, log, windows.test_start)
    truth = log.between(data.cut, microseconds(windows.end))
    targets = make_targets(data.log, truth, data.eligible).at_most(settings.max_users, cfg.seed)
    targets = with_groups(targets, segment_groups(cfg, prepared, data.cut))
    past = Past(data.log, data.cut, data.tables.item, data.eligible)
    baselines = list(settings.baselines)

    ranked = rank_window(cfg, bundle, targets, rankers or {}, stage) if bundle.ranking else None
    with progress_bar() as progress:
        results = [
            evaluate(scorer, targets, settings.ks, chunk_users=settings.chunk_users, progress=progress)
            for scorer in [*(ranked.scorers if ranked else ()), BundleScorer(bundle)]
        ]
    spent = ranked.seconds if ranked else {}  # on the scores that a scorer of pairs only looks up
    results = [replace(r, score_seconds=r.score_seconds + spent.get(r.name, 0.0)) for r in results]
    for name, fitted, model in others:
        towers = TowerScorer(model, fitted.log, fitted.tables, fitted.cut, cfg.model.history)
        towers.name = name
        results.append(evaluate(towers, targets, settings.ks, chunk_users=settings.chunk_users))
    with progress_bar() as progress:
        rivals = (make_baseline(name, cfg.seed) for name in settings.baselines)
        results += fit_and_evaluate(rivals, past, targets, settings.ks, settings.chunk_users, progress)
    if ranked and ranked.has_boosting:
        baselines.insert(0, BOOSTING)
    k = cfg.objective.k
    comparison = compare(results, baselines, "test", k, settings.bootstrap, cfg.seed)
    return Report(comparison, ranked, cold_paths(cfg, bundle, targets, past, comparison))


@dataclass(frozen=True)
class Report:
    """What the test window showed.

    Attributes:
        comparison: The table.
        ranked: Candidates and probabilities of the second stage; None without one.
        cold: The same users asked about as strangers.
    """

    comparison: "Comparison"
    ranked: "RankedWindow | None"
    cold: "ColdPaths"

    @property
    def metrics(self) -> dict[str, float]:
        """Flat keys, ``test/...``."""
        from recsys.evaluation.report import metric_dict

        found = metric_dict(self.comparison) | self.cold.metrics
        return found | (self.ranked.metrics("test/ranking") if self.ranked else {})

    def save(self, folder: Path) -> list[Path]:
        """Write tables and plots into the folder; return their paths."""
        from recsys.evaluation.groups import save_groups
        from recsys.evaluation.report import save

        written = save(self.comparison, folder) + save_groups(self.comparison, folder) + self.cold.save(folder)
        return written + (self.ranked.save(folder) if self.ranked else [])

    def show(self, console: "Console") -> None:
        """Print the tables."""
        from recsys.evaluation.groups import print_groups
        from recsys.evaluation.report import print_comparison

        print_comparison(self.comparison, console)
        print_groups(self.comparison, console)
        self.cold.show(console)
        if self.ranked:
            console.print()
            self.ranked.show(console)


class BundleScorer:
    """A loaded bundle's retrieval as a scorer: over the whole catalogue, from the stored vectors."""

    name = "two_tower"

    def __init__(self, bundle: "Bundle") -> None:
        self._bundle = bundle

    def scores(self, users: "Tensor") -> "Tensor":
        """Return scores ``[B, N]`` of user rows ``[B]``; rows of the bundle are those of the prepared tables."""
        return self._bundle.scores(users)
