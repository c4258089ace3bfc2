"""Runs of equal keys in sorted arrays, and what they come to: grouping whose cost is that of the rows alone."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Number = TypeVar("Number", np.int64, np.float64)


def starts_of(*keys: NDArray[np.generic]) -> Ints:
    """Return where runs of equal keys begin, int64 ``[R]``.

    Args:
        keys: One or more columns ``[n]`` of rows that are sorted by them.
    """
    new = np.ones(len(keys[0]), bool)
    new[1:] = False
    for key in keys:
        new[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(new)


def lengths(starts: Ints, n: int) -> Ints:
    """Return how long each run of ``n`` rows is, int64 ``[R]``."""
    return np.diff(starts, append=n)


def reduced(what: np.ufunc, values: NDArray[Number], starts: Ints) -> NDArray[Number]:
    """Return for each run what ``what``, such as ``np.add``, makes of its values, ``[R]``."""
    return what.reduceat(values, starts) if len(starts) else values[:0]


def extent(values: Floats, group: Ints, n_groups: int) -> tuple[Floats, Floats]:
    """Return the largest and the smallest value of each group, NaN for one without any, each ``[G]``.

    Args:
        values: ``[n]``.
        group: Of each value, ascending, int64 ``[n]`` in [0, G).
        n_groups: G.
    """
    starts = starts_of(group)
    most, least = np.full(n_groups, np.nan), np.full(n_groups, np.nan)
    most[group[starts]] = reduced(np.maximum, values, starts)
    least[group[starts]] = reduced(np.minimum, values, starts)
    return most, least
