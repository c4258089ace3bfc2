"""The state of the second stage on disk, as Parquet and JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from recsys.data.candidate_tables import Kind, Links
from recsys.data.item_state import ItemState
from recsys.data.pair_plan import PairPlan
from recsys.data.ranking_state import CandidatePlan, CandidateTables, RankingState
from recsys.data.sessions import SessionPlan
from recsys.data.topk import NONE


def save_state(state: RankingState, folder: Path) -> None:
    """Write everything but the vectors and what :func:`load_state` is given.

    Raises:
        OSError: The place cannot be written to, or is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = state.tables
    items = state.items.table.with_columns(pl.Series("events", tables.events.numpy()))
    items.write_parquet(folder / "items.parquet")
    count = tables.links.offsets.diff()
    origin = torch.repeat_interleave(torch.arange(len(count)), count)
    links = {"item": origin.int().numpy(), "linked": tables.links.item.int().numpy()}
    pl.DataFrame(links | {"weight": tables.links.weight.numpy()}).write_parquet(folder / "links.parquet")
    group, place = (tables.popular != NONE).nonzero(as_tuple=True)
    popular_items = {"group": group.int().numpy(), "item": tables.popular[group, place].int().numpy()}
    pl.DataFrame(popular_items).write_parquet(folder / "popular.parquet")
    if tables.groups is not None:
        pl.DataFrame({"group": tables.groups.numpy()}).write_parquet(folder / "groups.parquet")
    content = {
        "cut": state.cut,
        "plan": asdict(state.plan),
        "candidates": asdict(state.candidate_plan),
        "parts": {name: list(span) for name, span in state.parts.items()},
        "popular": list(tables.popular.shape),
        "history": state.history,
        "grouped": tables.groups is not None,
        "kinds": {name: kind.share.tolist() for name, kind in tables.kinds.items()},
    }
    (folder / "state.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


def load_state(folder: Path, vectors: Tensor, item_features: Mapping[str, Tensor], eligible: Tensor) -> RankingState:
    """Read what :func:`save_state` wrote.

    Args:
        folder: Where it lies.
        vectors: Of the items, ``[N, D]``.
        item_features: Encoded, ``[N]`` or ``[N, slots]``.
        eligible: Items that may be recommended, bool ``[N]``.
    """
    content = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    table = pl.read_parquet(folder / "items.parquet")
    links = pl.read_parquet(folder / "links.parquet")
    count = torch.bincount(_tensor(links["item"]), minlength=len(table))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), count.cumsum(0)])
    listed = pl.read_parquet(folder / "popular.parquet")
    group = _tensor(listed["group"])
    groups, depth = content["popular"]
    places = torch.bincount(group, minlength=groups)
    place = torch.arange(len(group)) - (places.cumsum(0) - places)[group]
    popular_items = torch.full((groups, depth), NONE)
    popular_items[group, place] = _tensor(listed["item"])
    plan = content["plan"] | {name: tuple(content["plan"][name]) for name in ("groups", "relevant")}
    if plan.get("sessions"):
        plan["sessions"] = SessionPlan.from_plain(plan["sessions"])
    return RankingState(
        content["cut"],
        PairPlan(**plan),
        CandidatePlan(**content["candidates"]),
        CandidateTables(
            eligible,
            _tensor(table["events"]),
            {name: Kind(item_features[name], torch.tensor(share)) for name, share in content["kinds"].items()},
            Links(offsets, _tensor(links["linked"]), torch.from_numpy(links["weight"].to_numpy().copy())),
            popular_items,
            _tensor(pl.read_parquet(folder / "groups.parquet")["group"]) if content["grouped"] else None,
        ),
        ItemState(table.drop("events")),
        vectors,
        {name: (span[0], span[1]) for name, span in content["parts"].items()},
        content.get("history", 0),  # bundles from before there was attention have none
    )


def _tensor(column: pl.Series) -> Tensor:
    return torch.from_numpy(column.cast(pl.Int64).to_numpy().copy())
