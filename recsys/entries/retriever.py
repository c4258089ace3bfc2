"""Fits of the retriever: epochs chosen on validation, then again on everything before a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.config.schema import LAST, Config, ModelConfig

if TYPE_CHECKING:
    from recsys.data.dataset import FittedData
    from recsys.entries.folds import FoldData
    from recsys.models.tower_shape import TowerInputs
    from recsys.models.two_tower import TwoTower
    from recsys.tracking.run import Run
    from recsys.training.epochs import Fitted, Validate

Watch = Callable[[dict[str, float]], None]
"""Told what validation found after each epoch; what it raises ends the fit."""


def choose_epochs(
    cfg: Config,
    main: "FoldData",
    folds: "Sequence[FoldData]",
    model: ModelConfig,
    tracked: "Run",
    folder: Path,
    watch: Watch | None = None,
) -> tuple["FittedData", "Fitted[TwoTower]"]:
    """Fit on the training window, for the number of epochs that is best on what the folds are asked.

    Args:
        cfg: With the objective.
        main: The training window, with the validation window.
        folds: That the choice is made on; ``main`` alone, or others.
        model: Sizes and switches.
        tracked: The open run.
        folder: Where checkpoints go.
        watch: Told what validation found after each epoch; of several folds, after each of them the best mean so far.
    """
    from recsys.entries.folds import average, best_epoch
    from recsys.training.epochs import Fitted

    if folds[0] is main:
        return fit_fold(cfg, main, model, tracked, folder, watch)
    found: list[Sequence[dict[str, float]]] = []
    for number, fold in enumerate(folds):
        found.append(fit_fold(cfg, fold, model, tracked, folder, name=f"fold{number}")[1].results)
        cfg = replace(cfg, ckpt_path=last_only(cfg))  # a file is of the first fold
        means = average(found, cfg.objective)
        if watch:
            watch(means[best_epoch(means, cfg.objective) - 1])
    epochs, data = best_epoch(means, cfg.objective), main.fit()
    towers = refit(cfg, data, model, epochs, tracked, folder / "checkpoints" / "chosen")
    history = tuple(mean[cfg.objective.metric] for mean in means)
    return data, Fitted(towers, epochs, history[epochs - 1], history, tuple(means))


def fit_fold(
    cfg: Config,
    fold: "FoldData",
    model: ModelConfig,
    tracked: "Run",
    folder: Path,
    watch: Watch | None = None,
    name: str = "",
) -> tuple["FittedData", "Fitted[TwoTower]"]:
    """Fit on what a fold learns from, and keep the epoch that is best on what it is asked.

    Args:
        cfg: With the objective.
        fold: From :mod:`recsys.entries.folds`.
        model: Sizes and switches.
        tracked: The open run.
        folder: Where ``checkpoints`` go.
        watch: Told what validation found after each epoch.
        name: Of the fold in folders and metrics, where there are several.
    """
    import torch.distributed as dist

    from recsys.data.dataset import microseconds
    from recsys.evaluation.evaluate import evaluate
    from recsys.evaluation.slices import make_targets
    from recsys.evaluation.towers import TowerScorer

    data = fold.fit()
    asked = fold.as_asked(data)
    truth = fold.asked_log.between(data.cut, microseconds(fold.asked.windows.test_start))
    targets = make_targets(asked.log, truth, asked.eligible).at_most(cfg.evaluation.max_users, cfg.seed)
    targets.require(cfg.objective.metric)
    slices = tuple({"all", *cfg.objective.metric.split("/")[1:-1]})

    def validate(towers: "TwoTower") -> dict[str, float]:
        scorer = TowerScorer(towers, asked.log, asked.tables, data.cut, model.history)
        shared = dist.is_available() and dist.is_initialized()  # the users among the processes of a DDP fit
        settings = cfg.evaluation
        found = evaluate(scorer, targets, settings.ks, slices, settings.chunk_users, distributed=shared).flat("val")
        if watch:
            watch(found)
        return found

    return data, fit(cfg, data, model, tracked, folder / "checkpoints" / name, validate=validate, name=name)


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
    name: str = "",
) -> "Fitted[TwoTower]":
    """Fit on the events before the cut of the data: with ``validate`` for the best number of epochs, else ``epochs``.

    Args:
        cfg: Trainer, objective, seed, and the checkpoint to go on from: a file is of the fit with ``validate``.
        data: What it learns from.
        model: Sizes and switches.
        tracked: The open run.
        folder: Where checkpoints go.
        validate: Measures the towers after every epoch.
        epochs: Number of epochs, when it has been chosen already.
        name: Before what is logged of this fit; without ``validate`` that of the folder.
    """
    from recsys.entries.warm import warm_start
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
        logger=RunLogger(tracked, f"{name}/" if name else "" if validate else f"{folder.name}/"),
        ckpt_path=cfg.ckpt_path if validate else last_only(cfg),
        warm=warm_start(cfg, data),
    )


def last_only(cfg: Config) -> str | None:
    """Return ``last`` if the run goes on where it stopped, which all of its fits do; None otherwise."""
    return LAST if cfg.ckpt_path == LAST else None


def variants(
    cfg: Config, main: "FoldData", folds: "Sequence[FoldData]", tracked: "Run", folder: Path
) -> Iterator[tuple[str, "FittedData", "TwoTower"]]:
    """Fit the variants of ``evaluation.variants``, one after the other, each as the main model was."""
    from recsys.data.dataset import fit_data

    switches: dict[str, dict[str, Any]] = {"content_only": {"use_ids": False}, "id_only": {"use_content": False}}
    cfg = replace(cfg, ckpt_path=last_only(cfg), init_from=None)  # a file is of the main model, and so is a bundle
    for name in cfg.evaluation.variants:
        model = replace(cfg.model, **switches[name])
        _, chosen = choose_epochs(cfg, main, folds, model, tracked, folder / name)
        data = fit_data(main.learned, main.learned_log, main.learned.windows.test_start)
        towers = refit(cfg, data, model, chosen.epochs, tracked, folder / name / "checkpoints" / "refit")
        yield f"two_tower_{name}", data, towers


def tower_inputs(data: "FittedData") -> "TowerInputs":
    """Return what the towers read: every declared feature with the size of its table or its scale."""
    from recsys.models.embeddings import FeatureInput
    from recsys.models.tower_shape import TowerInputs

    encoder = data.encoder
    sizes = {f.name: encoder.size(f) for f in encoder.spec if f.is_categorical}
    inputs = {
        f.name: FeatureInput(f.name, sizes[f.name], width=f.width)
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
