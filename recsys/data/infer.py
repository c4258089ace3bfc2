"""Declare features from the tables where the user declares none, and check a declaration against the tables."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from recsys.columns import ITEM_ID, TIMESTAMP, USER_ID
from recsys.data.pair_plan import possible_names
from recsys.errors import DataError, did_you_mean
from recsys.features import HISTORY, REQUEST, Feature, FeatureSpec

# Thresholds of the inference; whoever wants another outcome edits features.yaml.
_NUMBERS = 50  # an integer attribute with more distinct values is a quantity, with fewer a category
_RARE = 100  # a category with more distinct values pools those seen once
_MAX_SLOTS = 16
_KEY = "_id"  # how the names of ids end, whose values are not looked at
MANY = 1000
"""More different numbers than this are not told apart from any larger number of them."""
_DISGUISES = {
    "numbers": r"^[^\w\s]? ?[+-]?([1-9]\d{0,2}([,.' ]\d{3})+|[1-9]\d*|0)?([.,]\d+)? ?([^\w\s]|[A-Z]{3})?$",
    "dates": r"^\d{4}-\d{2}-\d{2}([T ].*)?$",
}
"""Text that means something else, such as "$1,299.00"; codes such as 007 do not."""
_SEPARATORS = ("|", "; ", ";", " > ", ">", ", ", ",", " ")

RESERVED = {"item": ("popularity", "age", "repeats"), "user": (), "context": ()}
"""Names that the towers add themselves as of a cut; a column called so gets its side in front."""


def count_values(columns: pl.LazyFrame, name: str) -> pl.DataFrame:
    """Return ``value`` and ``rows`` of a column, sorted by value.

    Of numbers and ids beyond :data:`MANY` different ones the smallest are named, since more of them say no more.
    """
    counts = (
        columns.group_by(pl.col(name).alias("value"))
        .agg(rows=pl.len().cast(pl.Int64))
        .sort("value")
        .collect(engine="streaming")
    )
    return few(counts, name)


def few(counts: pl.DataFrame, name: str) -> pl.DataFrame:
    """Return what is kept of counted values, see :func:`count_values`."""
    return counts[:MANY] if counts.schema["value"] != pl.String or name.endswith(_KEY) else counts


def infer_spec(
    context: Mapping[str, pl.DataFrame], items: pl.DataFrame, users: pl.DataFrame
) -> tuple[FeatureSpec, dict[str, str]]:
    """Return the inferred features, and the columns left out with the reason.

    Ids and the time of the moment are always features.

    Args:
        context: Of each column that describes the moment, the values of the training window, from
            :func:`count_values`.
        items: One row an item; where items are known from events alone, those that the training window has.
        users: One row a user.
    """
    features, skipped = [Feature(USER_ID, "user", "id"), Feature(ITEM_ID, "item", "id")], {}
    names = {USER_ID, ITEM_ID}
    numbers = possible_names(c for c in items.columns if c != ITEM_ID)
    tables = {
        side: {c: count_values(frame.lazy().select(c), c) for c in frame.columns if c != key}
        for side, frame, key in (("user", users, USER_ID), ("item", items, ITEM_ID))
    }
    for side, columns in (*tables.items(), ("context", context)):
        for column, counts in columns.items():
            name = _free(column, side, names)
            feature = infer_feature(counts, column, name, side)
            if isinstance(feature, str):
                skipped[name] = feature
                continue
            if feature.kind != "numeric":  # the ranker reads ids and its numbers of pairs by their names
                feature = replace(feature, name=_free(feature.name, side, names | numbers))
            features.append(feature)
            names.add(feature.name)
    features.append(Feature(_free("time", "context", names), "context", "timestamp", TIMESTAMP))
    return FeatureSpec(tuple(features)), skipped


def _free(name: str, side: str, taken: Collection[str]) -> str:
    """Put the side in front of a name until it is free."""
    while name in taken or is_reserved(name, side):
        name = f"{side}_{name}"
    return name


def is_reserved(name: str, side: str) -> bool:
    """Return whether the models have an input of this name that they make themselves."""
    return name in RESERVED[side] or name == REQUEST or name.startswith(HISTORY)


def infer_feature(counts: pl.DataFrame, column: str, name: str, side: str) -> Feature | str:
    """Return the feature that a column of Int64, Float64 or String makes, or why it makes none.

    Args:
        counts: Its values, from :func:`count_values`.
        column: Its name.
        name: That the feature is to have.
        side: user, item or context.
    """
    known = counts.drop_nulls("value")
    values, rows = known["value"], known["rows"]
    distinct, total = len(values), int(rows.sum())
    if distinct == 0:
        return "every value is missing"
    if distinct == 1 and total == counts["rows"].sum():
        return f"every row has the same value ({values[0]!r})"
    min_count = 2 if distinct > _RARE else 1
    as_id = Feature(name, side, "id", column, min_count=min_count)
    is_key = column.endswith(_KEY)
    if values.dtype != pl.String:
        is_quantity = values.dtype == pl.Float64 or distinct > _NUMBERS
        return as_id if is_key or not is_quantity else Feature(name, side, "numeric", column)
    if is_key:
        return as_id
    separator = _separator(values, rows)
    if separator is not None:
        lists = values.str.split(separator)
        rare = 2 if lists.explode().n_unique() > _RARE else 1
        slots = _slots(lists, rows, share=1.0)
        return Feature(name, side, "multi_id", column, min_count=rare, slots=slots, separator=separator)
    words = values.str.split(" ")
    if distinct > 20 and distinct > total / 2:
        if (words.list.len() * rows).sum() > 1.5 * total:
            return Feature(name, side, "text", column, slots=_slots(words, rows, share=0.95))
        if distinct == total:
            return "every row has another value, which says no more than the row's id"
    return as_id


def _separator(unique: pl.Series, rows: pl.Series) -> str | None:
    """Return what separates the values of a list, or None when the column holds no lists.

    In lists few words make many combinations (19 genres, 216 combinations). In titles, sizes and category names
    there are about as many words as names, or more.
    """
    for separator in _SEPARATORS:
        if rows.filter(unique.str.contains(separator, literal=True)).sum() < rows.sum() / 10:
            continue
        words = unique.str.split(separator).explode().n_unique()
        few = words <= 64 or (separator != " " and 2 * words <= len(unique))
        if few and words < len(unique):
            return separator
    return None


def _slots(lists: pl.Series, rows: pl.Series, share: float) -> int:
    """Return the slots that suffice for this share of the lists, within bounds; ``rows`` have each."""
    lengths = pl.DataFrame({"slots": lists.list.len(), "rows": rows}).sort("slots")
    place = math.ceil(share * (int(rows.sum()) - 1))
    longest = lengths.filter(pl.col("rows").cum_sum() > place)["slots"][0]
    return max(1, min(_MAX_SLOTS, int(longest)))


def disguised(values: pl.Series, rows: pl.Series) -> str | None:
    """Return a sentence on text that means numbers or dates, such as prices with a currency; None where there is none.

    Args:
        values: Different values of a column; null is a missing one.
        rows: That have each.
    """
    if values.dtype != pl.String:
        return None
    for kind, form in _DISGUISES.items():
        alike = (values.str.contains(form) & values.str.contains(r"\d")).fill_null(False)
        if alike.any() and 5 * int((rows * alike).sum()) >= 4 * int((rows * values.is_not_null()).sum()):
            example = values.filter(alike)[0]
            return f"the text looks like {kind}, such as {example!r}; write {kind} to have it read as such"
    return None


def declared_spec(
    rows: Sequence[dict[str, Any]], events: pl.DataFrame, items: pl.DataFrame, users: pl.DataFrame
) -> FeatureSpec:
    """Return the features that the user declared; ``user_id`` and ``item_id`` are added where they are missing.

    Raises:
        ConfigError: An unknown key, side or kind, or a name declared twice.
        DataError: A column that the side's table does not have, or text declared as numeric.
    """
    spec = FeatureSpec.from_list([dict(row) for row in rows])
    names = [f.name for f in spec]
    missing = [Feature(key, side, "id") for key, side in ((USER_ID, "user"), (ITEM_ID, "item")) if key not in names]
    tables = {"user": users, "item": items, "context": events}
    for feature in spec:
        frame = tables[feature.side]
        place = f"data.features, feature '{feature.name}' (side {feature.side})"
        own = {USER_ID: "user", ITEM_ID: "item"}.get(feature.name)
        if own and (feature.side, feature.kind, feature.buckets if own == "user" else 0) != (own, "id", 0):
            raise DataError(f"{place}: tells who is who; it has side {own}, kind id and, for users, no buckets.")
        if feature.column not in frame.columns:
            raise DataError(
                f"{place}: no column '{feature.column}'; columns: {', '.join(frame.columns)}."
                f"{did_you_mean(feature.column, frame.columns)}"
            )
        if is_reserved(feature.name, feature.side):
            raise DataError(f"{place}: the name is taken; call it '{feature.side}_{feature.name}' and set its column.")
        dtype = frame.schema[feature.column]
        if feature.kind == "numeric" and not dtype.is_numeric():
            raise DataError(f"{place}: kind numeric needs numbers, found type {dtype}; legal here: id, multi_id, text.")
        if feature.kind == "timestamp":
            if not isinstance(dtype, pl.Datetime):
                raise DataError(f"{place}: kind timestamp needs times, found type {dtype}; legal here: id, numeric.")
        elif feature.is_list and dtype != pl.String:
            raise DataError(f"{place}: kind {feature.kind} needs text, found type {dtype}; legal here: id, numeric.")
    return FeatureSpec((*missing, *spec))


def write_features(spec: FeatureSpec, skipped: dict[str, str], path: Path) -> None:
    """Write the declaration as YAML that can be edited and used as ``data.features``; defaults are left out."""
    lines = [
        "# The features of this data set. To change them, copy the list below into your data config:",
        "# `features:` stands beside `events:`, and what it declares is used instead of what was inferred.",
        *(f"# Left out: {name}: {reason}." for name, reason in skipped.items()),
        "features:",
    ]
    for feature in spec:
        bare = Feature(feature.name, feature.side, feature.kind)
        row = {k: v for k, v in _plain(feature).items() if k in ("name", "side", "kind") or v != _plain(bare)[k]}
        # A JSON value is a YAML value.
        pairs = ", ".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in row.items())
        lines.append(f"  - {{{pairs}}}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _plain(feature: Feature) -> dict[str, Any]:
    return FeatureSpec((feature,)).to_list()[0]
