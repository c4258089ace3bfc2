"""Fits of the retriever: epochs chosen on validation, then again on everything before a time."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.config.schema import Config, ModelConfig

if TYPE_CHECKING:
    from recsys.data.dataset import FittedData
    from recsys.data.log import InteractionLog
    from recsys.data.prepared import Prepared
    from recsys.models.two_tower import TwoTower
    from recsys.tracking.run import Run
    from recsys.training.epochs import Fitted, Validate

Watch = Callable[[dict[str, float]], None]
"""Told what validation found after each epoch; what it raises ends the fit."""


def choose_epochs(
    cfg: Config,
    prepared: "Prepared",
    log: "InteractionLog",
    model: ModelConfig,
    tracked: "Run",
    folder: Path,
    watch: Watch | None = None,
) -> tuple["FittedData", "Fitted[TwoTower]"]:
    """Fit on the training window and keep the epoch that is best on the validation window."""
    import torch.distributed as dist

    from recsys.data.dataset import fit_data, microseconds
    from recsys.evaluation.evaluate import evaluate
    from recsys.evaluation.slices import make_targets
    from recsys.evaluation.towers import TowerScorer

    data = fit_data(prepared, log, prepared.windows.val_start)
    truth = log.between(data.cut, microseconds(prepared.windows.test_start))
    targets = make_targets(data.log, truth, data.eligible)
    slices = tuple({"all", *cfg.objective.metric.split("/")[1:-1]})

    def validate(towers: "TwoTower") -> dict[str, float]:
        scorer = TowerScorer(towers, data.log, data.tables, data.cut, model.history)
        shared = dist.is_available() and dist.is_initialized()  # the users among the processes of a DDP fit
        settings = cfg.evaluation
        found = evaluate(scorer, targets, settings.ks, slices, settings.chunk_users, distributed=shared).flat("val")
        if watch:
            watch(found)
        return found

    return data, fit(cfg, data, model, tracked, folder / "checkpoints", validate=validate)


def refit(cfg: Config, data: "FittedData", model: ModelConfig, epochs: int, tracked: "Run", folder: Path) -> "TwoTower":
    """Fit for a number of epochs on the events before the cut of the data."""
    return fit(cfg, data, model, tracked, folder, epochs=epochs).model


def fit(
    cfg: Config,
    data: "FittedData",
    model: ModelConfig,
    tracked: "Run",
    folder: Path,
    *,
    validate: "Validate | None" = None,
    epochs: int | None = None,
) -> "Fitted[TwoTower]":
    """Fit on the events before the cut of the data: with ``validate`` for the best number of epochs, else ``epochs``.

    Args:
        cfg: Trainer, objective and seed; where ``validate`` is given, the checkpoint to go on from, too.
        data: What it learns from.
        model: Sizes and switches.
        tracked: The open run; what is logged of a fit without ``validate`` has the name of the folder before it.
        folder: Where checkpoints go.
        validate: Measures the towers after every epoch.
        epochs: Number of epochs, when it has been chosen already.
    """
    from recsys.tracking.lightning import RunLogger
    from recsys.training.fit import fit_retriever

    return fit_retriever(
        data.log,
        data.tables,
        data.eligible,
        tower_inputs(data),
        model,
        cfg.training,
        trainer_of=trainer_factory(cfg, again=validate is None),
        folder=folder,
        seed=cfg.seed,
        objective=cfg.objective if validate else None,
        validate=validate,
        epochs=epochs,
        logger=RunLogger(tracked) if validate else RunLogger(tracked, f"{folder.name}/"),
        ckpt_path=cfg.ckpt_path if validate else None,
    )


def variants(
    cfg: Config, prepared: "Prepared", log: "InteractionLog", tracked: "Run", folder: Path
) -> Iterator[tuple[str, "FittedData", "TwoTower"]]:
    """Fit the variants of ``evaluation.variants``, one after the other, each as the main model was."""
    from recsys.data.dataset import fit_data

    switches: dict[str, dict[str, Any]] = {"content_only": {"use_ids": False}, "id_only": {"use_content": False}}
    cfg = replace(cfg, ckpt_path=None)  # it is of the main model
    for name in cfg.evaluation.variants:
        model = replace(cfg.model, **switches[name])
        _, chosen = choose_epochs(cfg, prepared, log, model, tracked, folder / name)
        data = fit_data(prepared, log, prepared.windows.test_start)
        towers = refit(cfg, data, model, chosen.epochs, tracked, folder / name / "checkpoints" / "refit")
        yield f"two_tower_{name}", data, towers


def tower_inputs(data: "FittedData") -> Any:
    """Return what the towers read: every declared feature with the size of its table or its scale."""
    from recsys.models.embeddings import FeatureInput
    from recsys.models.tower_shape import TowerInputs

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
