"""What a plan says of the tables: a sample of their rows, prepared as the whole will be, and the windows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.config.schema import Config
from recsys.planning.plan import Plan

if TYPE_CHECKING:
    from recsys.config.data import DataConfig
    from recsys.data.prepared import Prepared
    from recsys.entries.probe_basis import Basis
    from recsys.planning.sample import Sampled
    from recsys.planning.tables import Glimpse, Header


def look_at_tables(
    plan: Plan, cfg: Config, headers: "Sequence[Header]", folder: Path
) -> "tuple[dict[str, Glimpse], Sampled | None, Prepared | None]":
    """Look at some rows of each table, and prepare them as the whole will be."""
    from recsys.data.sources import CONSENT, resolve
    from recsys.planning.sample import (
        consent_problems,
        find_prepared,
        prepare_sample,
        type_problems,
        window_problems,
    )
    from recsys.planning.show import bytes_text
    from recsys.planning.tables import glimpse

    data = resolve(cfg.data)
    glimpses: dict[str, Glimpse] = {}
    for one in headers:
        with plan.trying():
            seen = glimpse(one)
            glimpses[one.key] = seen
            size = bytes_text(seen.size) if seen.size is not None else "size unknown"
            rows = f"{seen.rows:,} rows" if seen.is_counted else f"about {seen.rows:,} rows"
            unused = f"; not used: {', '.join(seen.unused)}" if seen.unused else ""
            used = ", ".join(name if name == own else f"{name} ({own})" for name, own in seen.columns.items())
            plan.say("tables", one.key, f"{seen.files} file(s), {size}, {rows}; {used}{unused}")
    if len(glimpses) < len(headers):
        return glimpses, None, None
    problems, notes = type_problems(data, glimpses["events"])
    plan.problems += problems
    plan.notes += notes
    if CONSENT in glimpses:
        plan.problems += consent_problems(data, glimpses[CONSENT])
    if not glimpses["events"].is_spread:
        plan.notes.append(
            f"data.events={glimpses['events'].path}: of text in quotes, or compressed, only the first rows are looked "
            "at; the windows below are theirs."
        )
    _partitions(plan, cfg.data, glimpses["events"])
    if not plan.is_ready:
        return glimpses, None, None
    sampled, known = None, None
    with plan.trying():
        sampled = prepare_sample(data, glimpses, folder)
        unusable = ", ".join(f"{reason} {count:,}" for reason, count in sampled.unusable.items())
        plan.say("tables", "rows looked at", f"{sampled.rows:,} events; cannot be used: {unusable or 'none'}")
        plan.problems += window_problems(data.split, sampled.prepared, glimpses["events"])
        known = find_prepared(cfg.data)
        told = f"yes, {known.path}: its numbers are used below" if known else "no: what is below is estimated"
        if not known and all(one.is_whole for one in glimpses.values()):
            told = "no; the tables are small, so that what is below is exact"
        plan.say("tables", "prepared before", told)
    return glimpses, sampled, known


def _partitions(plan: Plan, data: "DataConfig", events: "Glimpse") -> None:
    if events.size is None and (data.partitions > 1 or data.memory_gib is not None):
        key = f"data.partitions={data.partitions}" if data.partitions > 1 else f"data.memory_gib={data.memory_gib}"
        plan.problems.append(
            f"{key}: data.events={events.path} lies on no disk, and partitions need one; mount it, copy it, or set "
            "data.partitions=1 data.memory_gib=null."
        )


def find_windows(
    plan: Plan, cfg: Config, glimpses: "Mapping[str, Glimpse]", sampled: "Sampled", known: "Prepared | None"
) -> "Basis | None":
    """Say where the windows lie, and encode what the models are probed on."""
    from recsys.entries.probe_basis import basis_of, exact_or_first

    basis = None
    with plan.trying():
        if known is not None:
            prepared, events = exact_or_first(known)
            basis = basis_of(cfg, prepared, events)
        else:
            seen = glimpses["events"]
            kept = sampled.prepared.report["rows"]["kept"]
            events = kept if seen.is_whole else round(kept / seen.share)
            most = {key: glimpses[key].rows if key in glimpses else None for key in ("users", "items")}
            basis = basis_of(cfg, sampled.prepared, events, most["users"], most["items"])
        about = "" if basis.is_exact else "about "
        for name, (start, end) in basis.prepared.windows.bounds().items():
            plan.say("windows", name, f"{about}{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC")
        plan.say(
            "windows",
            "size",
            f"{about}{basis.events:,} events of {basis.users:,} users and {basis.items:,} items, {basis.train:,} of "
            "them to train on",
        )
    return basis
