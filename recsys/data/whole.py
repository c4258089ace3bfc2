"""What the rules must know of all events before they may look at some of them; it adds up over parts of a table."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from recsys.columns import EVENT_TYPE, ID_COLUMNS, ITEM_ID, TIMESTAMP, USER_ID
from recsys.config.data import DataConfig
from recsys.data.dtypes import is_mixed, plain_id
from recsys.data.sources import Tables
from recsys.data.timestamps import Numbers
from recsys.errors import DataError


@dataclass(frozen=True)
class Whole:
    """Facts about all rows of the source that the check will see.

    Attributes:
        numbers: Of the column of times.
        types: Event types that occur, those that are left out too, sorted.
        text_ids: Id columns that are text, or integers too large for Int64 in some row, here or in a table beside the
            events, sorted.
    """

    numbers: Numbers = field(default_factory=Numbers)
    types: tuple[str, ...] = ()
    text_ids: tuple[str, ...] = ()

    @classmethod
    def of(cls, straight: pl.DataFrame, source: pl.DataFrame, place: str) -> "Whole":
        """Look at a table, or a part of one.

        Args:
            straight: Rows with their values in their own columns, types as in the whole table.
            source: Those of them that are not left out.
            place: For messages.

        Raises:
            DataError: A column of a type that is no id, or no name of an event type.
        """
        types: Sequence[str] = ()
        if EVENT_TYPE in straight.columns:
            types = _text(straight[EVENT_TYPE], place).drop_nulls().unique().sort().to_list()
        ids = [name for name in ID_COLUMNS if name in source.columns]
        text = [name for name in ids if plain_id(source[name], place).dtype == pl.String]
        return cls(Numbers.of(source[TIMESTAMP]), tuple(types), tuple(sorted(text)))

    @classmethod
    def beside(cls, tables: Tables, cfg: DataConfig) -> "Whole":
        """Return what the tables of items and users say of the events: ids some of which are text there are text.

        Args:
            tables: As read, with all events or none.
            cfg: For messages.

        Raises:
            DataError: A column of a type that is no id.
        """
        others = (
            (ITEM_ID, tables.items, f"data.items={cfg.items}"),
            (USER_ID, tables.users, f"data.users={cfg.users}"),
        )
        mixed = (name for name, table, place in others if table is not None and is_mixed(plain_id(table[name], place)))
        return cls(text_ids=tuple(mixed))

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Whole":
        """Read what ``asdict`` has made of it and JSON of that."""
        numbers = Numbers(**{**plain["numbers"], "below": tuple(plain["numbers"]["below"])})
        return cls(numbers, tuple(plain["types"]), tuple(plain["text_ids"]))

    def __add__(self, other: "Whole") -> "Whole":
        types, text = ({*a, *b} for a, b in ((self.types, other.types), (self.text_ids, other.text_ids)))
        return Whole(self.numbers + other.numbers, tuple(sorted(types)), tuple(sorted(text)))

    def id_type(self, name: str) -> pl.DataType:
        """Return the type that an id column has in the whole table, Int64 or String."""
        return pl.String() if name in self.text_ids else pl.Int64()

    def id_of(self, column: pl.Series, place: str) -> pl.Series:
        """Return an id column as :func:`recsys.data.dtypes.plain_id` would return it in the whole table."""
        plain = plain_id(column, place)
        return plain.cast(pl.String) if column.name in self.text_ids else plain


def _text(column: pl.Series, place: str) -> pl.Series:
    try:
        return column.cast(pl.String)
    except pl.exceptions.PolarsError:
        raise DataError(
            f"{place}, column '{column.name}': found type {column.dtype}; legal for an event type: text or integer."
            " Cast the column, or map another one."
        ) from None
