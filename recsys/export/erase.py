"""People leave a bundle: their rows, their values, their weights and their place in the golden sample.

::

    users, vectors, histories, groups    without their rows; the rows behind them move up
    vocabularies                         null where their id was, so that every other id keeps its number and meaning
    towers and ranker                    zero where their own weights were; ONNX models are made again
    profile, card, sample, manifest      made again

What the model has learned from everybody together (items, layers, hashed crosses) stays until it is trained again.
"""

import io
import re
import shutil
import warnings
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from recsys.bundle import format as part
from recsys.bundle.format import seal
from recsys.bundle.histories import USER_ROW
from recsys.bundle.parts import read_tower
from recsys.bundle.reader import Bundle
from recsys.bundle.requests import microseconds
from recsys.bundle.towers import Towers
from recsys.columns import ITEM_ID, SCORE, USER_ID
from recsys.data.encode import Encoder
from recsys.errors import BundleError
from recsys.export.bundle import write_sample
from recsys.export.changes import ONNX, PROGRAM, copied, describe, prove_programs, whole
from recsys.export.onnx_form import export_onnx, missing_libraries
from recsys.export.parity import save_script
from recsys.export.parity_cases import user_cases
from recsys.features import FIRST_ID

_WHOLE = re.compile(r"0|-?[1-9][0-9]*")  # how an integer is written: 007 names nobody whose id is 7
ASKED, PROOF_K = 20, 20
"""Users, at most, whose answers are compared with a stranger's, and items of an answer."""


def erase_from_bundle(folder: str | Path, users: Collection[str]) -> int:
    """Take people out of a bundle and return how many it had; the folder changes at the end, or not at all.

    What an earlier call left beside the folder when it was killed is put right first, so calling again is enough.

    Args:
        folder: Of the bundle.
        users: Their ids as text, and their pseudonyms.

    Raises:
        BundleError: The bundle is not whole, nobody else is in it, or its towers are of a form that is not known.
    """
    target = Path(folder)
    finish(target)
    manifest = whole(target)
    before = pl.read_parquet(target / part.USERS)
    gone = before[USER_ID].cast(pl.String).is_in(sorted(users))
    if not gone.any():
        return 0
    if gone.all():
        raise BundleError(
            f"bundle {target}: all of its {len(before)} users are to be erased, so nothing would be left to answer;"
            " delete the bundle."
        )
    with copied(target, target, manifest) as (beside, content):
        content["n_users"] = len(before) - int(gone.sum())
        encoder, lost = Encoder.load(beside / part.VOCABULARIES).forget(before, before.filter(~gone))
        _drop_rows(beside, gone)
        encoder.save(beside / part.VOCABULARIES)
        for name in (part.USER_TOWER, part.RANKER):
            if (beside / name).is_file():
                _forget_weights(beside / name, lost)
        draft = seal(beside, **content)
        bundle = Bundle(beside, draft)
        inputs = Towers(beside, draft, bundle.users, bundle.items).inputs
        now = microseconds(datetime.fromisoformat(draft.cut), "cut")
        prove_programs(bundle, inputs, {part.USER_TOWER: user_cases(inputs, now)})
        describe(beside, draft)
        write_sample(bundle)
        seal(beside, **content).verify(beside)
    return int(gone.sum())


def knows(folder: Path, users: Collection[str]) -> bool:
    """Return whether a bundle has a row for one of the users (ids as text, and pseudonyms)."""
    ids = pl.read_parquet(folder / part.USERS)[USER_ID]
    return bool(ids.cast(pl.String).is_in(sorted(users)).any())


def prove_gone(folder: Path, users: Collection[str]) -> int:
    """Load a bundle and check that it answers its sample, and users as it answers a stranger; return how many it asked.

    Args:
        folder: Of the bundle.
        users: Ids as text, and pseudonyms; those that are no ids of the bundle's type cannot be asked for.

    Raises:
        BundleError: The bundle cannot be used, or still knows somebody.
    """
    bundle = Bundle.load(folder)
    bundle.check_sample()
    if knows(folder, users):
        raise BundleError(f"bundle {folder}: it still knows people who were erased; erase them again.")
    as_int = bundle.manifest.user_id_type == "int"
    ids = [int(user) if as_int else user for user in sorted(users) if not as_int or _WHOLE.fullmatch(user)]
    asked = ids[:ASKED]
    stranger = bundle.recommend([None], PROOF_K).select(ITEM_ID, SCORE)
    for user in asked:  # alone, as the stranger was: sums of a larger batch differ in the last digit
        if not bundle.recommend([user], PROOF_K).select(ITEM_ID, SCORE).equals(stranger):
            raise BundleError(f"bundle {folder}: it does not answer somebody who was erased as it answers a stranger.")
    return len(asked)


def finish(target: Path) -> None:
    """Put right what a call left beside ``target`` when it was killed: the old folder is moved back, copies go."""
    if not target.exists():
        for old in target.parent.glob(f".{target.name}.old.*/bundle"):
            old.replace(target)
            break
    if target.exists():
        for left in target.parent.glob(f".{target.name}.*"):
            if left.is_dir():
                shutil.rmtree(left)


def _drop_rows(folder: Path, gone: pl.Series) -> None:
    """Drop the rows of users in every table that has one a user, and renumber those who stay."""
    stay = ~gone
    for name in (part.USERS, part.USER_EMBEDDINGS, f"{part.RANKING}/groups.parquet"):
        if (folder / name).is_file():
            pl.read_parquet(folder / name).filter(stay).write_parquet(folder / name)
    events = pl.read_parquet(folder / part.HISTORIES)
    new_row = pl.Series(np.cumsum(stay.to_numpy()) - 1, dtype=pl.Int64).cast(events.schema[USER_ROW], strict=False)
    kept = events.filter(stay.gather(events[USER_ROW]))
    kept.with_columns(new_row.gather(kept[USER_ROW]).alias(USER_ROW)).write_parquet(folder / part.HISTORIES)


def _forget_weights(path: Path, lost: Mapping[str, list[int]]) -> None:
    """Set the weights of lost ids to zero, which is what an unseen id has, in a script and the forms beside it.

    An ONNX model is made again from the program, or goes where the libraries for it are not installed. The inputs that
    a program was exported with, histories of real users, become zeros too.
    """
    module = read_tower(path)
    rows = list(_rows(module, lost, path.name))
    weights = dict(module.named_parameters())
    with torch.no_grad():
        for name, places in rows:
            weights[name][places] = 0.0
    save_script(module, path)
    program_path = path.with_suffix(PROGRAM)
    if not program_path.is_file():
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler, about its own internals
        program = torch.export.load(program_path)
        with torch.no_grad():
            for name, places in rows:
                program.state_dict[name][places] = 0.0
        program.example_inputs = torch.utils._pytree.tree_map(torch.zeros_like, program.example_inputs)
        archive = io.BytesIO()
        torch.export.save(program, archive)
    program_path.write_bytes(archive.getbuffer())
    onnx_path = path.with_suffix(ONNX)
    if onnx_path.is_file():
        onnx_path.unlink()
        if not missing_libraries():
            export_onnx(program, onnx_path)


def _rows(module: Any, lost: Mapping[str, list[int]], part_name: str) -> Iterator[tuple[str, list[int]]]:
    """Yield the name of each parameter that has rows of lost ids, and these rows.

    Raises:
        BundleError: The module has none of the tables that are known.
    """
    weights = dict(module.named_parameters())
    tables: list[tuple[str, str, int]] = []  # feature, parameter, row of id 0
    if hasattr(module, "ranker"):
        wide, deep = module.ranker.wide, module.ranker.deep
        tables += [(name, f"ranker.deep.embeddings.{i}.table.weight", 0) for i, name in enumerate(deep.names)]
        starts = [start - FIRST_ID for start in wide.offsets]
        tables += [(name, "ranker.wide.table.weight", start) for name, start in zip(wide.names, starts, strict=True)]
    elif hasattr(module, "id_embedding"):
        tables.append((USER_ID, "id_embedding.table.weight", 0))
        tables += [(name, f"content.parts.{i}.table.weight", 0) for i, name in enumerate(module.content.names)]
    else:
        raise BundleError(
            f"part '{part_name}': it has no table of users that is known, so nobody can be taken out of it; train"
            " again on the data without them."
        )
    for feature, name, start in tables:
        places = [start + number for number in lost.get(feature, ())]
        places = [place for place in places if name in weights and place < len(weights[name])]
        if places:
            yield name, places
