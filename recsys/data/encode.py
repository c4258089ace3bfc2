"""Raw tables to model input: vocabularies and numeric statistics, fit on one window, applied everywhere.

Ids are the same for every vocabulary, for ever: 0 padding or missing, 1 unseen, known values from 2.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recsys.errors import DataError, did_you_mean
from recsys.features import CLOCK_SLOTS, FIRST_ID, OOV_ID, PAD_ID, Feature, FeatureSpec


@dataclass(frozen=True)
class Vocabulary:
    """The known values of one feature; the value at position p has the id ``FIRST_ID + p``.

    A null is a value that had to be forgotten: nothing is encoded as it, and the ids of the others stay what they were.
    """

    values: pl.Series

    @classmethod
    def fit(cls, values: pl.Series, min_count: int = 1) -> "Vocabulary":
        """Keep the non-null values that occur at least ``min_count`` times, in ascending order."""
        return cls.of_column(values.rename("value").to_frame().lazy(), "value", min_count)

    @classmethod
    def of_column(cls, table: pl.LazyFrame, column: str, min_count: int = 1) -> "Vocabulary":
        """Do the same with a column of a table that need not be in memory."""
        counts = table.select(value=pl.col(column)).drop_nulls().group_by("value").len()
        kept = counts.filter(pl.col("len") >= min_count).collect(engine="streaming")
        return cls(kept["value"].sort())

    @property
    def size(self) -> int:
        """Rows that an embedding table for this vocabulary needs."""
        return FIRST_ID + len(self.values)

    @cached_property
    def _table(self) -> pl.DataFrame:
        return pl.DataFrame({"value": self.values, "id": np.arange(FIRST_ID, self.size, dtype=np.int64)})

    def encode(self, values: pl.Series) -> pl.Series:
        """Map values to ids, int64 ``[n]``; null becomes PAD_ID, an unseen value OOV_ID."""
        if values.null_count() == len(values):  # such as all that is known of a stranger
            return pl.repeat(PAD_ID, len(values), dtype=pl.Int64, eager=True).rename(values.name)
        asked = pl.DataFrame({"value": values.cast(self.values.dtype, strict=False)})
        ids = asked.join(self._table, on="value", how="left", maintain_order="left")["id"].fill_null(OOV_ID)
        return ids.set(values.is_null(), PAD_ID).rename(values.name)


def hash_ids(values: pl.Series, buckets: int) -> pl.Series:
    """Map values to ``FIRST_ID + crc32(utf-8 text) % buckets``, int64 ``[n]``; null becomes PAD_ID.

    CRC-32 is slow but the same in every language that a reader may be written in; each distinct
    value is hashed once. A whole number has the text of an integer: a column with gaps may have made it a float.
    """
    distinct = values.drop_nulls().unique()
    texts = [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v in distinct]
    ids = [FIRST_ID + zlib.crc32(text.encode()) % buckets for text in texts]
    table = pl.DataFrame({"value": distinct, "id": pl.Series(ids, dtype=pl.Int64)})
    asked = pl.DataFrame({"value": values})
    return asked.join(table, on="value", how="left", maintain_order="left")["id"].fill_null(PAD_ID).rename(values.name)


@dataclass(frozen=True)
class NumericScale:
    """Robust location and spread of a numeric feature: median, and half the 10-90 % range."""

    center: float
    spread: float

    @classmethod
    def fit(cls, values: pl.Series) -> "NumericScale":
        """Fit on the finite values; without any, the scale is the identity."""
        clean = values.cast(pl.Float64, strict=False).drop_nulls().drop_nans()
        clean = clean.filter(clean.is_finite())
        if clean.is_empty():
            return cls(0.0, 1.0)
        low, high = (float(np.quantile(clean.to_numpy(), q)) for q in (0.1, 0.9))
        spread = (high - low) / 2
        if spread <= 0:
            spread = float(np.std(clean.to_numpy())) or 1.0
        return cls(float(np.median(clean.to_numpy())), spread)


@dataclass(frozen=True)
class Encoder:
    """Everything fitted that raw tables need to become tensors."""

    spec: FeatureSpec
    vocabularies: dict[str, Vocabulary]
    scales: dict[str, NumericScale]

    @classmethod
    def fit(
        cls, spec: FeatureSpec, events: pl.DataFrame | pl.LazyFrame, items: pl.DataFrame, users: pl.DataFrame
    ) -> "Encoder":
        """Fit on the events of one window; of items and users only those that have an event count.

        Ids and context values are counted by events, attributes by distinct items or users.
        """
        known = events.lazy()  # of which one column at a time is read
        seen = {
            "item": items.lazy().join(known.select("item_id"), on="item_id", how="semi").collect(engine="streaming"),
            "user": users.lazy().join(known.select("user_id"), on="user_id", how="semi").collect(engine="streaming"),
        }
        vocabularies, scales = {}, {}
        for feature in spec:
            is_event = feature.is_own_id or feature.side == "context"
            table = known if is_event else seen[feature.side].lazy()
            if feature.kind == "numeric":
                scales[feature.name] = NumericScale.fit(_column_of(table, feature))
            elif feature.kind != "timestamp" and feature.buckets == 0 and feature.is_list:
                parts = _split(feature, _column_of(table, feature)).explode()
                vocabularies[feature.name] = Vocabulary.fit(parts, feature.min_count)
            elif feature.kind != "timestamp" and feature.buckets == 0:
                vocabularies[feature.name] = Vocabulary.of_column(table, feature.column, feature.min_count)
        return cls(spec, vocabularies, scales)

    def size(self, feature: Feature) -> int:
        """Rows of the embedding table of a categorical feature."""
        if feature.kind == "timestamp":
            return FIRST_ID + sum(CLOCK_SLOTS)
        return FIRST_ID + feature.buckets if feature.buckets else self.vocabularies[feature.name].size

    def ids_in(self, feature: Feature, other: "Encoder") -> Tensor:
        """Return which id each id of a feature has in another encoder of the same features, int64 ``[size]``.

        It is OOV_ID for values that the other one does not know. Ids are the same in both only where the values are.
        """
        reserved = torch.tensor([PAD_ID, OOV_ID])
        if feature.kind == "timestamp" or feature.buckets:
            return torch.cat([reserved, torch.arange(FIRST_ID, self.size(feature))])
        known = other.vocabularies[feature.name].encode(self.vocabularies[feature.name].values)
        return torch.cat([reserved, torch.from_numpy(known.to_numpy().copy())])

    def encode(self, frame: pl.DataFrame, *sides: str) -> dict[str, Tensor]:
        """Encode the features of ``sides`` whose columns are in ``frame`` (n rows).

        Returns:
            Feature name -> int64 ``[n]`` for ``id``, int64 ``[n, slots]`` for lists and times, float32 ``[n]`` for
            numeric (raw values, NaN where missing; the towers scale them).

        Raises:
            DataError: A column of a declared feature is not in the frame.
        """
        return {f.name: self.encode_column(f, self._column(frame, f)) for f in self.spec.side(*sides)}

    def encode_column(self, feature: Feature, values: pl.Series) -> Tensor:
        """Encode one column; shapes as in :meth:`encode`."""
        if feature.kind == "numeric":
            return torch.from_numpy(values.cast(pl.Float32, strict=False).fill_null(float("nan")).to_numpy().copy())
        if feature.kind == "timestamp":
            return _clock_ids(values)
        if not feature.is_list:
            return torch.from_numpy(self._ids(feature, values).to_numpy().copy())
        n, slots = len(values), feature.slots
        parts = pl.DataFrame({"row": np.arange(n), "value": _split(feature, values)})
        parts = parts.explode("value").drop_nulls("value")
        parts = parts.with_columns(slot=pl.int_range(pl.len()).over("row")).filter(pl.col("slot") < slots)
        out = torch.full((n, slots), PAD_ID, dtype=torch.int64)
        row, slot = (torch.from_numpy(parts[c].cast(pl.Int64).to_numpy().copy()) for c in ("row", "slot"))
        out[row, slot] = torch.from_numpy(self._ids(feature, parts["value"]).to_numpy().copy())
        return out

    def _ids(self, feature: Feature, values: pl.Series) -> pl.Series:
        return hash_ids(values, feature.buckets) if feature.buckets else self.vocabularies[feature.name].encode(values)

    @staticmethod
    def _column(frame: pl.DataFrame, feature: Feature) -> pl.Series:
        if feature.column not in frame.columns:
            raise DataError(
                f"feature '{feature.name}' ({feature.side}) reads column '{feature.column}', which the table does not"
                f" have; columns: {', '.join(frame.columns)}." + did_you_mean(feature.column, frame.columns)
            )
        return frame[feature.column]

    def forget(self, before: pl.DataFrame, after: pl.DataFrame) -> tuple["Encoder", dict[str, list[int]]]:
        """Forget the values of user features, their ids among them, that only users had who have left.

        Args:
            before: Users, all of them.
            after: Those who stay.

        Returns:
            The encoder without these values, and for each feature that loses some the ids they had.
        """
        vocabularies, lost = dict(self.vocabularies), {}
        for feature in self.spec.side("user"):
            known = self.vocabularies.get(feature.name)
            if known is None:
                continue
            had, have = (
                _split(feature, users[feature.column]).explode() if feature.is_list else users[feature.column]
                for users in (before, after)
            )
            gone = known.values.is_in(had.unique().implode()) & ~known.values.is_in(have.unique().implode())
            places = gone.fill_null(False).arg_true()
            if len(places):
                lost[feature.name] = (places.cast(pl.Int64) + FIRST_ID).to_list()
                vocabularies[feature.name] = Vocabulary(known.values.scatter(places, None))
        return Encoder(self.spec, vocabularies, self.scales), lost

    def save(self, folder: Path) -> None:
        """Write ``features.json``, ``scales.json`` and one Parquet file a vocabulary into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "features.json").write_text(json.dumps(self.spec.to_list(), indent=1))
        scales = {name: [s.center, s.spread] for name, s in self.scales.items()}
        (folder / "scales.json").write_text(json.dumps(scales, indent=1))
        for name, vocabulary in self.vocabularies.items():
            vocabulary.values.rename("value").to_frame().write_parquet(folder / _file_name(name))

    @classmethod
    def load(cls, folder: Path) -> "Encoder":
        """Read what :meth:`save` wrote."""
        spec = FeatureSpec.from_list(json.loads((folder / "features.json").read_text()))
        scales: Mapping[str, list[float]] = json.loads((folder / "scales.json").read_text())
        names = [f.name for f in spec if f.kind in ("id", "multi_id") and f.buckets == 0]
        vocabularies = {n: Vocabulary(pl.read_parquet(folder / _file_name(n))["value"]) for n in names}
        return cls(spec, vocabularies, {n: NumericScale(*s) for n, s in scales.items()})


def _column_of(table: pl.LazyFrame, feature: Feature) -> pl.Series:
    return table.select(feature.column).collect(engine="streaming").to_series()


def _file_name(feature: str) -> str:
    return f"{quote(feature, safe=' ')}.parquet"  # a column may be called 'price/kg'


def _clock_ids(values: pl.Series) -> Tensor:
    """Map UTC times to the ids of hour, weekday and month, each in a range of its own, int64 ``[n, 3]``."""
    time = values.cast(pl.Datetime("us", "UTC")).dt
    parts = (time.hour(), time.weekday() - 1, time.month() - 1)
    ids, first = [], FIRST_ID
    for part, size in zip(parts, CLOCK_SLOTS, strict=True):
        ids.append((part.cast(pl.Int64) + first).fill_null(PAD_ID).to_numpy())
        first += size
    return torch.from_numpy(np.stack(ids, axis=1))


def _split(feature: Feature, values: pl.Series) -> pl.Series:
    """Return the parts of each value as a list column: words of a text, or what the separator divides."""
    if isinstance(values.dtype, pl.List):
        return values.cast(pl.List(pl.String))
    text = values.cast(pl.String)
    if feature.kind == "text":
        return text.str.to_lowercase().str.extract_all(r"[\p{L}\p{N}]+")
    return text.str.split(feature.separator).list.eval(pl.element().filter(pl.element() != ""))
