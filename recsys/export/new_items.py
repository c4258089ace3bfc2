"""Rows of new products as a file has them, brought to the form of a bundle's catalogue, or refused with counts."""

import polars as pl

from recsys.bundle.requests import ADDED, ASOF_COLUMN, ELIGIBLE
from recsys.bundle.segments import ITEM_VALUE
from recsys.columns import ITEM_ID
from recsys.data.dtypes import as_stored, plain_attributes
from recsys.data.imputation import Imputer, impute
from recsys.errors import DataError, did_you_mean

STATE = (*ASOF_COLUMN.values(), ELIGIBLE, ADDED, ITEM_VALUE)
"""Columns of a catalogue that say what happened with the items, and are made here."""


def attributes_of(catalogue: pl.DataFrame) -> list[str]:
    """Return the columns of a catalogue that describe the items, the id first among them."""
    return [name for name in catalogue.columns if name not in STATE]


def new_rows(items: pl.DataFrame, catalogue: pl.DataFrame, place: str, imputer: Imputer | None = None) -> pl.DataFrame:
    """Return new products as rows of the catalogue, without the columns of :data:`STATE`.

    Columns that are not given are missing values, as are attributes that are null; they are filled as those of the
    catalogue were. A product that the catalogue has
    is refused: other attributes would change the vectors of all who have had it, and so their answers.

    Args:
        items: ``item_id`` and any of the catalogue's attributes; text is read as a number where the catalogue has one.
        catalogue: Of the bundle.
        place: Where the rows come from, for messages.
        imputer: What filled the catalogue; None for nothing.

    Raises:
        DataError: Names everything that is wrong with the rows, each with its count.
    """
    legal = attributes_of(catalogue)
    unknown = [name for name in items.columns if name not in legal]
    problems = [
        f"column '{name}' is none of the bundle's catalogue, whose columns are: {', '.join(legal)}."
        + did_you_mean(name, legal)
        for name in unknown
    ]
    if ITEM_ID not in items.columns:
        problems.append(
            f"no column '{ITEM_ID}'; columns: {', '.join(items.columns)}." + did_you_mean(ITEM_ID, items.columns)
        )
        raise _refused(place, problems)
    if items.is_empty():
        raise _refused(place, [*problems, "no rows."])
    given = [name for name in items.columns if name in legal]
    plain, _ = plain_attributes(items.select(given), given, given, place)
    columns = []
    for name in given:
        column, found = as_stored(plain[name], catalogue.schema[name])
        columns.append(column)
        problems += found
    problems += _id_problems(items[ITEM_ID], columns[given.index(ITEM_ID)], catalogue[ITEM_ID])
    if problems:
        raise _refused(place, problems)
    rows = pl.DataFrame(columns)
    absent = [pl.lit(None, catalogue.schema[name]).alias(name) for name in legal if name not in given]
    rows = rows.with_columns(absent)
    return (rows if imputer is None else impute(imputer, rows)).select(legal).sort(ITEM_ID)


def _refused(place: str, problems: list[str]) -> DataError:
    return DataError("\n".join(f"{place}: {problem}" for problem in problems))


def _id_problems(raw: pl.Series, ids: pl.Series, known: pl.Series) -> list[str]:
    """Return what is wrong with ids that have the right type."""
    problems = []
    if nulls := raw.null_count():
        problems.append(f"column '{ITEM_ID}' is missing in {nulls} of {len(raw)} rows. Leave them out.")
    ids = ids.drop_nulls()
    if repeated := len(ids) - ids.n_unique():
        example = ids.filter(ids.is_duplicated())[0]
        problems.append(f"{repeated} rows repeat an '{ITEM_ID}', such as {example!r}. Give each product once.")
    there = ids.filter(ids.is_in(known.implode())).unique().sort()
    if len(there):
        problems.append(
            f"{len(there)} products are in the bundle already, such as {there[0]!r}, and keep their attributes until"
            " the next training: their vectors are part of what users are answered by. Leave them out."
        )
    return problems
