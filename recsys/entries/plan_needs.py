"""What a run needs, as rows of its plan: parameters, memory, time, the export, and room on the disks."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from recsys.config.schema import Config
from recsys.config.tune import TuneConfig
from recsys.planning.forecast import (
    SPREAD,
    Fit,
    Sizes,
    bundle_bytes,
    device_bytes,
    disk_bytes,
    fits_seconds,
    host_stages,
    ranker_fits,
    retriever_fits,
    trial_fits,
)
from recsys.planning.places import disk_problems, standing
from recsys.planning.plan import Plan
from recsys.planning.show import bytes_text, time_text

NAMES = ("two-tower", "ranker")


def say_needs(
    plan: Plan,
    cfg: Config,
    trained: Config,
    sizes: Sizes,
    fits: Sequence[Fit],
    bytes_an_event: float,
    memory: float,
) -> None:
    """Say what is needed, and add what there is not enough of to the problems.

    Args:
        plan: To add to.
        cfg: Of the job.
        trained: Of what is fitted.
        sizes: Of the data.
        fits: Of the retriever, and of the ranker where one is fitted.
        bytes_an_event: Of a prepared event on the disk.
        memory: That is free.
    """
    prefixes = ("", "at most ") if sizes.is_exact else ("about ", "about ")  # numbers of few values have fewer knots
    for name, most, fit in zip(NAMES, prefixes, fits, strict=False):
        parts = ", ".join(f"{part} {size:,}" for part, size in fit.parameters.items())
        plan.say("model", name, f"{most}{fit.size:,} parameters: {parts}")
    _memory(plan, cfg, trained, sizes, fits, memory)
    _time(plan, cfg, trained, fits)
    bundle = bundle_bytes(trained, sizes, fits)
    plan.say("export", "TorchScript", f"{' and '.join(NAMES[: len(fits)])}: scripted, and equal to the eager form")
    plan.say("export", "bundle", f"about {bytes_text(bundle)}")
    _disk(plan, cfg, trained, sizes, fits, bytes_an_event, bundle)


def _memory(plan: Plan, cfg: Config, trained: Config, sizes: Sizes, fits: Sequence[Fit], memory: float) -> None:
    is_tune = isinstance(cfg, TuneConfig)
    stages = host_stages(trained, sizes, fits[0], fits[1] if len(fits) > 1 else None, evaluates=not is_tune)
    largest = max(stages, key=lambda name: stages[name])
    low, high = (factor * stages[largest] for factor in SPREAD)
    text = f"{bytes_text(low)} to {bytes_text(high)} at the peak, in stage {largest}; {bytes_text(memory)} are free"
    plan.say("forecast", "host memory", text)
    remedies = {
        "prepare": "set data.memory_gib, which prepares in partitions",
        "two-tower": "set model.width, model.history or training.batch_moments lower",
        "ranker": "set ranker.training.max_users or ranker.candidates.limit lower",
        "evaluation": "take evaluation=quick, or set evaluation.chunk_users lower",
    }
    said = f"data.events of {sizes.events:,} events: stage {largest} takes {bytes_text(low)} to {bytes_text(high)}, and"
    if low > memory:
        plan.problems.append(
            f"{said} {bytes_text(memory)} of memory are free; {remedies[largest]}, or take more memory."
        )
    elif high > memory:
        plan.notes.append(f"{said} only {bytes_text(memory)} of memory are free; if it fails, {remedies[largest]}.")
    if trained.trainer.get("accelerator") in ("gpu", "cuda"):
        _gpu_memory(plan, device_bytes(sizes, fits))


def _gpu_memory(plan: Plan, needed: float) -> None:
    import torch

    there = torch.cuda.get_device_properties(0).total_memory
    low, high = (factor * needed for factor in SPREAD)
    plan.say("forecast", "GPU memory", f"{bytes_text(low)} to {bytes_text(high)}; a device has {bytes_text(there)}")
    if low > there:
        plan.problems.append(
            f"trainer.accelerator=gpu: a fit takes {bytes_text(low)} or more, and a device has {bytes_text(there)}; "
            "set model.width, model.history or training.batch_moments lower."
        )


def _time(plan: Plan, cfg: Config, trained: Config, fits: Sequence[Fit]) -> None:
    """Say how long the fits would take, from the steps timed on this CPU."""
    is_gpu = trained.trainer.get("accelerator") in ("gpu", "cuda")
    is_tune = isinstance(cfg, TuneConfig)
    counts = trial_fits(trained) if is_tune else (retriever_fits(trained), ranker_fits(trained))
    epochs = (trained.training.max_epochs, trained.ranker.training.max_epochs)
    total = [0.0, 0.0]
    for name, fit, count, most in zip(NAMES, fits, counts, epochs, strict=False):
        quick, slow = min(fit.seconds), max(fit.seconds)
        low, high = fits_seconds(fit, 1, 1)
        own = fits_seconds(fit, count, most)
        total = [a + b for a, b in zip(total, own, strict=True)]
        times = f"{count} fits" + " a trial" * is_tune
        plan.say(
            "forecast",
            name,
            f"{time_text(quick)} to {time_text(slow)} a step, {fit.steps:,} steps and {time_text(low)} to "
            f"{time_text(high)} an epoch; {times} of 1 to {most} epochs",
        )
    what = "a trial" if is_tune else "all fits"
    on = "on this CPU; a GPU is faster" if is_gpu else "on this machine"
    text = f"{what}: {time_text(total[0])} to {time_text(total[1])} {on}; preparing, factors and evaluation come on top"
    plan.say("forecast", "time", text)
    if isinstance(cfg, TuneConfig) and cfg.trials is not None:
        once = (0.0, 0.0)
        if cfg.search and all(key.startswith("ranker.") for key in cfg.search):  # trials share their retriever
            once = fits_seconds(fits[0], counts[0], epochs[0])
        low, high = (cfg.trials * whole - (cfg.trials - 1) * part for whole, part in zip(total, once, strict=True))
        plan.say("forecast", "study", f"{cfg.trials} trials by one worker: {time_text(low)} to {time_text(high)}")


def _disk(
    plan: Plan,
    cfg: Config,
    trained: Config,
    sizes: Sizes,
    fits: Sequence[Fit],
    bytes_an_event: float,
    bundle: float,
) -> None:
    is_tune = isinstance(cfg, TuneConfig)
    needed = {("hydra.run.dir", cfg.run_dir): 50.0 * 2**20 if is_tune else disk_bytes(trained, fits, bundle)}
    if not sizes.is_prepared:
        copies = 2.0 if cfg.data.partitions > 1 or cfg.data.memory_gib is not None else 1.0
        needed["data.cache_dir", cfg.data.cache_dir] = copies * bytes_an_event * sizes.events
    if cfg.tracking.enabled and not is_tune:
        needed["tracking.uri", "."] = bundle
    for (key, folder), size in needed.items():
        free = shutil.disk_usage(standing(Path(folder))).free
        shown = "mlruns" if key == "tracking.uri" else folder
        plan.say("writes", key, f"{shown}: about {bytes_text(size)}; {bytes_text(free)} free")
    plan.problems += disk_problems(needed)
