"""``recsys explain``: why a bundle's ranker puts an item where it does for a user."""

import time
from typing import TYPE_CHECKING, Any

import polars as pl

from recsys.config.schema import ExplainConfig
from recsys.errors import ConfigError, did_you_mean
from recsys.features import PAD_ID

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from recsys.bundle.reader import Bundle
    from recsys.models.explanation import Explanation


def run(cfg: ExplainConfig) -> "Explanation":
    """Print what moved the logit of one pair, and where the item stands among the user's candidates.

    Raises:
        BundleError: The bundle cannot be used, or has no ranker.
        ConfigError: The item is not in the catalogue, or there is more than one user.
        TrackingError: The tracking server cannot be reached.
    """
    import torch
    from rich.console import Console

    from recsys.data.candidates import Candidates
    from recsys.entries.recommend import asked_users, load
    from recsys.models.explanation import explain

    start = time.perf_counter()
    bundle = load(cfg.bundle, cfg.tracking_uri)
    user = asked_users(str(cfg.user), bundle)
    if len(user) > 1:
        raise ConfigError(f"user={cfg.user}: {len(user)} users; give the id of one.")
    row = item_row(cfg.item, bundle)
    requests = bundle.requests(user)
    assert bundle.ranking is not None
    ranking = bundle.ranking
    pairs = ranking.candidates(requests)
    place = (pairs.item == row).nonzero().flatten()
    scores = ranking.score(requests, pairs)
    if len(place):
        features = ranking.inputs(requests, pairs, place[:1])
        rank = int((scores[:, 0] > scores[place[0], 0]).sum()) + 1
        stands = f"rank {rank} of {len(pairs)} candidates, named by " + ", ".join(
            f"{source} ({int(found.rank[source][place[0]])}.)"
            for found in [pairs.candidates]
            for source in found.rank
            if found.rank[source][place[0]] > 0
        )
    else:
        nowhere = {name: torch.zeros(1, dtype=torch.int32) for name in ranking.state.candidate_plan.sizes}
        alone = Candidates(torch.zeros(1, dtype=torch.int64), torch.tensor([row]), nowhere)
        features = ranking.inputs(requests, alone, torch.zeros(1, dtype=torch.int64))
        stands = f"not among the {len(pairs)} candidates: no source names it high enough"
    (found,) = explain(ranking.model, features, ranking.typical | blank(features))
    probability = float(ranking.run(features)[0, 1])
    console = Console()
    stranger = "" if user[0] in bundle.user_ids else " (unknown to the bundle: answered as a stranger)"
    said = f"logit {found.logit:.3f}, calibrated probability {probability:.4f}"
    who = f"user {user[0]}{stranger}, item {bundle.item_ids[row]}"
    console.print(f"{who}: {said}; {stands}", highlight=False, markup=False)
    console.print(table(found, cfg.top))
    console.print(
        f"logit = bias + wide weights + trees ({found.trees:+.3f}) + deep part ({found.deep:+.3f}); of trees and deep "
        "part each line says how far they fall when the feature takes its typical value, one at a time "
        f"({time.perf_counter() - start:.1f} s)",
        highlight=False,
    )
    return found


def blank(features: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Return what ids are compared with: none."""
    import torch

    return {name: torch.tensor(PAD_ID) for name, ids in features.items() if not ids.is_floating_point()}


def item_row(item: Any, bundle: "Bundle") -> int:
    """Return the row of an item in the catalogue.

    Raises:
        ConfigError: There is no such item.
    """
    ids = bundle.item_ids
    text = ids.cast(pl.String)
    found = (text == str(item)).arg_true()
    if not len(found):
        near = did_you_mean(str(item), text.head(5000).to_list())
        raise ConfigError(f"item={item}: not in the catalogue of {len(ids):,} items.{near}")
    return int(found[0])


def table(found: "Explanation", top: int) -> Any:
    """Return the strongest contributions as a table."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    out = Table(title="what moved it", title_justify="left", box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title, side in (("part", "left"), ("feature", "left"), ("value", "right"), ("logit", "right")):
        out.add_column(title, justify=side)  # type: ignore[arg-type]
    for entry in [c for c in found.contributions if c.amount][:top]:
        value = f"{entry.value:.4g}" if isinstance(entry.value, float) else "" if entry.value is None else entry.value
        colour = "green" if entry.amount > 0 else "red"
        out.add_row(entry.part, escape(entry.name), escape(str(value)), f"[{colour}]{entry.amount:+.3f}[/{colour}]")
    return out
