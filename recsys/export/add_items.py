"""New products join a bundle without training: rows, vectors, places in the index and in the second stage.

::

    catalogue, vectors, index, ranking/    further rows at the end, so that every other row keeps its number
    vocabularies, towers, ranker, users    as they were: a new product's id is one that the model has not seen
    parity, profile, card, sample, manifest    made again

The vector of a new product is what the item tower says of its attributes, which it has learned with ids hidden at
random, and what it inherits of those that are like it (:mod:`recsys.export.kin`). To the tower it is first sold at the
cut: nobody has bought it, and it is not old. Where places are kept for new ones it is one, however old the bundle is.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recsys.bundle import format as part
from recsys.bundle.format import Manifest, seal
from recsys.bundle.index import ItemIndex
from recsys.bundle.parts import read_tower
from recsys.bundle.reader import Bundle
from recsys.bundle.requests import ADDED, ASOF_COLUMN, ELIGIBLE
from recsys.bundle.towers import Towers
from recsys.columns import ITEM_ID
from recsys.data.candidate_tables import Kind
from recsys.data.encode import Encoder
from recsys.data.imputation_store import load_imputer
from recsys.data.item_state import ItemState
from recsys.data.past_lines import number_items
from recsys.data.ranking_state import RankingState
from recsys.data.ranking_store import load_state, save_state
from recsys.errors import BundleError
from recsys.export.bundle import write_sample, write_vectors
from recsys.export.changes import copied, describe, prove_programs, whole
from recsys.export.index import extend_index
from recsys.export.kin import inherited
from recsys.export.new_items import attributes_of, new_rows
from recsys.export.parity_cases import item_cases, take
from recsys.files import json_bytes

NEW = {"popularity": 0.0, "age": 0.0}
"""State of a new product as the item tower reads it: nobody has bought it, and it is sold from now on."""
CERTIFICATE = "added_items"
"""Key of ``parity.json``: the certificate of what was asked again with the new products."""


@dataclass(frozen=True)
class Added:
    """What became of a bundle.

    Attributes:
        manifest: Of the new one.
        items: New products.
        missing: Attributes that were not given for any of them.
    """

    manifest: Manifest
    items: int
    missing: list[str]


def add_items(folder: str | Path, items: pl.DataFrame, target: str | Path, place: str = "items") -> Added:
    """Write a bundle that knows further products beside an old one, which stays as it is.

    Args:
        folder: Of the old bundle.
        items: ``item_id`` and attributes, as :func:`recsys.export.new_items.new_rows` takes them.
        target: Where the new bundle shall lie; nothing may be there.
        place: Where the rows come from, for messages.

    Raises:
        BundleError: The old bundle is not whole, the new one cannot be written, or does not prove what it should.
        DataError: The rows cannot be used.
    """
    source, target = Path(folder), Path(target)
    if target.exists():
        raise BundleError(f"bundle {target}: is there already; choose another place for the new one.")
    manifest = whole(source)
    old = Bundle(source, manifest)
    fills = source / part.IMPUTATION
    rows = new_rows(items, old.items, place, load_imputer(fills) if fills.is_dir() else None)
    state = [pl.lit(NEW[name], pl.Float32).alias(column) for name, column in ASOF_COLUMN.items()]
    fresh = rows.with_columns(*state, pl.lit(True).alias(ELIGIBLE), pl.lit(True).alias(ADDED))
    catalogue = pl.concat([old.items, fresh], how="diagonal").with_columns(pl.col(ADDED).fill_null(False))
    with copied(source, target, manifest) as (beside, content):
        content["n_items"] = len(catalogue)
        catalogue.write_parquet(beside / part.CATALOGUE)
        towers = Towers(beside, manifest, old.users, catalogue)
        inputs = towers.item_features | _states(catalogue)
        added = towers.items(range(len(old.items), len(catalogue)))
        added += inherited(read_tower(source / part.ITEM_TOWER), inputs, old.item_vectors, old.user_vectors)
        vectors = torch.cat([old.item_vectors, added])
        write_vectors(vectors.numpy(), catalogue[ITEM_ID], beside / part.ITEM_EMBEDDINGS)
        content["index"] = _extend_index(beside, manifest, catalogue, vectors, len(fresh), old.user_vectors)
        if manifest.ranker:
            ranking = beside / part.RANKING
            features, may = towers.item_features, torch.from_numpy(catalogue[ELIGIBLE].to_numpy().copy())
            before = load_state(ranking, old.item_vectors, _of_old(features, len(old.items)), old.eligible)
            save_state(_with_items(before, towers.inputs.encoder, catalogue, features, vectors, may), ranking)
        draft = seal(beside, **content)
        new = Bundle(beside, draft)
        _check_unmoved(old, new)
        parity = json.loads((beside / part.PARITY).read_text(encoding="utf-8"))
        asked = item_cases(inputs, towers.inputs.table)
        asked["added"] = take(inputs, torch.arange(len(old.items), len(catalogue)))
        parity[CERTIFICATE] = prove_programs(new, towers.inputs, {part.ITEM_TOWER: asked})
        (beside / part.PARITY).write_bytes(json_bytes(parity))
        describe(beside, draft)
        write_sample(new)
        sealed = seal(beside, **content)
        sealed.verify(beside)
    missing = [name for name in attributes_of(old.items) if name not in items.columns]
    return Added(sealed, len(fresh), missing)


def _extend_index(
    folder: Path, manifest: Manifest, catalogue: pl.DataFrame, vectors: Tensor, n_new: int, users: Tensor
) -> dict[str, Any]:
    """Add the last ``n_new`` items to the index in a folder; returns what the manifest says about it."""
    before = ItemIndex.load(folder / part.INDEX, manifest.index["search_width"])
    may = np.flatnonzero(catalogue[ELIGIBLE].to_numpy()).astype(np.int64)
    index, facts = extend_index(before, manifest.index, vectors.numpy()[may], may, n_new, users.numpy())
    index.save(folder / part.INDEX)
    return facts


def _of_old(features: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
    return {name: column[:n] for name, column in features.items()}


def _with_items(
    state: RankingState,
    encoder: Encoder,
    catalogue: pl.DataFrame,
    features: Mapping[str, Tensor],
    vectors: Tensor,
    eligible: Tensor,
) -> RankingState:
    """Return what the second stage reads with further items at the end, with which nothing has happened yet.

    Args:
        state: Of the items before.
        encoder: Says how many codes an attribute may have.
        catalogue: N items.
        features: Encoded, ``[N]`` or ``[N, slots]``.
        vectors: ``[N, D]``.
        eligible: bool ``[N]``.
    """
    tables, links, n = state.tables, state.tables.links, len(catalogue)
    numbered = number_items(state.plan, catalogue)
    told = state.items.table.drop([name for name in numbered.columns if name != ITEM_ID])
    size = {f.name: encoder.size(f) for f in encoder.spec.side("item") if f.is_categorical}
    return replace(
        state,
        tables=replace(
            tables,
            eligible=eligible,
            events=_padded(tables.events, n),
            kinds={k: Kind(features[k], _padded(kind.share, size[k])) for k, kind in tables.kinds.items()},
            links=replace(links, offsets=_padded(links.offsets, n + 1, int(links.offsets[-1]))),
        ),
        items=ItemState(numbered.join(told, on=ITEM_ID, how="left", maintain_order="left")),
        vectors=vectors,
    )


def _padded(values: Tensor, n: int, filler: float = 0) -> Tensor:
    """Lengthen ``[m]`` to ``[n]``."""
    return torch.cat([values, values.new_full((max(n - len(values), 0),), filler)])


def _states(catalogue: pl.DataFrame) -> dict[str, Tensor]:
    """Return popularity and age as of the cut, ``[N]``."""
    return {name: torch.from_numpy(catalogue[column].to_numpy().copy()) for name, column in ASOF_COLUMN.items()}


def _check_unmoved(old: Bundle, new: Bundle) -> None:
    """Check that the towers say of users and items of the old golden sample what they said.

    Raises:
        BundleError: They do not.
    """
    sample = json.loads((old.folder / part.SAMPLE).read_text(encoding="utf-8"))
    users, histories = ([request[key] for request in sample["requests"]] for key in ("user_id", "history"))
    items = [item["item_id"] for item in sample["items"]]
    for what, before, after in (
        ("user", old.embed_users(users, histories), new.embed_users(users, histories)),
        ("item", old.embed_items(items), new.embed_items(items)),
    ):
        if float((before - after).abs().max()) > sample["tolerance"] * float(before.abs().max()):
            raise BundleError(f"bundle {old.folder}: with further products the {what} tower answers differently.")
