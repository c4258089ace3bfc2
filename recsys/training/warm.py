"""Starts a retriever from an earlier one: rows go by id, whatever is new starts as in a model that knows nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.columns import ITEM_ID, USER_ID
from recsys.errors import ConfigError
from recsys.models.two_tower import TwoTower

REFITTED = "fold_in."
"""Where the parameters of the item factors are: every fit computes them anew."""


@dataclass(frozen=True)
class WarmStart:
    """What an earlier retriever had learned.

    Attributes:
        source: Where it was found, for messages.
        cut: Microseconds since 1970 UTC; it was fitted on the events before it.
        parameters: By the names that they have in :class:`~recsys.models.two_tower.TwoTower`.
        rows: Name of a categorical feature to the id that each of its ids has now, int64 ``[rows]``; 1 where the
            value is not known any more.
    """

    source: str
    cut: int
    parameters: Mapping[str, Tensor]
    rows: Mapping[str, Tensor]


@torch.no_grad()
def start_warm(model: TwoTower, start: WarmStart) -> int:
    """Give a model the parameters of an earlier one, and the rows of every id that both know.

    Numeric features keep the scale that their directions were learned with.

    Args:
        model: Unfitted, with its priors set: those of new items stay.
        start: Of a model with the same features and sizes.

    Returns:
        Rows of embedding tables that were taken over.

    Raises:
        ConfigError: The earlier model has other features or other sizes.
    """
    tables = {f"{name}.table.weight": feature for name, feature in id_tables(model)}
    own = {name: tensor for name, tensor in model.state_dict().items() if not _is_refitted(name)}
    theirs = {name: tensor for name, tensor in start.parameters.items() if not _is_refitted(name)}
    for name in sorted(own.keys() ^ theirs.keys()):
        raise _other(start, name, f"is in {'this' if name in own else 'the earlier'} model alone")
    taken = 0
    for name, mine in own.items():
        earlier = theirs[name].to(mine)
        feature = tables.get(name)
        rows = None if feature is None else start.rows[feature].to(mine.device)
        by_row = rows is not None and len(rows) == len(earlier) and int(rows.max()) < len(mine)
        if mine.shape[by_row:] != earlier.shape[by_row:]:
            raise _other(start, name, f"is {list(earlier.shape)} there and {list(mine.shape)} here")
        if rows is None or not by_row:  # the tables of a content-only model hold no id that is known
            mine.copy_(earlier)
            continue
        known = (rows > 1) & (torch.arange(len(rows), device=mine.device) > 1)
        mine[rows[known]] = earlier[known]
        mine[:2] = earlier[:2]  # padding and unseen
        taken += int(known.sum())
    return taken


def id_tables(model: TwoTower) -> Iterator[tuple[str, str]]:
    """Yield the name of every embedding module whose rows are ids of a feature, and that feature."""
    encoder, item, user = model.encoder, model.item_tower, model.user_tower
    of = {id(encoder.code): ITEM_ID, id(encoder.id_embedding): ITEM_ID, id(item.prior): ITEM_ID}
    of[id(user.id_embedding)] = USER_ID
    for content in (encoder.content, user.content):
        of |= {id(part): name for name, part in zip(content.names, content.parts, strict=True)}
    for name, module in model.named_modules(remove_duplicate=False):
        if id(module) in of and hasattr(module, "table"):
            yield name, of[id(module)]


def _is_refitted(name: str) -> bool:
    return REFITTED in name


def _other(start: WarmStart, name: str, what: str) -> ConfigError:
    return ConfigError(
        f"init_from={start.source}: a model of other features or sizes: parameter '{name}' {what}. Take the settings "
        "under 'model' and the features that it was trained with, or leave init_from away."
    )
