"""A trained two-tower model becomes a bundle: written beside its place, proven, sealed, renamed."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from recsys.bundle import format as part
from recsys.bundle.format import Manifest, seal, written_beside
from recsys.bundle.histories import ITEM_ROW, TIMESTAMP, USER_ROW, Histories, stored_histories
from recsys.bundle.past import EVENT_COLUMNS
from recsys.bundle.profiles import write_profiles
from recsys.bundle.ranking import Ranking
from recsys.bundle.reader import Bundle
from recsys.bundle.requests import ASOF, ASOF_COLUMN, ELIGIBLE, UserInputs, item_table, microseconds
from recsys.bundle.sample import golden_sample, golden_tensors
from recsys.bundle.segments import FreshSegments, item_values
from recsys.bundle.tensors import write_tensors
from recsys.bundle.towers import CHUNK
from recsys.columns import EVENT_TYPE, ITEM_ID, USER_ID, VALUE
from recsys.data.encode import Encoder
from recsys.data.imputation import Imputer
from recsys.data.imputation_store import save_imputer
from recsys.data.ranking_state import RankingState
from recsys.data.ranking_store import save_state
from recsys.errors import BundleError
from recsys.export.card import model_card
from recsys.export.index import build_index
from recsys.export.parity import Inputs, save_script, script, serving_copy
from recsys.export.parity_cases import item_cases, known_users, ranker_cases, take, user_cases
from recsys.export.parity_page import write_page
from recsys.export.profile import data_profile
from recsys.export.prove import prove
from recsys.export.touchpoints import FittedTouchpoints
from recsys.features import HISTORY, REQUEST
from recsys.files import json_bytes
from recsys.segments.model import SegmentModel
from recsys.segments.store import save_segments

LIBRARIES = ("torch", "numpy", "polars", "faiss-cpu")


@dataclass(frozen=True)
class Facts:
    """What a manifest says that the towers and tables do not show.

    Attributes:
        name: Of the model, for the card.
        windows: Name -> ISO time.
        fitted_on: ``train``, ``train_val`` or ``all``.
        metrics: Metric key -> value.
        data_fingerprint: Of the prepared data set.
        relevant: Event types that are recommended for; empty: all.
    """

    name: str
    windows: Mapping[str, str]
    fitted_on: str
    metrics: Mapping[str, float]
    data_fingerprint: str
    relevant: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServedRanker:
    """What the ranker of a bundle consists of.

    Attributes:
        ranker: Scriptable, ``Dict[str, Tensor] -> [P, 2]``, logit and probability.
        state: As of the cut of the bundle.
        temperature: Of the retriever.
        typical: Name of each numeric feature to its median over training pairs, NaN where it is mostly missing.
    """

    ranker: nn.Module
    state: RankingState
    temperature: float
    typical: Mapping[str, float]


def export_bundle(
    folder: str | Path,
    *,
    user_tower: nn.Module,
    item_tower: nn.Module,
    encoder: Encoder,
    users: pl.DataFrame,
    items: pl.DataFrame,
    events: Sequence[pl.LazyFrame],
    cut: datetime,
    item_asof: Mapping[str, Tensor],
    eligible: Tensor,
    history: int,
    facts: Facts,
    index: str,
    min_index_recall: float,
    second: ServedRanker | None = None,
    segments: SegmentModel | None = None,
    forms: str = "onnx",
    touchpoints: FittedTouchpoints | None = None,
    imputer: Imputer | None = None,
) -> Manifest:
    """Write a bundle and return its manifest; an existing folder is replaced at the end, or not at all.

    Args:
        folder: Where the bundle shall lie.
        user_tower: Scriptable, ``Dict[str, Tensor] -> [B, D]``, on any device.
        item_tower: Scriptable, ``Dict[str, Tensor] -> [B, D]``, on any device.
        encoder: As fitted with the towers.
        users: ``user_id`` and attributes, U rows, unique.
        items: ``item_id`` and attributes, N rows, unique.
        events: ``user_id, item_id, timestamp`` in time order within each user, in one part or more, all of a user in
            one; those at or after the cut are left out.
        cut: Only events before it shape vectors and histories.
        item_asof: ``popularity`` and ``age`` as the item tower reads them, float32 ``[N]``, as of the cut.
        eligible: Items that may be recommended, bool ``[N]``.
        history: L, the last events that the user tower reads.
        facts: For the manifest and the card.
        index: ``ivf``, ``hnsw`` or ``flat``.
        min_index_recall: Least recall@100 of the index against exact search.
        second: Ranker and what it reads; None for retrieval alone.
        segments: Where users have ``segment_KIND`` attributes: what puts strangers into segments.
        forms: Of the models, ``torchscript``, ``torch.export`` or ``onnx``; each brings those before it along.
        touchpoints: What its answers are asked for; None for a bundle without.
        imputer: What filled the attributes of items, and fills those of products that are added; None for nothing.

    Raises:
        BundleError: A compiled tower differs from the eager one, the index finds too little, or the folder cannot
            be written.
    """
    target = Path(folder)
    towers = {"user": serving_copy(user_tower), "item": serving_copy(item_tower)}
    scripted = {side: script(tower) for side, tower in towers.items()}
    before = [some.filter(pl.col(TIMESTAMP) < cut) for some in events]
    parts = [_stored(some.collect(), users, items, history, second is not None, facts.relevant) for some in before]
    past = pl.concat(parts).sort(USER_ROW, maintain_order=True)
    catalogue = _catalogue(items, item_asof, eligible)
    if segments is not None and VALUE in before[0].collect_schema():
        catalogue = catalogue.with_columns(item_values(pl.concat(before).collect(), items))
    with written_beside(target) as beside:
        _write_tables(beside, users, catalogue, past, encoder, touchpoints)
        if imputer is not None:
            save_imputer(imputer, beside / part.IMPUTATION)
        save_script(scripted["user"], beside / part.USER_TOWER)
        save_script(scripted["item"], beside / part.ITEM_TOWER)

        histories = Histories.load(beside / part.HISTORIES, len(users))
        table = item_table(encoder, items)
        kinds = {"user": _id_type(users[USER_ID]), "item": _id_type(items[ITEM_ID])}
        strangers = None
        if segments is not None:
            strangers = FreshSegments.load(save_segments(segments, beside / part.SEGMENTS), catalogue)
        inputs = UserInputs(encoder, users, table, histories, history, kinds["user"], strangers)
        now = microseconds(cut, "cut")

        encoded = {name: column[1:-1] for name, column in table.items()}
        item_inputs = encoded | {name: item_asof[name].detach().cpu().float() for name in ASOF}
        item_vectors = _in_chunks(towers["item"], lambda rows: take(item_inputs, rows), len(items))
        user_vectors = _in_chunks(towers["user"], lambda rows: known_users(inputs, rows, now), len(users))
        write_vectors(user_vectors, users[USER_ID], beside / part.USER_EMBEDDINGS)
        write_vectors(item_vectors, items[ITEM_ID], beside / part.ITEM_EMBEDDINGS)
        known = {"user": torch.from_numpy(user_vectors), "item": torch.from_numpy(item_vectors)}

        may = eligible.cpu().numpy()
        built, measured = build_index(
            item_vectors[may], np.flatnonzero(may).astype(np.int64), user_vectors, index, min_index_recall
        )
        built.save(beside / part.INDEX)

        cases = {"user": user_cases(inputs, now), "item": item_cases(item_inputs, table)}
        if second:
            towers["ranker"] = serving_copy(second.ranker)
            scripted["ranker"] = script(towers["ranker"])
            _write_ranker(beside, scripted["ranker"], second)
            ids, temperature = items[ITEM_ID], second.temperature
            ranking = Ranking(beside, known["item"], eligible.cpu(), ids, encoded, temperature, len(users), {})
            cases["ranker"] = ranker_cases(ranking, inputs, known["user"], now)
        parity = prove(towers, scripted, cases, known, beside, forms)
        (beside / part.PARITY).write_bytes(json_bytes(parity))
        write_page(parity, facts.name, beside / part.PARITY_PAGE)
        (beside / part.PROFILE).write_bytes(json_bytes(data_profile(encoder, inputs, item_inputs)))

        content: dict[str, Any] = {
            "similarity": "dot",
            "width": item_vectors.shape[1],
            "history_length": history,
            "n_users": len(users),
            "n_items": len(items),
            "user_id_type": kinds["user"],
            "item_id_type": kinds["item"],
            "relevant": [*facts.relevant],
            "cut": cut.isoformat(),
            "windows": dict(facts.windows),
            "fitted_on": facts.fitted_on,
            "features": encoder.spec.to_list(),
            "signatures": {side: _signature(cases[side]["odd"]) for side in towers},
            "ranker": {"temperature": second.temperature} if second else {},
            "index": measured,
            "metrics": {key: float(value) for key, value in facts.metrics.items()},
            "libraries": {name: version(name) for name in LIBRARIES},
            "data_fingerprint": facts.data_fingerprint,
        }
        draft = seal(beside, **content)
        (beside / part.CARD).write_text(model_card(draft, parity, facts.name), encoding="utf-8")
        write_sample(Bundle(beside, draft))
        manifest = seal(beside, **content)
        manifest.verify(beside)
    return manifest


def _write_tables(
    folder: Path,
    users: pl.DataFrame,
    catalogue: pl.DataFrame,
    past: pl.DataFrame,
    encoder: Encoder,
    touchpoints: FittedTouchpoints | None,
) -> None:
    """Write the parts that no model is needed for."""
    users.write_parquet(folder / part.USERS)
    catalogue.write_parquet(folder / part.CATALOGUE)
    past.write_parquet(folder / part.HISTORIES)
    encoder.save(folder / part.VOCABULARIES)
    if touchpoints is not None:
        write_profiles(folder, touchpoints.profiles, touchpoints.price)
    shutil.copyfile(Path(part.__file__).with_name(part.FORMAT_PAGE), folder / part.FORMAT_PAGE)


def _write_ranker(folder: Path, scripted: torch.jit.ScriptModule, second: ServedRanker) -> None:
    save_script(scripted, folder / part.RANKER)
    save_state(second.state, folder / part.RANKING)
    medians = {name: value if value == value else None for name, value in second.typical.items()}
    (folder / part.RANKING / part.TYPICAL).write_bytes(json_bytes(medians))


def write_sample(bundle: Bundle) -> None:
    """Ask a bundle, not yet sealed, for its golden sample, and write that beside its other parts."""
    sample = golden_sample(bundle)
    (bundle.folder / part.SAMPLE).write_bytes(json_bytes(sample))
    write_tensors(golden_tensors(bundle, sample), bundle.folder / part.TENSORS)


def _stored(
    events: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame, history: int, whole: bool, relevant: Sequence[str]
) -> pl.DataFrame:
    """Replace ids by rows and keep what a reader needs of the past: for a second stage, all of it."""
    kept = EVENT_COLUMNS if whole else (EVENT_TYPE,) if relevant else ()
    others = [name for name in kept if name in events.columns]
    rows = events.select(USER_ID, ITEM_ID, pl.col("timestamp").alias(TIMESTAMP), *others)
    for frame, key, row in ((users, USER_ID, USER_ROW), (items, ITEM_ID, ITEM_ROW)):
        numbered = frame.select(key).with_row_index(row)
        rows = rows.join(numbered, on=key, how="inner", maintain_order="left")
    if len(rows) < len(events):
        raise BundleError(f"events: {len(events) - len(rows)} rows have a user or item that its table does not have.")
    stored = stored_histories(rows, None if whole else history, relevant)
    return stored if whole else stored.drop(EVENT_TYPE, strict=False)


def _catalogue(items: pl.DataFrame, item_asof: Mapping[str, Tensor], eligible: Tensor) -> pl.DataFrame:
    columns = [pl.Series(ASOF_COLUMN[name], item_asof[name].detach().cpu().float().numpy()) for name in ASOF]
    return items.with_columns(*columns, pl.Series(ELIGIBLE, eligible.cpu().numpy()))


def _id_type(ids: pl.Series) -> str:
    return "int" if ids.dtype.is_integer() else "str"


def _in_chunks(tower: nn.Module, inputs_of: Any, n: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Run a tower over rows 0 to n - 1; float32 ``[n, D]``."""
    with torch.inference_mode():
        vectors = [tower(inputs_of(torch.arange(s, min(s + CHUNK, n)))) for s in range(0, n, CHUNK)]
    return torch.cat(vectors).numpy()


def _signature(example: Inputs) -> dict[str, dict[str, Any]]:
    """Return name -> dtype and shape; ``B`` and ``L`` are free, and so is ``R`` where B pairs are of R requests."""
    out = {}
    owner = "R" if REQUEST in example else "B"
    for name, column in sorted(example.items()):
        free = [owner, "L"] if name.startswith(HISTORY) else ["B"]
        out[name] = {"dtype": str(column.dtype).removeprefix("torch."), "shape": [*free, *column.shape[len(free) :]]}
    return out


def write_vectors(vectors: np.ndarray[Any, Any], ids: pl.Series, path: Path) -> None:
    """Write ``id, vector``, a row for each of the ids."""
    column = pl.Series("vector", vectors, dtype=pl.Array(pl.Float32, vectors.shape[1]))
    pl.DataFrame([ids.rename("id"), column]).write_parquet(path)
