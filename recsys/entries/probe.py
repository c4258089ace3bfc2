"""A few steps of each model on real or made inputs: parameters, time, memory of a step; and a dry export."""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from recsys.config.schema import Config
from recsys.entries.probe_basis import STEPS, Basis, grown_rows, made_log, made_pairs, whole_inputs
from recsys.entries.ranker_fit import crosses, id_inputs
from recsys.errors import ConfigError
from recsys.planning.forecast import Fit, batch_bytes, limited, steps_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from recsys.data.log import InteractionLog
    from recsys.data.tables import FeatureTables
    from recsys.models.two_tower import TwoTower
    from recsys.models.wide import IdInput

BUDGET, PATIENCE = 2.0, 5.0
"""Seconds of a probe after which no third step is begun, and no second one."""
FEW = 64
"""Pairs that the scripted ranker is compared on."""


def count_parameters(model: "nn.Module", parts: dict[str, "nn.Module"]) -> tuple[dict[str, int], float]:
    """Return the parameters of each part, those of several parts in the first of them; and the share in embeddings.

    Args:
        model: The whole.
        parts: Name to part, in the order in which they are counted; what is in none is ``other``.
    """
    from torch import nn

    counted: set[int] = set()
    sizes: dict[str, int] = {}
    for name, part in (*parts.items(), ("other", model)):
        own = {id(p): p.numel() for p in part.parameters() if id(p) not in counted}
        counted |= own.keys()
        sizes[name] = sum(own.values())
    tables = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding)}
    total = sum(sizes.values())
    return {name: size for name, size in sizes.items() if size}, sum(tables.values()) / max(total, 1)


def probe_retriever(cfg: Config, basis: Basis, memory: float, world: int) -> Fit:
    """Count, time and export the two-tower model.

    Args:
        cfg: Sizes of model and batches.
        basis: The data, or a sample.
        memory: Bytes that may be taken.
        world: Processes that train together.

    Raises:
        ConfigError: Model, or batch, does not fit into the memory.
        BundleError: A scripted tower differs from the eager one.
    """
    import torch

    from recsys.data.batches import MomentBatches
    from recsys.data.moments import moments_of
    from recsys.data.place import batch_size
    from recsys.training.fit import make_model
    from recsys.training.optimizers import may_be_sparse, retriever_optimizer
    from recsys.training.task import retrieval_loss

    inputs, context = whole_inputs(basis), list(basis.data.tables.context)
    sparse = may_be_sparse(world, cfg.trainer.get("gradient_clip_val"))
    with torch.device("meta"):
        empty = make_model(inputs, context, cfg.model, sparse)
    parts = {"item encoder": empty.encoder, "factors": empty.fold_in}
    sizes, tables = count_parameters(empty, parts | {"user tower": empty.user_tower, "item tower": empty.item_tower})
    moments = len(moments_of(basis.data.log)) / min(basis.share, 1.0)
    fit = Fit(sizes, tables, 0, (0.0,), steps_of(moments, cfg, world), 0)
    if fit.state_bytes > memory:
        raise ConfigError(
            f"model.width={cfg.model.width}, model.code_width={cfg.model.code_width}, model.factor_width="
            f"{cfg.model.factor_width}: {fit.size:,} parameters take {fit.state_bytes / 2**30:.1f} GiB to train, and "
            f"{memory / 2**30:.1f} GiB of memory are free; set lower widths."
        )
    log, tables_of = (basis.data.log, basis.data.tables) if basis.is_exact else made_log(cfg, basis, inputs)
    _refuse_large_batch(cfg, log, memory)
    model = make_model(inputs, context, cfg.model, sparse)
    batches = MomentBatches(
        log,
        history=cfg.model.history,
        batch_moments=batch_size(int(moments), cfg.training.batch_moments, cfg.training.epoch_batches, world),
        moments_per_block=cfg.training.moments_per_block,
        negatives=cfg.training.negatives,
        popularity_days=tables_of.popularity_days,
        seed=cfg.seed,
    )
    training = cfg.training
    optimizer = retriever_optimizer(
        model, lr=training.learning_rate, embedding_lr=training.embedding_learning_rate, weight_decay=0.0
    )
    seconds, held = take_steps(
        model, optimizer, batches, lambda batch: retrieval_loss(model, batch, tables_of, batches)
    )
    exported = export_towers(cfg, model, log, tables_of)
    return replace(fit, held=held, seconds=seconds, exported=exported)


def _refuse_large_batch(cfg: Config, log: "InteractionLog", memory: float) -> None:
    import torch

    longest = int(torch.bincount(log.user).max())
    history = min(cfg.model.history, longest)
    moments = min(cfg.training.batch_moments, len(log))
    inside = replace(cfg, training=replace(cfg.training, batch_moments=moments))
    needed = batch_bytes(inside, history, moments + cfg.training.negatives)
    if needed > memory:
        raise ConfigError(
            f"training.batch_moments={cfg.training.batch_moments}, training.negatives={cfg.training.negatives}, "
            f"model.history={cfg.model.history}: a step keeps {needed / 2**30:.1f} GiB or more, and "
            f"{memory / 2**30:.1f} GiB of memory are free; set one of them lower."
        )


def take_steps(
    model: "nn.Module", optimizer: Any, batches: Iterable[Any], loss_of: "Callable[[Any], Tensor]"
) -> tuple[tuple[float, ...], int]:
    """Train for a few steps.

    Returns:
        Seconds of the steps after the first, or of the first where there is no other; and the bytes that a step keeps
        for its gradients, without the parameters.
    """
    import torch

    own = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: "Tensor") -> "Tensor":
        storage = tensor.untyped_storage() if tensor.layout == torch.strided else None
        if storage is not None and storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    seconds: list[float] = []
    held, begun = 0, time.perf_counter()
    for batch in chain.from_iterable(repeat(batches, STEPS)):  # an epoch may have a single one
        start = time.perf_counter()
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = loss_of(batch)
        held = max(held, sum(kept.values()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        if len(seconds) == STEPS or time.perf_counter() - begun > (PATIENCE if len(seconds) == 1 else BUDGET):
            break
    return tuple(seconds[1:] or seconds), held


def export_towers(cfg: Config, model: "TwoTower", log: "InteractionLog", tables: "FeatureTables") -> int:
    """Script both towers and compare them with themselves; returns their bytes.

    Raises:
        BundleError: A scripted tower differs.
    """
    import torch

    from recsys.data.tables import requests_as_of
    from recsys.export.parity import certificate, compare, script, serving_copy

    width = model.fold_in.width
    if width:  # without factors there is nothing to solve for
        ids = tables.item["item_id"]
        model.fold_in.start_from(ids, 0.1 * torch.randn(len(ids), width), cfg.model.factor_regularization, 1.0)
    cut = int(log.time.max()) + 1
    users = torch.arange(min(log.n_users, 3))
    rows = torch.arange(min(log.n_items, 3))
    inputs = {
        "user": requests_as_of(log, tables, users, cut, min(cfg.model.history, 64)),
        "item": tables.items(rows) | tables.clock(log).state(rows, cut),
    }
    found, size = [], 0
    for side, tower in (("user", model.user_tower), ("item", model.item_tower)):
        copy = serving_copy(tower)
        scripted = script(copy)
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # which takes seconds, for inputs that are seen once
            found += compare(side, "torchscript", copy, scripted, {"a few rows": inputs[side]})
        size += script_bytes(scripted)
    certificate(found)
    return size


def script_bytes(scripted: Any) -> int:
    """Return the bytes that a scripted module takes as a file."""
    tensors = [*scripted.parameters(), *scripted.buffers()]
    return sum(t.numel() * t.element_size() for t in tensors) + 2**17


def probe_ranker(cfg: Config, basis: Basis, world: int, groups: int) -> Fit:
    """Count, time and export the ranker, on made pairs.

    Args:
        cfg: With ``ranker``.
        basis: The data, or a sample.
        world: Processes that train together.
        groups: Users at a cut that it learns from, about.

    Raises:
        ConfigError: A feature is not there.
        BundleError: The scripted ranker differs from the eager one.
    """
    import torch

    from recsys.data.pair_batches import PairBatches
    from recsys.data.place import batch_size
    from recsys.data.recent import take_pairs
    from recsys.export.parity import certificate, compare, script, serving_copy
    from recsys.models.calibration import CalibratedRanker, PlattScale
    from recsys.training.fit_ranker import encode_pairs, make_ranker
    from recsys.training.optimizers import may_be_sparse
    from recsys.training.ranker_task import ranker_loss, ranker_optimizer

    settings, training = cfg.ranker, cfg.ranker.training
    ids, crossed = whole_ids(basis), crosses(settings, basis.data)
    made = made_pairs(cfg, basis)
    sparse = may_be_sparse(world, cfg.trainer.get("gradient_clip_val"))
    model = make_ranker(made, settings, ids, crossed, sparse)
    sizes, tables = count_parameters(model, {"wide part": model.wide, "deep part": model.deep})
    encoded = encode_pairs(model, made.features)
    size = batch_size(groups, training.batch_groups, training.epoch_batches, world)
    batches = PairBatches(
        encoded,
        made.labels,
        made.rate.reciprocal(),
        made.group,
        batch_groups=size,
        seed=cfg.seed,
    )
    seconds, held = take_steps(
        model,
        ranker_optimizer(model, training),
        batches,
        lambda batch: ranker_loss(model.score(batch.encoded), batch, training.loss, training.bce_weight),
    )
    copy = serving_copy(CalibratedRanker(model, PlattScale()))
    scripted = script(copy)
    few = take_pairs(made.features, torch.arange(min(len(made), FEW)))
    with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        certificate(compare("ranker", "torchscript", copy, scripted, {"a few pairs": few}))
    steps = limited(max(groups // (size * world), 1), cfg.trainer)
    raw, kept = (sum(t.nbytes for t in one.values()) / len(made) for one in (made.features, encoded))
    return Fit(sizes, tables, held, seconds, steps, script_bytes(scripted), raw, kept)


def whole_ids(basis: Basis) -> "tuple[IdInput, ...]":
    """Return what a ranker of the whole would know of categorical features."""
    grown = {} if basis.is_exact else grown_rows(basis)
    return tuple(replace(one, rows=grown.get(one.name, one.rows)) for one in id_inputs(basis.data))


def refuse_large_ranker(cfg: Config, basis: Basis, memory: float) -> None:
    """Refuse a ranker whose tables do not fit into the memory.

    Raises:
        ConfigError: With what they take.
    """
    settings, ids, crossed = cfg.ranker, whole_ids(basis), crosses(cfg.ranker, basis.data)
    rows = sum(one.rows for one in ids)
    needed = 16.0 * (sum(one.buckets for one in crossed) + rows * (settings.width + 1))
    if needed > memory:
        raise ConfigError(
            f"ranker.cross_buckets={settings.cross_buckets}, ranker.width={settings.width}: {len(crossed)} crosses and "
            f"{rows:,} embeddings take {needed / 2**30:.1f} GiB to train, and {memory / 2**30:.1f} GiB of memory are "
            "free; set lower ones, or fewer ranker.crosses."
        )


def refuse_crosses(cfg: Config, basis: Basis) -> None:
    """Refuse crosses of what is no feature with one id a pair; nothing is allocated for it.

    Raises:
        ConfigError: With the features that may be crossed.
    """
    import torch

    from recsys.models.wide import WidePart

    with torch.device("meta"):
        WidePart(id_inputs(basis.data), crosses(cfg.ranker, basis.data), (), (), 1, 1)


def world_of(cfg: Config) -> int:
    """Return how many processes train together."""
    import torch

    from recsys.planning.forecast import processes

    return processes(cfg.trainer, torch.cuda.device_count() if torch.cuda.is_available() else 0)
