"""``recsys train``, the main job: tables in; an evaluated and registered bundle out.

prepare ─► choose the epochs on validation ─► refit on train + validation ─► bundle ─► evaluate it on the test
window, beside the baselines ─► register
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.config.schema import Config, ModelConfig

if TYPE_CHECKING:
    from rich.console import Console

    from recsys.data.dataset import FittedData
    from recsys.data.log import InteractionLog
    from recsys.data.prepared import Prepared
    from recsys.evaluation.report import Comparison
    from recsys.models.two_tower import TwoTower
    from recsys.tracking.run import Run
    from recsys.training.fit import FitResult


@dataclass(frozen=True)
class TrainResult:
    """What the main job made.

    Attributes:
        metrics: Flat keys, ``val/...`` and ``test/...``.
        comparison: The table of the test window.
        bundle: Folder of the bundle.
        model_uri: ``models:/NAME/VERSION``; None when tracking is off.
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

    from recsys.bundle.export import write_metrics
    from recsys.bundle.reader import Bundle
    from recsys.data.dataset import interaction_log
    from recsys.data.prepared import prepare
    from recsys.data.report import data_report, print_summary
    from recsys.data.report_page import write_html
    from recsys.data.sources import check_paths
    from recsys.entries.evaluate import evaluate_bundle
    from recsys.evaluation.report import metric_dict, print_comparison
    from recsys.evaluation.report import save as save_comparison
    from recsys.tracking.environment import describe
    from recsys.tracking.registry import register_bundle
    from recsys.tracking.run import is_first_process, start_run

    first = is_first_process()
    console, folder = Console(quiet=not first), Path(cfg.run_dir)
    check_paths(cfg.data)  # a mistyped path shall not leave a run, or even a store, behind
    with start_run(cfg.tracking) as tracked:
        console.rule("data")
        prepared = prepare(cfg.data)
        report = data_report(prepared)
        print_summary(report, console)
        write_html(report, folder / "data_report.html")
        log = interaction_log(prepared)
        describe(tracked, cfg, prepared, folder)

        console.rule("two-tower: epochs chosen on the validation window")
        chosen = choose_epochs(cfg, prepared, log, cfg.model, tracked, folder)
        console.print(
            f"best of {len(chosen.history)} epochs: {chosen.epochs}, {cfg.objective.metric} {chosen.best:.4f}"
        )

        console.rule("two-tower: refit on train + validation")
        data, model = refit(cfg, prepared, log, cfg.model, chosen, tracked, folder)
        others = variants(cfg, prepared, log, tracked, folder)
        if not first:
            for _ in others:
                pass
            if cfg.bundle.refit_on == "all":
                refit(cfg, prepared, log, cfg.model, chosen, tracked, folder, everything=True)
            return None
        bundle = export(cfg, prepared, data, model, folder / "bundle", "train_val", {cfg.objective.metric: chosen.best})

        console.rule("test window, through the bundle")
        comparison = evaluate_bundle(cfg, prepared, log, Bundle.load(bundle), others)
        metrics = metric_dict(comparison) | {cfg.objective.metric: chosen.best}
        save_comparison(comparison, folder / "evaluation")
        print_comparison(comparison, console)

        if cfg.bundle.refit_on == "all":
            console.rule("two-tower: refit on everything, to serve")
            data, model = refit(cfg, prepared, log, cfg.model, chosen, tracked, folder, everything=True)
            bundle = export(cfg, prepared, data, model, folder / "bundle", "all", metrics)
        else:
            write_metrics(bundle, metrics, cfg.tracking.model_name)
        tracked.log_metrics(metrics)
        tracked.log_file(folder / "evaluation", "evaluation")
        tracked.log_file(folder / "data_report.html")
        uri = register_bundle(bundle, cfg.tracking.model_name)[1] if tracked.run_id else None
    summary(console, cfg, folder, metrics, tracked, uri)
    return TrainResult(metrics, comparison, bundle, uri)


def choose_epochs(
    cfg: Config, prepared: "Prepared", log: "InteractionLog", model: ModelConfig, tracked: "Run", folder: Path
) -> "FitResult":
    """Fit on the training window and keep the epoch that is best on the validation window."""
    import torch.distributed as dist

    from recsys.data.dataset import fit_data, microseconds
    from recsys.evaluation.evaluate import evaluate
    from recsys.evaluation.slices import make_targets
    from recsys.evaluation.towers import TowerScorer
    from recsys.tracking.lightning import RunLogger
    from recsys.training.fit import fit_retriever

    data = fit_data(prepared, log, prepared.windows.val_start)
    truth = log.between(data.cut, microseconds(prepared.windows.test_start))
    targets = make_targets(data.log, truth, data.eligible)
    slices = tuple({"all", *_slice_of(cfg.objective.metric)})

    def validate(towers: "TwoTower") -> dict[str, float]:
        scorer = TowerScorer(towers, data.log, data.tables, data.cut, model.history)
        shared = dist.is_available() and dist.is_initialized()  # the users among the processes of a DDP fit
        result = evaluate(scorer, targets, cfg.evaluation.ks, slices, cfg.evaluation.chunk_users, distributed=shared)
        return {
            f"val/{key}" if part == "all" else f"val/{part}/{key}": value
            for part, values in result.metrics.items()
            for key, value in values.items()
        }

    return fit_retriever(
        data.log,
        data.tables,
        data.eligible,
        tower_inputs(data),
        model,
        cfg.training,
        trainer_of=trainer_factory(cfg),
        folder=folder / "checkpoints",
        seed=cfg.seed,
        objective=cfg.objective,
        validate=validate,
        logger=RunLogger(tracked),
        ckpt_path=cfg.ckpt_path,
    )


def refit(
    cfg: Config,
    prepared: "Prepared",
    log: "InteractionLog",
    model: ModelConfig,
    chosen: "FitResult",
    tracked: "Run",
    folder: Path,
    everything: bool = False,
) -> tuple["FittedData", "TwoTower"]:
    """Fit again for the chosen number of epochs on all that is known when the test window opens, or on everything."""
    from recsys.data.dataset import fit_data
    from recsys.tracking.lightning import RunLogger
    from recsys.training.fit import fit_retriever

    windows = prepared.windows
    data = fit_data(prepared, log, windows.end if everything else windows.test_start)
    fitted = fit_retriever(
        data.log,
        data.tables,
        data.eligible,
        tower_inputs(data),
        model,
        cfg.training,
        trainer_of=trainer_factory(cfg, again=True),
        folder=folder / "checkpoints" / "refit",
        seed=cfg.seed,
        epochs=chosen.epochs,
        logger=RunLogger(tracked, "refit/"),
    )
    return data, fitted.model


def variants(
    cfg: Config, prepared: "Prepared", log: "InteractionLog", tracked: "Run", folder: Path
) -> Iterator[tuple[str, "FittedData", "TwoTower"]]:
    """Fit the variants of ``evaluation.variants``, one after the other, each as the main model was."""
    switches: dict[str, dict[str, Any]] = {"content_only": {"use_ids": False}, "id_only": {"use_content": False}}
    for name in cfg.evaluation.variants:
        model = replace(cfg.model, **switches[name])
        chosen = choose_epochs(cfg, prepared, log, model, tracked, folder / name)
        yield (f"two_tower_{name}", *refit(cfg, prepared, log, model, chosen, tracked, folder / name))


def tower_inputs(data: "FittedData") -> Any:
    """Return what the towers read: every declared feature with the size of its table or its scale."""
    from recsys.models.embeddings import FeatureInput
    from recsys.models.two_tower import TowerInputs

    encoder = data.encoder
    sizes = {f.name: encoder.size(f) for f in encoder.spec if f.is_categorical}
    inputs = {
        f.name: FeatureInput(f.name, sizes[f.name])
        if f.is_categorical
        else FeatureInput(f.name, 0, encoder.scales[f.name].center, encoder.scales[f.name].spread)
        for f in encoder.spec
    }
    return TowerInputs(
        item_rows=sizes["item_id"],
        user_rows=sizes["user_id"],
        item=tuple(inputs[f.name] for f in encoder.spec.side("item") if f.name != "item_id"),
        user=tuple(inputs[f.name] for f in encoder.spec.side("user", "context") if f.name != "user_id"),
    )


def trainer_factory(cfg: Config, again: bool = False) -> Callable[..., Any]:
    """Return a function that makes Lightning's Trainer from the config and further arguments.

    Args:
        cfg: With ``trainer`` and ``callbacks``.
        again: Whether the model has been fitted before, so that its summary has been shown.
    """
    from hydra.utils import instantiate
    from pytorch_lightning.callbacks import ModelSummary

    def make(callbacks: list[Any], **arguments: Any) -> Any:
        extra = [instantiate(callback) for callback in cfg.callbacks.values()]
        extra = [callback for callback in extra if not (again and isinstance(callback, ModelSummary))]
        return instantiate(cfg.trainer, callbacks=[*callbacks, *extra], enable_checkpointing=True, **arguments)

    return make


def export(
    cfg: Config,
    prepared: "Prepared",
    data: "FittedData",
    model: "TwoTower",
    folder: Path,
    fitted_on: str,
    metrics: dict[str, float],
) -> Path:
    """Write the bundle of a fitted model as of the cut it was fitted at."""
    from datetime import UTC, datetime, timedelta

    import torch

    from recsys.bundle.export import Facts, export_bundle
    from recsys.data.asof import ItemClock

    windows = {name: when.isoformat() for name, when in asdict(prepared.windows).items()}
    export_bundle(
        folder,
        user_tower=model.user_tower,
        item_tower=model.item_tower,
        encoder=data.encoder,
        users=prepared.users,
        items=prepared.items,
        events=prepared.events,
        cut=datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=data.cut),
        item_asof=ItemClock(data.log).state(torch.arange(data.log.n_items), data.cut),
        eligible=data.eligible,
        history=cfg.model.history,
        facts=Facts(cfg.tracking.model_name, windows, fitted_on, metrics, prepared.fingerprint),
        index=cfg.bundle.index,
        min_index_recall=cfg.bundle.min_index_recall,
    )
    return folder


def summary(
    console: "Console", cfg: Config, folder: Path, metrics: dict[str, float], tracked: "Run", uri: str | None
) -> None:
    """Print what happened and where things are."""
    from rich.table import Table

    table = Table(title="recsys train", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # a path is of use only whole
    k = cfg.objective.metric.rpartition("_")[2]
    rows = {
        cfg.objective.metric: f"{metrics[cfg.objective.metric]:.4f}",
        f"test/ndcg_at_{k}": f"{metrics[f'test/ndcg_at_{k}']:.4f}",
        "bundle": str(folder / "bundle"),
        "table and plot": str(folder / "evaluation"),
        "data report": str(folder / "data_report.html"),
        "MLflow run": f"{tracked.run_id} at {tracked.uri}" if tracked.run_id else "tracking is off",
        "model version": uri or "not registered",
        "next": f"recsys recommend bundle={uri or folder / 'bundle'} k=20",
    }
    for name, value in rows.items():
        table.add_row(name, value, style="bold" if name == "model version" else None)
    console.print(table)


def _slice_of(metric: str) -> list[str]:
    parts = metric.split("/")
    return parts[1:-1]
