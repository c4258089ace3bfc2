"""What a plan says of the models: what they need of the data, and a few steps of each."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from recsys.config.schema import Config
from recsys.config.tune import TuneConfig
from recsys.errors import did_you_mean
from recsys.planning.plan import Plan

if TYPE_CHECKING:
    from recsys.entries.probe_basis import Basis
    from recsys.planning.sample import Sampled
    from recsys.planning.tables import Glimpse


def probe_models(
    plan: Plan,
    cfg: Config,
    trained: Config,
    basis: "Basis",
    sampled: "Sampled",
    glimpses: "Mapping[str, Glimpse]",
    is_prepared: bool,
) -> None:
    """Probe the models, and say what the run needs.

    Args:
        plan: To add to.
        cfg: Of the job.
        trained: Of what is fitted.
        basis: What the models are probed on.
        sampled: What became of the sample of the tables.
        glimpses: Of the tables.
        is_prepared: Whether they have been prepared before.
    """
    from recsys.data.dataset import require_judged
    from recsys.entries.plan_needs import say_needs
    from recsys.entries.probe import probe_ranker, probe_retriever, world_of
    from recsys.entries.probe_basis import learners
    from recsys.planning.forecast import Sizes
    from recsys.planning.places import free_memory

    memory, world = free_memory(), world_of(cfg)
    if basis.is_exact:  # of few purchases a sample may have none
        with plan.trying():
            require_judged(basis.prepared, *(("train", "val") if isinstance(cfg, TuneConfig) else ()))
    _catalogue(plan, cfg, basis)
    _touchpoints(plan, cfg, basis)
    if trained.ranker.enabled:
        trained = _second_stage(plan, trained, basis, memory)
    retriever = ranker = None
    if plan.is_ready:
        with plan.trying():
            retriever = probe_retriever(trained, basis, memory, world)
    if plan.is_ready and trained.ranker.enabled:
        with plan.trying():
            ranker = probe_ranker(trained, basis, world, learners(trained, basis))
    if retriever is None or not plan.is_ready:
        return
    frame = basis.prepared.events
    sizes = Sizes(
        rows=glimpses["events"].rows,
        events=basis.events,
        train=basis.train,
        users=basis.users,
        items=basis.items,
        is_prepared=is_prepared,
        is_exact=basis.is_exact,
        event_bytes=frame.estimated_size() / max(len(frame), 1),
    )
    say_needs(plan, cfg, trained, sizes, [retriever, ranker] if ranker else [retriever], sampled.bytes_an_event, memory)


def _touchpoints(plan: Plan, cfg: Config, basis: "Basis") -> None:
    """Say which touchpoints the bundle will have, and which filters the data do not allow."""
    from recsys.export.touchpoints import fit_touchpoints

    with plan.trying():
        fitted = fit_touchpoints(cfg.touchpoints, basis.prepared, cfg.ranker.enabled)
        if fitted.profiles:
            plan.say("export", "touchpoints", ", ".join(fitted.profiles))
        for name, profile in fitted.profiles.items():
            plan.notes += [f"touchpoints.profiles.{name} goes without {gone}." for gone in profile.left_out]


def _catalogue(plan: Plan, cfg: Config, basis: "Basis") -> None:
    few = [k for k in cfg.evaluation.ks if k > basis.items]
    if few:
        plan.notes.append(
            f"evaluation.ks={few}: there are {'' if basis.is_exact else 'about '}{basis.items:,} items, so a list "
            "of so many holds all of them."
        )


def _second_stage(plan: Plan, cfg: Config, basis: "Basis", memory: float) -> Config:
    """Check what the ranker needs of the data; returns the configuration without tasks that a sample lacks."""
    from recsys.columns import EVENT_TYPE
    from recsys.entries.cuts import cuts, require_labels
    from recsys.entries.probe import refuse_crosses, refuse_large_ranker
    from recsys.entries.snapshots import refuse_unknown

    events, wanted = basis.prepared.events, cfg.ranker.training.snapshots
    if not basis.is_exact and EVENT_TYPE in events.columns:
        types = [str(kind) for kind in events[EVENT_TYPE].drop_nulls().unique()]
        rare = [task for task in cfg.ranker.tasks if task not in types and not did_you_mean(task, types)]
        tasks = [task for task in cfg.ranker.tasks if task not in rare]
        cfg = replace(cfg, ranker=replace(cfg.ranker, tasks=tasks))
        plan.notes += [f"ranker.tasks: no event of the sample has the type '{task}'." for task in rare]
    with plan.trying():
        refuse_unknown(cfg, basis.prepared)
        if basis.is_exact:  # of few purchases a sample may have none
            require_labels(cfg, basis.prepared)
        refuse_crosses(cfg, basis)
        refuse_large_ranker(cfg, basis, memory)
        fitting = len(cuts(cfg, basis.prepared))
        if fitting < wanted:
            plan.notes.append(
                f"ranker.training.snapshots={wanted}: {fitting} of them lie in the training window with enough before "
                "them; set ranker.training.stride_days lower for more."
            )
    return cfg
