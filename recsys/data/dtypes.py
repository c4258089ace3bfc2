"""Column types: whatever a table brings becomes Int64, Float64 or String, and ids Int64 or String."""

from collections.abc import Mapping, Sequence

import polars as pl

from recsys.columns import ID_COLUMNS
from recsys.errors import DataError

LIST_SEPARATOR = "|"
"""Joins the values of a list column into one text, read again as a ``multi_id`` feature."""

NARROW = ("Null", "Int64", "Float64", "String")
"""What text can be read as, from the narrowest; text without any value stays text."""

MISSING = ("NA", "NaN", "nan", "N/A", "NULL", "null", "None")
"""What R, pandas and databases write into a CSV for a number that is not there."""

_EXACT_FLOAT = 2**53
_WHOLE = (r"^(-?\d+)\.0*$", "${1}")  # an id of a column with gaps, which came as 12.0, is 12


def narrow_text(frame: pl.DataFrame) -> pl.DataFrame:
    """Give the text columns of a CSV table the narrowest type that loses nothing; blank text becomes null.

    Int64 where every value reads back as the same text (so ``007`` stays text), else Float64 where every value
    is a number without leading zeros, else String. Decided over all rows, whatever their order. Ids are Int64 or
    String: a number of 20 digits would lose some of them, and ``1E5`` is not the user ``100000``. Among numbers the
    words of :data:`MISSING` are missing values.
    """
    frame = without_blanks(frame)
    return cast_text(frame, {column.name: narrowest(column) for column in frame if column.dtype == pl.String})


def without_blanks(frame: pl.DataFrame) -> pl.DataFrame:
    """Make blank text null: a quoted "" in a CSV table is a missing value, which would make text of numbers."""
    return frame.with_columns(_blank_to_null(pl.col(pl.String)))


def cast_text(frame: pl.DataFrame, types: Mapping[str, str]) -> pl.DataFrame:
    """Give text columns their types, names from :data:`NARROW`."""
    numbers = {"Int64": pl.Int64, "Float64": pl.Float64}
    return frame.with_columns(
        _known(pl.col(name)).str.replace(*_WHOLE).cast(numbers[kind]) for name, kind in types.items() if kind in numbers
    )


def _known(text: pl.Expr) -> pl.Expr:
    return pl.when(~text.is_in(MISSING)).then(text)


def narrowest(text: pl.Series) -> str:
    """Return which of :data:`NARROW` a text column is; of parts of a column the last one holds for the whole."""
    if text.null_count() == len(text):
        return "Null"
    is_id = text.name in ID_COLUMNS
    text = text.to_frame().select(_known(pl.col(text.name))).to_series()
    missing = text.null_count()
    if missing == len(text):
        return "Null"
    digits = text.str.replace(*_WHOLE) if is_id else text
    whole = digits.cast(pl.Int64, strict=False)
    if whole.null_count() == missing and (whole.cast(pl.String) == digits).all():
        return "Int64"
    if is_id:
        return "String"
    number = text.cast(pl.Float64, strict=False)
    if number.null_count() == missing and not text.str.contains(r"^[+-]?0\d").any():
        return "Float64"
    return "String"


def plain_attributes(
    frame: pl.DataFrame, columns: Sequence[str], asked: Sequence[str], place: str
) -> tuple[pl.DataFrame, dict[str, str]]:
    """Bring attribute columns to Int64, Float64 or String.

    Booleans, categories and lists become text, dates days since 1970, decimals floats, blank text and NaN null.
    Columns of other types are left out and named in the second result, with the reason.

    Raises:
        DataError: A column of another type that ``asked`` names.
    """
    plain, skipped = [], {}
    for name in columns:
        expression = _plain(name, frame.schema[name])
        if expression is not None:
            plain.append(expression)
            continue
        reason = f"type {frame.schema[name]} is not legal for an attribute"
        if name in asked:
            raise DataError(
                f"{place}, column '{name}': {reason}; legal: text, numbers, booleans, dates, lists of them."
            )
        skipped[name] = reason
    return frame.with_columns(plain).drop(list(skipped)), skipped


def _plain(name: str, dtype: pl.DataType) -> pl.Expr | None:
    column = pl.col(name)
    if dtype.is_integer() and dtype not in (pl.UInt64, pl.Int128, pl.UInt128):
        return column.cast(pl.Int64)
    if dtype.is_numeric():
        return column.cast(pl.Float64).fill_nan(None)
    if dtype == pl.Date or dtype == pl.Datetime:
        return column.cast(pl.Datetime("us")).cast(pl.Int64) / 86_400_000_000
    if isinstance(dtype, pl.List):
        if dtype.inner.is_nested():
            return None
        return _blank_to_null(column.cast(pl.List(pl.String)).list.join(LIST_SEPARATOR, ignore_nulls=True))
    if dtype in (pl.String, pl.Boolean, pl.Categorical, pl.Enum, pl.Null):
        return _blank_to_null(column.cast(pl.String))
    return None


def _blank_to_null(text: pl.Expr) -> pl.Expr:
    return pl.when(text.str.strip_chars() != "").then(text)


def is_given(column: pl.Series) -> pl.Series:
    """Return which rows have a value, bool; null, NaN and blank text are none."""
    if column.dtype in (pl.String, pl.Categorical, pl.Enum):
        return (column.cast(pl.String).str.strip_chars() != "").fill_null(False)
    return (column.fill_nan(None) if column.dtype.is_float() else column).is_not_null()


def plain_id(column: pl.Series, place: str) -> pl.Series:
    """Return an id column as Int64 or String; blank text becomes null, any other character is kept.

    Whole numbers that came as floats (a CSV or pandas column with gaps) are integers again.

    Raises:
        DataError: A type that is no id (boolean, list, date ...), fractions, or floats too large to be exact.
    """
    dtype = column.dtype
    legal = f"{place}, column '{column.name}': found type {dtype}"
    if dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        return column.to_frame().select(_blank_to_null(pl.col(column.name).cast(pl.String))).to_series()
    if dtype.is_integer():
        narrow = column.cast(pl.Int64, strict=False)
        return narrow if narrow.null_count() == column.null_count() else column.cast(pl.String)
    if dtype.is_float():
        known = column.fill_nan(None).drop_nulls()
        if (known.abs() >= _EXACT_FLOAT).any():
            raise DataError(
                f"{legal} with values above 2^53, whose last digits are lost; store ids as integer or text."
            )
        if (known != known.round()).any():
            fraction = known.filter(known != known.round())[0]
            raise DataError(f"{legal} with fractions such as {fraction}; legal for an id: integer or text.")
        return column.fill_nan(None).cast(pl.Int64)
    raise DataError(f"{legal}; legal for an id: integer or text. Cast the column, or map another one.")


def is_mixed(ids: pl.Series) -> bool:
    """Tell whether plain ids are integers and text such as SKU-9, with no integer in another writing, such as 007."""
    if ids.dtype != pl.String:
        return False
    whole = ids.str.strip_chars().str.replace(*_WHOLE).cast(pl.Int64, strict=False)
    return ids.null_count() < whole.null_count() < len(ids) and (whole.cast(pl.String) == ids).all()


def same_type(column: pl.Series, dtype: pl.DataType, place: str) -> pl.Series:
    """Bring the ids of a side table to the type that they have in the events table, where nothing is lost by it.

    Raises:
        DataError: Text ids that are not the integers of the events table.
    """
    if column.dtype == dtype:
        return column
    cast = column.cast(dtype, strict=False)
    if cast.null_count() > column.null_count() or not (cast.cast(column.dtype) == column).all():
        raise DataError(
            f"{place}, column '{column.name}': type {column.dtype}, but {dtype} in the events table, and not every"
            " value is the same in both; store both as integer or both as text, written the same way."
        )
    return cast


def as_stored(column: pl.Series, dtype: pl.DataType) -> tuple[pl.Series, list[str]]:
    """Return a plain column in the type that it was stored with before, and what is wrong with it.

    Text is read as numbers where these are wanted; numbers do not become text, which might be written another way.

    Args:
        column: Int64, Float64 or String, of :func:`plain_attributes`.
        dtype: One of these.
    """
    if column.null_count() == len(column) or column.dtype == dtype:
        return column.cast(dtype), []
    if dtype == pl.String:
        told = f"column '{column.name}' is {column.dtype} in {len(column)} rows; in the bundle it is text. Convert it."
        return column.cast(dtype), [told]
    cast = column.cast(dtype, strict=False)
    lost = cast.is_null() & column.is_not_null()
    if column.dtype.is_numeric():
        lost |= (cast.cast(column.dtype) != column).fill_null(False)
    if not lost.any():
        return cast, []
    wrong = column.filter(lost)
    return cast, [
        f"column '{column.name}': {len(wrong)} of {len(column)} values are no {dtype}, which it is in the bundle, such"
        f" as {wrong[0]!r}. Correct them."
    ]
