"""RFM: recency, frequency and monetary value, each scored 1 to 5 by where a user stands among the others.

A score says which fifth of the users a value lies in: ``1 + floor(5 (rank - 1/2) / n)``, where equal values share the
mean of their ranks. So equal values never get different scores, five different values get 1, 2, 3, 4 and 5, and a value
that everybody has gets 3; where many are equal, some scores go to nobody. Recency counts backwards: the latest get 5.
What is stored is the lowest value of each score, which scores anybody at any later cut.
"""

from dataclasses import dataclass
from math import inf

import polars as pl

AXES = ("recency", "frequency", "monetary")
SCORES = 5

NAMES = (
    # frequency and monetary value together:
    # 1                 2                   3                   4              5
    ("lost",            "lost",             "at_risk",          "cannot_lose", "cannot_lose"),  # recency 1
    ("hibernating",     "hibernating",      "at_risk",          "at_risk",     "at_risk"),      # recency 2
    ("about_to_sleep",  "needs_attention",  "needs_attention",  "loyal",       "loyal"),        # recency 3
    ("promising",       "potential_loyal",  "loyal",            "champions",   "champions"),    # recency 4
    ("new",             "potential_loyal",  "potential_loyal",  "champions",   "champions"),    # recency 5
)  # fmt: skip
"""Segment by the score of recency (row) and the mean of those of frequency and monetary value, halves up (column)."""


@dataclass(frozen=True)
class RfmScale:
    """The lowest value of the scores 2, 3, 4 and 5 on each axis of :data:`AXES`; recency negative, in days.

    A score that nobody has begins where the next one does, and at infinity when there is none.
    """

    bounds: dict[str, tuple[float, ...]]

    def score(self, table: pl.DataFrame) -> pl.DataFrame:
        """Score users who bought.

        Args:
            table: From :func:`~recsys.segments.behaviour.behaviour`.

        Returns:
            ``rfm_recency``, ``rfm_frequency``, ``rfm_monetary`` 1 to 5 and the name ``rfm``, row by row; null for
            users without a purchase.
        """
        scores = [
            pl.when(pl.col("frequency") > 0).then(
                1 + pl.sum_horizontal((_goodness(axis) >= bound).cast(pl.Int64) for bound in self.bounds[axis])
            ).alias(f"rfm_{axis}")
            for axis in AXES
        ]  # fmt: skip
        worth = (pl.col("rfm_frequency") + pl.col("rfm_monetary") + 1) // 2
        cell = SCORES * (pl.col("rfm_recency") - 1) + worth - 1
        names = {SCORES * row + column: name for row, line in enumerate(NAMES) for column, name in enumerate(line)}
        return table.select(scores).with_columns(rfm=cell.replace_strict(names, return_dtype=pl.String))


def fit_rfm(table: pl.DataFrame) -> RfmScale:
    """Find the bounds of the scores among the users who bought.

    Args:
        table: From :func:`~recsys.segments.behaviour.behaviour`, as of the end of the window it is fitted on.
    """
    buyers = table.filter(pl.col("frequency") > 0)
    return RfmScale({axis: _bounds(buyers.select(_goodness(axis)).to_series()) for axis in AXES})


def _goodness(axis: str) -> pl.Expr:
    value = pl.col(axis).cast(pl.Float64)
    return -value if axis == "recency" else value


def _bounds(values: pl.Series) -> tuple[float, ...]:
    twice = (2 * values.rank("average")).cast(pl.Int64)  # whole numbers: mean ranks end in .0 or .5
    score = 1 + SCORES * (twice - 1) // (2 * max(len(values), 1))
    lowest = (values.filter(score >= least).min() for least in range(2, SCORES + 1))
    return tuple(inf if value is None else float(value) for value in lowest)  # type: ignore[arg-type]
