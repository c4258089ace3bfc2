"""Junk: events and items that a rule names by their id or an attribute, such as postage, adjustments and tests."""

from collections.abc import Sequence

import polars as pl

from recsys.columns import ITEM_ID
from recsys.config.cleaning import JunkConfig
from recsys.data.cleaning.patterns import check_pattern
from recsys.errors import DataError, did_you_mean


def is_junk(rule: JunkConfig) -> pl.Expr:
    """Return whether the value of the rule's column, as text, is one of its values or has its pattern."""
    text = pl.col(rule.column).cast(pl.String)
    hit = text.is_in(list(rule.values))
    if rule.pattern is not None:
        hit = hit | text.str.contains(rule.pattern)
    return hit.fill_null(False)


def junk_events(events: pl.DataFrame, items: pl.DataFrame | None, rule: JunkConfig) -> pl.Series:
    """Mark the events that a rule names, bool ``[E]``: by their own column, or by the attribute of their item.

    Args:
        events: Events.
        items: The items table with ids of the same type, or None.
        rule: Names the column.

    Raises:
        ConfigError: A pattern that cannot be read.
        DataError: Neither table has the column.
    """
    check_pattern("data.cleaning.junk.pattern", rule.pattern)
    if rule.column in events.columns:
        return events.select(is_junk(rule)).to_series()
    if items is None or rule.column not in items.columns:
        columns = [*events.columns, *(items.columns if items is not None else ())]
        raise DataError(
            f"data.cleaning.junk: no column '{rule.column}'; columns: {', '.join(dict.fromkeys(columns))}."
            + did_you_mean(rule.column, columns)
        )
    junk = items.filter(is_junk(rule)).select(pl.col(ITEM_ID).unique())
    return events.select(pl.col(ITEM_ID).is_in(junk[ITEM_ID].implode()).fill_null(False)).to_series()


def without_junk(items: pl.DataFrame, rules: Sequence[JunkConfig]) -> pl.DataFrame:
    """Return the items table without the rows that a rule names, so that nobody is recommended postage."""
    named = [rule for rule in rules if rule.column in items.columns]
    return items.filter(~pl.any_horizontal(is_junk(rule) for rule in named)) if named else items
