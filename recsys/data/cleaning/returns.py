"""Returns: each takes the latest earlier purchase of the same user and item back that has enough quantity left."""

from collections.abc import Sequence

import polars as pl

from recsys.columns import BASKET_ID, EVENT_TYPE, ITEM_ID, QUANTITY, TIMESTAMP, USER_ID, VALUE
from recsys.config.cleaning import ReturnsConfig
from recsys.data.sources import ROW_NUMBER
from recsys.data.split import Windows, window_index

RETURN_OF = "return_of"
"""Row number of the purchase that a return takes back; null when there is none."""
NOTHING = 1e-9
"""A quantity so small is what rounding leaves: 0.3 - 0.1 is not quite 0.2."""


def is_return(columns: Sequence[str], rules: ReturnsConfig) -> pl.Expr:
    """Return whether an event takes something back: by its type, or by a quantity below 0.

    Args:
        columns: Of the events.
        rules: Which signs count.
    """
    sign = pl.lit(False)
    if rules.event_types and EVENT_TYPE in columns:
        sign = sign | pl.col(EVENT_TYPE).is_in(rules.event_types).fill_null(False)
    if rules.negative_quantity and QUANTITY in columns:
        sign = sign | (pl.col(QUANTITY) < 0).fill_null(False)
    return sign


def match_returns(
    events: pl.DataFrame, returns: pl.Series, rules: ReturnsConfig, bought: Sequence[str]
) -> pl.DataFrame:
    """Give each return its purchase: ``row_number, return_of, returned (Float64), timestamp``, one row a return.

    Returns are served in the order of time. A quantity that is missing is 1. The n-th returns of all users and items
    are matched together, so there are as many rounds as one user returned one item.

    Args:
        events: All events of some users, in the order of :func:`recsys.data.clean.in_order`.
        returns: Which of them take something back, bool ``[E]``.
        rules: Whether the basket must be the same.
        bought: Event types that can be taken back; empty: all.
    """
    if not returns.any():
        numbers = pl.col(ROW_NUMBER)
        return events.clear().select(numbers, numbers.alias(RETURN_OF), pl.lit(1.0).alias("returned"), TIMESTAMP)
    keys = [USER_ID, ITEM_ID, *([BASKET_ID] if rules.same_basket and BASKET_ID in events.columns else [])]
    quantity = (pl.col(QUANTITY).abs() if QUANTITY in events.columns else pl.lit(None, pl.Float64)).fill_null(1.0)
    is_bought = pl.lit(True)
    if bought and EVENT_TYPE in events.columns:
        is_bought = pl.col(EVENT_TYPE).is_in(list(bought)).fill_null(False)
    slim = events.with_row_index("place").select(
        "place", ROW_NUMBER, *keys, TIMESTAMP, is_bought.alias("bought"), left=quantity
    )
    asking = slim.filter(returns).with_columns(turn=pl.int_range(pl.len()).over(keys))
    stock = slim.filter(~returns & slim["bought"]).join(asking, on=keys, how="semi")
    found = []
    for turn in range(asking["turn"].n_unique()):
        now = asking.filter(pl.col("turn") == turn)
        is_enough = pl.col("left_bought") >= pl.col("left") - NOTHING
        matched = (
            now.join(stock, on=keys, suffix="_bought")
            .filter((pl.col("timestamp_bought") < pl.col(TIMESTAMP)) & is_enough)
            .sort("place_bought")
            .group_by("place")
            .last()
            .select("place", "place_bought", pl.col("row_number_bought").alias(RETURN_OF), taken="left")
        )
        found.append(matched)
        stock = (
            stock.join(matched.select(place="place_bought", taken="taken"), on="place", how="left")
            .with_columns(left=pl.col("left") - pl.col("taken").fill_null(0.0))
            .filter(pl.col("left") > NOTHING)
            .drop("taken")
        )
    pairs = pl.concat(found).select("place", RETURN_OF)
    return asking.join(pairs, on="place", how="left").select(
        ROW_NUMBER, RETURN_OF, pl.col("left").alias("returned"), TIMESTAMP
    )


def taken_back(events: pl.DataFrame, matches: pl.DataFrame, windows: Windows) -> pl.DataFrame:
    """Return ``row_number, returned``: how much of each purchase was taken back within the purchase's own window.

    What is taken back after a cut was a purchase at the cut, so it stays one: nothing after a cut changes what was
    before it.

    Args:
        events: Events with the purchases.
        matches: From :func:`match_returns`.
        windows: The split.
    """
    window = window_index(windows)
    sold = events.select(pl.col(ROW_NUMBER).alias(RETURN_OF), window.alias("sold_in"))
    return (
        matches.with_columns(window.alias("back_in"))
        .join(sold, on=RETURN_OF)
        .filter(pl.col("sold_in") == pl.col("back_in"))
        .group_by(pl.col(RETURN_OF).alias(ROW_NUMBER))
        .agg(pl.col("returned").sum())
    )


def without_returned(events: pl.DataFrame, taken: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series]:
    """Lessen the quantity and, in proportion, the value of purchases that were taken back.

    Args:
        events: Events with the purchases.
        taken: From :func:`taken_back`.

    Returns:
        The events in the same order, and which of them nothing is left of, bool ``[E]``.
    """
    if taken.is_empty():
        return events, pl.Series([False]).new_from_index(0, len(events))
    bought = pl.col(QUANTITY).fill_null(1.0) if QUANTITY in events.columns else pl.lit(1.0)
    known = events.join(
        taken.rename({"returned": "_returned"}), on=ROW_NUMBER, how="left", maintain_order="left"
    ).with_columns(_kept=1 - pl.col("_returned").fill_null(0.0) / bought)
    is_part = pl.col("_kept").is_between(NOTHING, 1, closed="none")
    lessened = [
        pl.when(is_part).then(pl.col(name) * pl.col("_kept")).otherwise(name).alias(name)
        for name in (QUANTITY, VALUE)
        if name in events.columns
    ]
    gone = known.select(pl.col("_returned").is_not_null() & (pl.col("_kept") <= NOTHING)).to_series()
    return known.with_columns(lessened).select(events.columns), gone
