"""Values that are hidden on purpose, to measure what methods of imputation make of them."""

from typing import Any

import numpy as np
import polars as pl

HIDDEN = 0.2
"""Share of the known values of a column that is hidden."""
MAX_HIDDEN = 2000
"""Values that are hidden, at most."""


def hide(table: pl.DataFrame, column: str) -> tuple[pl.DataFrame, pl.Series]:
    """Hide values of a column in rows drawn at random, the same for the same table.

    With it each row loses what a row lacks that really misses the value, drawn at random, too. So what is hidden is
    as hard to tell as what is missing, as far as the other attributes say; whether missing values are of another kind
    than known ones nobody knows.

    Returns:
        The table with gaps in place of the values, and whether a row was drawn.
    """
    chance = np.random.default_rng(0)
    gaps = table.select(pl.all().is_null()).to_numpy()
    place = table.columns.index(column)
    known, donors = np.flatnonzero(~gaps[:, place]), np.flatnonzero(gaps[:, place])
    # One value is left to learn from, and one is hidden where there are two.
    size = min(max(int(HIDDEN * len(known)), 1), MAX_HIDDEN, len(known) - 1)
    rows = np.sort(chance.permutation(known)[: max(size, 0)])
    hidden = np.zeros_like(gaps)
    if len(donors):
        hidden[rows] = gaps[chance.choice(donors, len(rows))]
    hidden[rows, place] = True
    masked = table.with_columns(
        pl.when(~pl.Series(hidden[:, n])).then(name).alias(name) for n, name in enumerate(table.columns)
    )
    return masked, pl.Series(hidden[:, place])


def accuracy(answers: pl.Series, truth: pl.Series, category: bool, usual: Any) -> float:
    """Return how well answers agree with the truth, 0 to 1.

    Of a category the share of right answers. Of a number 1 - |error| / |error of the median|, sums over all values, at
    least 0: the median of all scores 0, exact answers score 1; an answer that is missing counts as the median.
    """
    if category:
        return float(answers.eq_missing(truth).sum()) / len(truth)
    middle = 0.0 if usual is None else float(usual)
    error = float((answers.fill_null(middle) - truth).abs().sum())
    largest = float((truth - middle).abs().sum())
    if largest == 0:
        return float(error == 0 and answers.null_count() == 0)
    return max(0.0, 1 - error / largest)
