"""``recsys train``, the main job: tables in; an evaluated and registered bundle out.

prepare ─► two-tower, epochs chosen on validation ─► ranker on snapshots, likewise ─► both refitted on train +
validation ─► bundle ─► evaluate it on the test window, beside the baselines ─► register
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.config.schema import HOLDOUT, Config

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console

    from recsys.data.dataset import FittedData
    from recsys.data.prepared import Prepared
    from recsys.evaluation.report import Comparison
    from recsys.export.bundle import ServedRanker
    from recsys.export.touchpoints import FittedTouchpoints
    from recsys.models.two_tower import TwoTower
    from recsys.models.wide_deep import WideDeep
    from recsys.segments.model import SegmentModel
    from recsys.tracking.run import Run


@dataclass(frozen=True)
class TrainResult:
    """What the main job made.

    Attributes:
        metrics: Flat keys, ``val/...`` and ``test/...``.
        comparison: The table of the test window.
        bundle: Folder of the bundle.
        model_uri: ``models:/NAME/VERSION``; None when tracking is off, or the server away.
    """

    metrics: dict[str, float]
    comparison: "Comparison"
    bundle: Path
    model_uri: str | None


def run(cfg: Config) -> TrainResult | None:
    """Run the main job; of several processes all fit, and the first does the rest, the others return None.

    Raises:
        RecsysError: Data, configuration, tracking server or output folder cannot be used; nothing half-written stays.
    """
    from rich.console import Console

    from recsys.bundle.reader import Bundle
    from recsys.data.dataset import fit_data, interaction_log, require_judged
    from recsys.data.prepare import prepare
    from recsys.data.report import data_report, print_summary
    from recsys.data.report_page import write_html
    from recsys.data.sources import check_paths
    from recsys.entries.cuts import require_labels
    from recsys.entries.evaluate import evaluate_bundle
    from recsys.entries.folds import make_folds, said
    from recsys.entries.prepare import note_access
    from recsys.entries.ranker import MAIN, choose_ranker, fit_again, fit_rankers
    from recsys.entries.retriever import choose_epochs, last_only, refit, variants
    from recsys.entries.serving import check_base_rate, check_served, served
    from recsys.entries.snapshots import refuse_unknown
    from recsys.errors import BundleError
    from recsys.export.changes import set_aside, write_metrics
    from recsys.export.touchpoints import fit_touchpoints
    from recsys.segments.features import with_segments
    from recsys.tracking.environment import describe, note_run, noted_run
    from recsys.tracking.run import is_first_process, start_run

    first = is_first_process()
    console, folder = Console(quiet=not first), Path(cfg.run_dir)
    check_paths(cfg.data)  # a mistyped path shall not leave a run, or even a store, behind
    with start_run(cfg.tracking, folder, noted_run(folder) if last_only(cfg) else None) as tracked:
        note_run(folder, tracked)
        console.rule("data")
        plain = prepare(cfg.data)
        prepared, segments = with_segments(plain, cfg.segments, cfg.seed)
        if first:
            note_access(cfg, prepared, "train")
        looked_at = data_report(prepared)
        print_summary(looked_at, console)
        write_html(looked_at, folder / "data_report.html")
        touchpoints = fit_touchpoints(cfg.touchpoints, prepared, cfg.ranker.enabled)
        require_judged(prepared)
        log = interaction_log(prepared)
        main, folds = make_folds(cfg, plain, prepared, log)
        if cfg.ranker.enabled:
            for fold in (main, *folds):
                refuse_unknown(cfg, fold.learned)
                require_labels(cfg, fold.learned)
        describe(tracked, cfg, prepared, folder)

        asked = "the validation window" if cfg.validation == HOLDOUT else f"{len(folds)} folds ({cfg.validation})"
        console.rule(f"two-tower: epochs chosen on {asked}")
        train, chosen = choose_epochs(cfg, main, folds, cfg.model, tracked, folder)
        console.print(said(chosen, cfg.objective))

        def again(until: "datetime", name: str) -> "tuple[FittedData, TwoTower]":
            data = fit_data(prepared, log, until)
            return data, refit(cfg, data, cfg.model, chosen.epochs, tracked, folder / "checkpoints" / name)

        stage, best = None, chosen.best
        if cfg.ranker.enabled:
            console.rule(f"ranker: snapshots, epochs chosen on {asked}")
            stage = choose_ranker(cfg, main, folds, train, chosen, tracked, folder)
            best = stage.fitted.best
            console.print(f"{len(stage.snapshots) - 1} snapshots; {said(stage.fitted, cfg.objective)}")

        console.rule("refit on train + validation")
        data, model = again(prepared.windows.test_start, "refit")
        rankers = fit_rankers(cfg, data, stage, tracked, folder) if stage else {}
        others = variants(cfg, main, folds, tracked, folder)

        def everything() -> "tuple[FittedData, TwoTower, WideDeep | None]":
            data, model = again(prepared.windows.end, "everything")
            place = folder / "checkpoints" / "everything_ranker"
            # the ids of other vocabularies mean nothing to the ranker of before
            return data, model, fit_again(cfg, data, stage, tracked, place) if stage else None

        if not first:
            for _ in others:
                pass
            if cfg.bundle.refit_on == "all":
                everything()
            return None
        bundle = folder / "bundle"

        def publish(
            data: "FittedData", model: "TwoTower", ranker: "WideDeep | None", fitted_on: str, metrics: dict[str, float]
        ) -> Bundle:
            """Write the bundle, and check it as whoever loads it gets it."""
            second = served(cfg, prepared, log, data, model, stage, ranker) if stage and ranker else None
            export(cfg, prepared, segments, data, model, second, bundle, fitted_on, metrics, touchpoints)
            loaded = Bundle.load(bundle)
            if stage and second:
                try:
                    check_served(loaded, prepared, log, data, model, second, cfg.model.history)
                    check_base_rate(loaded, prepared, stage.snapshots[-1])
                except BundleError as error:
                    raise BundleError(f"{error} It lies in {set_aside(bundle)}; do not serve it.") from error
            return loaded

        found = {cfg.objective.metric: best}
        loaded = publish(data, model, rankers.get(MAIN), "train_val", found)

        console.rule("test window, through the bundle")
        report = evaluate_bundle(cfg, prepared, log, loaded, others, rankers, stage)
        metrics = report.metrics | found
        report.save(folder / "evaluation")
        report.show(console)

        if cfg.bundle.refit_on == "all":
            console.rule("refit on everything, to serve")
            publish(*everything(), "all", metrics)
        else:
            write_metrics(bundle, metrics, cfg.tracking.model_name)
        tracked.log_metrics(metrics)
        tracked.log_file(folder / "evaluation", "evaluation")
        tracked.log_file(folder / "data_report.html")
        uri = tracked.register(bundle, cfg.tracking.model_name)
    summary(console, cfg, folder, metrics, tracked, uri)
    return TrainResult(metrics, report.comparison, bundle, uri)


def export(
    cfg: Config,
    prepared: "Prepared",
    segments: "SegmentModel | None",
    data: "FittedData",
    model: "TwoTower",
    second: "ServedRanker | None",
    folder: Path,
    fitted_on: str,
    metrics: dict[str, float],
    touchpoints: "FittedTouchpoints | None" = None,
) -> Path:
    """Write the bundle of a fitted model as of the cut it was fitted at."""
    import torch

    from recsys.data.log import as_time
    from recsys.export.bundle import Facts, export_bundle

    windows = {name: when.isoformat() for name, when in asdict(prepared.windows).items()}
    export_bundle(
        folder,
        user_tower=model.user_tower,
        item_tower=model.item_tower,
        encoder=data.encoder,
        users=prepared.users_as_of(data.cut),
        items=prepared.items,
        events=prepared.streamed,
        cut=as_time(data.cut),
        item_asof=data.tables.clock(data.log).state(torch.arange(data.log.n_items), data.cut),
        eligible=data.eligible,
        history=cfg.model.history,
        facts=Facts(
            cfg.tracking.model_name, windows, fitted_on, metrics, prepared.fingerprint, tuple(prepared.relevant)
        ),
        index=cfg.bundle.index,
        min_index_recall=cfg.bundle.min_index_recall,
        second=second,
        segments=segments,
        forms=cfg.bundle.forms,
        touchpoints=touchpoints,
        imputer=prepared.imputers.get("items"),
    )
    return folder


def summary(
    console: "Console", cfg: Config, folder: Path, metrics: dict[str, float], tracked: "Run", uri: str | None
) -> None:
    """Print what happened and where things are."""
    from rich.table import Table

    from recsys.export.prove import left_out

    table = Table(title="recsys train", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # a path is of use only whole
    k = cfg.objective.k
    lost = (f"{', '.join(names)}: {why}" for why, names in left_out(folder / "bundle").items())
    rows = {
        cfg.objective.metric: f"{metrics[cfg.objective.metric]:.4f}",
        f"test/ndcg_at_{k}": f"{metrics[f'test/ndcg_at_{k}']:.4f}",
        "bundle": str(folder / "bundle"),
        "not in the bundle": "; ".join(lost),
        "table and plot": str(folder / "evaluation"),
        "data report": str(folder / "data_report.html"),
        "MLflow run": tracked.place,
        "model version": uri or "not registered",
        "next": f"recsys recommend bundle={uri or folder / 'bundle'} k=20",
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value, style="bold" if name == "model version" else None)
    console.print(table)
