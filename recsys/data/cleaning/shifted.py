"""Rows whose values stand in the columns of others: put back, or set aside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from recsys.config.cleaning import ShiftedConfig
from recsys.data.cleaning.finding import Finding
from recsys.data.cleaning.patterns import check_pattern
from recsys.data.sources import REJECT_REASON, ROW_NUMBER
from recsys.errors import DataError, did_you_mean

SHIFTED = "shifted"
"""The reason for the reject of a row that a rule names and does not, or cannot, put back."""


@dataclass(frozen=True)
class Straightened:
    """The source after the rules on shifted rows.

    Attributes:
        events: Rows in the order of the source, those that were put back in their new form.
        repaired: Their row numbers, UInt32, ascending.
        rejected: ``row_number, reject_reason`` of those that were set aside.
        findings: One a rule.
    """

    events: pl.DataFrame
    repaired: pl.Series
    rejected: pl.DataFrame
    findings: tuple[Finding, ...]


def straighten(source: pl.DataFrame, rules: Sequence[ShiftedConfig]) -> Straightened:
    """Apply each rule to the rows of the source that it names and no earlier rule has named.

    A row is put back when every moved value is there and reads as the type of its new column; otherwise it is set
    aside, as all rows are that a rule without ``move`` names.

    Raises:
        ConfigError: A pattern that cannot be read.
        DataError: A rule names a column that is not read.
    """
    events, findings = source, []
    done = pl.Series([False]).new_from_index(0, len(source))
    gone = done
    for number, rule in enumerate(rules):
        _check(rule, number, source.columns)
        named = source.select(_names(rule.when)).to_series() & ~done
        fits = named & source.select(_fits(rule.move, source)).to_series()
        events = _moved(events, rule.move, fits)
        done, gone = done | named, gone | (named & ~fits)
        n_put, n_named = int(fits.sum()), int(named.sum())
        moved = ", ".join(f"{to} from {origin}" for to, origin in rule.move.items())
        parts = ((f"put back ({moved})", n_put),) * bool(rule.move) + (("set aside", n_named - n_put),)
        remedy = "values put back into their columns where they fit" if rule.move else "set aside"
        findings.append(Finding("shifted", n_named, f"rows shifted {_marks(rule.when)}", remedy, parts))
    numbers = source[ROW_NUMBER]
    return Straightened(
        events.filter(~gone), numbers.filter(done & ~gone), _set_aside(numbers.filter(gone)), (*findings,)
    )


def _set_aside(numbers: pl.Series) -> pl.DataFrame:
    return numbers.to_frame().with_columns(pl.lit(SHIFTED).alias(REJECT_REASON))


def _marks(when: Mapping[str, str | None]) -> str:
    return "(" + ", ".join(f"no {name}" if p is None else f"{name} is /{p}/" for name, p in when.items()) + ")"


def _names(when: Mapping[str, str | None]) -> pl.Expr:
    """Return whether a row has every mark of a rule."""
    marks = []
    for name, pattern in when.items():
        text = pl.col(name).cast(pl.String)
        is_missing = text.is_null() | (text.str.strip_chars() == "")
        marks.append(is_missing if pattern is None else text.str.contains(pattern).fill_null(False))
    return pl.all_horizontal(marks)


def _fits(move: Mapping[str, str], source: pl.DataFrame) -> pl.Expr:
    """Return whether every value can stand in its new column; never without a move."""
    if not move:
        return pl.repeat(False, pl.len())
    return pl.all_horizontal(_value(to, origin, source).is_not_null() for to, origin in move.items())


def _value(to: str, origin: str, source: pl.DataFrame) -> pl.Expr:
    dtype = source.schema[to]
    value = pl.col(origin)
    # Through text, so that 1.5 does not become 1 and "12.0" is no integer.
    return value if source.schema[origin] == dtype else value.cast(pl.String).cast(dtype, strict=False)


def _moved(events: pl.DataFrame, move: Mapping[str, str], rows: pl.Series) -> pl.DataFrame:
    """Return the table with the values of ``rows`` in their new columns, and nothing where they stood."""
    if not rows.any():
        return events
    emptied = [name for name in dict.fromkeys(move.values()) if name not in move]
    return events.with_columns(
        *(
            pl.when(rows).then(_value(to, origin, events)).otherwise(pl.col(to)).alias(to)
            for to, origin in move.items()
        ),
        *(pl.when(~rows).then(pl.col(name)).alias(name) for name in emptied),
    )


def _check(rule: ShiftedConfig, number: int, columns: Sequence[str]) -> None:
    for name, pattern in rule.when.items():
        check_pattern(f"data.cleaning.shifted[{number}].when.{name}", pattern)
    for name in (*rule.when, *rule.move, *rule.move.values()):
        if name not in columns:
            raise DataError(
                f"data.cleaning.shifted[{number}]: no column '{name}'; columns that are read:"
                f" {', '.join(c for c in columns if c != ROW_NUMBER)}.{did_you_mean(name, columns)} Add it to"
                " data.item_attributes or data.context, or correct the rule."
            )
