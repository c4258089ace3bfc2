"""What each user did before a cut, in the numbers that segments are made of."""

from collections.abc import Sequence

import polars as pl

from recsys.columns import EVENT_TYPE, ITEM_ID, QUANTITY, TIMESTAMP, USER_ID, VALUE
from recsys.data.log import DAY
from recsys.data.pair_plan import PairPlan
from recsys.data.past_lines import lines_of, number_events, user_totals

DIGITS = 6
"""Decimals that are kept: sums of the same values in another order are the same number."""


def behaviour(
    events: pl.DataFrame, cut: int, relevant: Sequence[str] = (), cart_types: Sequence[str] = ()
) -> pl.DataFrame:
    """Sum up the events before a cut, one row a user who has one, sorted by ``user_id``.

    A user's row depends on the user's own events alone, so a part of the users gives a part of the rows.

    Args:
        events: Prepared events in any order; those at or after the cut are not read.
        cut: Microseconds since 1970 UTC.
        relevant: Event types that count as purchases; empty: all.
        cart_types: Event types that put an item into the cart.

    Returns:
        ``user_id``; of purchases: ``frequency`` baskets, 0 without one, and then null: ``recency`` days since the
        last basket, ``tenure`` since the first, ``gap`` mean days between baskets (with one basket the days since,
        which the gap is at least), ``monetary`` total value (without values: quantity), ``spend`` value a basket
        (null without values), ``basket_size`` items a basket, ``variety`` distinct items, ``repeat`` share of lines
        whose item the user had had before; of other events: ``others`` their number, ``others_recency`` days since
        the last, ``cart_recency`` days since the last item went into the cart that was not bought since.
    """
    past = events.filter(pl.col(TIMESTAMP).dt.epoch("us") < cut)
    has_types = bool(relevant) and EVENT_TYPE in past.columns
    plan = PairPlan(
        relevant=tuple(relevant) if has_types else (),
        has_quantity=QUANTITY in past.columns,
        has_value=VALUE in past.columns,
        has_others=has_types,
    )
    catalogue = past.select(pl.col(ITEM_ID).unique()).sort(ITEM_ID).with_row_index("item")
    ids, numbered = number_events(plan, catalogue, past, cut)
    lines = lines_of(numbered, len(ids), cut)
    worth = pl.col("value" if plan.has_value else "quantity")
    table = pl.DataFrame({USER_ID: ids, **user_totals(lines)}).with_row_index("user").fill_nan(None)
    table = table.with_columns(
        pl.col("user").cast(pl.Int64), monetary=pl.when(pl.col("baskets") > 0).then(worth.round(DIGITS))
    )
    others = lines.others_frame().group_by("user").agg(others=pl.len(), others_recency=pl.col("age").min())
    carts = _open_carts(past, cut, relevant, cart_types if has_types else ())
    for part, key in ((others, "user"), (carts, USER_ID)):
        table = table.join(part, on=key, how="left", maintain_order="left")
    number = pl.col
    return table.select(
        USER_ID,
        frequency=number("baskets").cast(pl.Int64),
        recency=number("days_since"),
        tenure=number("tenure"),
        gap=pl.coalesce("gap_mean", "days_since"),
        monetary=number("monetary"),
        spend=number("monetary") / number("baskets") if plan.has_value else pl.lit(None, pl.Float64),
        basket_size=number("basket_size"),
        variety=number("items").cast(pl.Int64),
        repeat=number("repeat"),
        others=number("others").fill_null(0).cast(pl.Int64),
        others_recency=number("others_recency"),
        cart_recency=number("cart_recency"),
    ).with_columns(pl.col(pl.Float64).round(DIGITS))


def _open_carts(past: pl.DataFrame, cut: int, relevant: Sequence[str], cart_types: Sequence[str]) -> pl.DataFrame:
    """Return ``user_id`` and ``cart_recency`` of those with an item in the cart that they have not bought since."""
    if not cart_types:
        return past.select(USER_ID, cart_recency=pl.lit(None, pl.Float64)).clear()
    age = (cut - pl.col(TIMESTAMP).dt.epoch("us")) / DAY

    def last(types: Sequence[str], name: str) -> pl.DataFrame:
        """Return the age of the last such event of a user and item; one basket may have several of both."""
        return past.filter(pl.col(EVENT_TYPE).is_in(list(types))).group_by(USER_ID, ITEM_ID).agg(age.min().alias(name))

    carts = last(cart_types, "put").join(last(relevant, "bought"), on=[USER_ID, ITEM_ID], how="left")
    still_open = carts.filter(pl.col("bought").is_null() | (pl.col("bought") > pl.col("put")))
    return still_open.group_by(USER_ID).agg(cart_recency=pl.col("put").min())
