"""The rhythm in which users come back to an item, or to what shares an attribute with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recsys.data.past_lines import RECENT_DAYS, PastLines
from recsys.data.segmented import Bools, Floats, Ints, lengths, reduced, starts_of

DECAY_DAYS = 30.0
"""Days after which the decay of a frequency sets in."""
DECAY_POWER = 0.5
NAMES = (
    "count", "days_since", "baskets_since", "gap_mean", "gap_spread", "gap_ratio", "due", "share", "rate", "trend",
    "frequency", "quantity", "other_count", "other_days_since", "price",
)  # fmt: skip
"""Columns of the numbers that :func:`rhythms` returns."""


@dataclass(frozen=True)
class Keyed:
    """Numbers that are found by a key.

    Attributes:
        keys: Int64 ``[R]``, ascending.
        numbers: Float32 ``[R + 1, C]``, NaN where undefined; the last row, all NaN, is of every other key.
    """

    keys: Ints
    numbers: NDArray[np.float32]

    def at(self, keys: Ints) -> NDArray[np.float32]:
        """Return the numbers of keys ``[P]``, float32 ``[P, C]``; a key below 0 is one of nothing."""
        if not len(self.keys):
            return self.numbers[np.zeros(len(keys), np.int64)]
        place = np.searchsorted(self.keys, keys)
        place[place == len(self.keys)] = 0
        place[self.keys[place] != keys] = len(self.keys)
        return self.numbers[place]

    @classmethod
    def of(cls, keys: Ints, columns: Sequence[NDArray[np.generic]]) -> "Keyed":
        """Put columns ``[R]`` of ascending keys side by side."""
        numbers = np.full((len(keys) + 1, len(columns)), np.nan, np.float32)
        for place, column in enumerate(columns):
            numbers[:-1, place] = column
        return cls(keys, numbers)


@dataclass(frozen=True)
class Things:
    """What users come back to: single items, and for each attribute the groups of items that share a value.

    Attributes:
        codes: Of each item among the things of each kind, int64 ``[kinds, N + 1]`` from 0, -1 for none; the last
            column is of an item that nobody knows.
    """

    codes: Ints

    @cached_property
    def starts(self) -> Ints:
        """What is added to the codes of each kind so that no two things share a number, and their total at the end."""
        return np.concatenate([[0], np.cumsum(self.codes.max(1) + 1)])

    def keys(self, kind: int, user: Ints, item: Ints) -> Ints:
        """Return the key of each user and what the item is of a kind, -1 where it is none or the user is below 0."""
        code = self.codes[kind, item]
        return np.where((code >= 0) & (user >= 0), user * self.starts[-1] + self.starts[kind] + code, -1)


def rhythms(past: PastLines, totals: dict[str, Floats], things: Things, kinds: Sequence[int]) -> Keyed:
    """Return how each user comes back to each thing of some kinds.

    The columns are :data:`NAMES`: ``count`` n of baskets; ``days_since`` the last; ``baskets_since``, the user's later
    ones; ``gap_mean`` in days (2 baskets or more) and ``gap_spread``, the standard deviation of the gaps (3 or more);
    ``gap_ratio`` of days since to mean gap; ``due``, 1 when that is 1 or more; ``share`` of all the user's baskets and
    ``rate`` of those since the first with the thing; ``trend``, log((r + 1) / (e + 1)) of the r baskets of the last 28
    days and the e expected were they spread evenly over the user's tenure; ``frequency``, the sum of
    ``(1 + age / 30) ** -0.5``; ``quantity`` a basket; number and recency of the events that do not count, ``other_*``;
    ``price``, the mean over the baskets.

    Args:
        past: Lines of U users.
        totals: Of :func:`~recsys.data.past_lines.user_totals`.
        things: What they come back to.
        kinds: Which of it.
    """
    keys, line = _stacked(things, kinds, past.user, past.item)
    keys, columns = _of_lines(past, totals, keys, line, things.starts[-1])
    other_user, other_item, other_age = past.others
    if len(other_user):
        other_keys, event = _stacked(things, kinds, other_user, other_item)
        order = np.argsort(other_keys, kind="stable")
        other_keys, age = other_keys[order], other_age[event][order]
        starts = starts_of(other_keys)
        others = {"other_count": lengths(starts, len(age)), "other_days_since": reduced(np.minimum, age, starts)}
        every = np.union1d(keys, other_keys[starts])
        columns = {name: _spread(column, keys, every) for name, column in columns.items()}
        columns |= {name: _spread(column, other_keys[starts], every) for name, column in others.items()}
        keys = every
    nothing = np.full(len(keys), np.nan)
    return Keyed.of(keys, [columns.get(name, nothing) for name in NAMES])


def _stacked(things: Things, kinds: Sequence[int], user: Ints, item: Ints) -> tuple[Ints, Ints]:
    """Return the keys of rows for all kinds, one after the other, and which row each is of."""
    keys = np.stack([things.keys(kind, user, item) for kind in kinds])
    there = keys >= 0
    return keys[there], np.nonzero(there)[1]


def _of_lines(
    past: PastLines, totals: dict[str, Floats], keys: Ints, line: Ints, span: int
) -> tuple[Ints, dict[str, NDArray[np.generic]]]:
    """Return distinct keys, ascending, and their columns, from the key of each of some lines."""
    order = np.lexsort((past.moment[line], keys))
    keys, line = keys[order], line[order]
    # One row a basket with the thing: a basket may hold several items of a group.
    starts = starts_of(keys, past.moment[line])
    price = past.price[line]
    age = reduced(np.maximum, past.age[line], starts)
    quantity = reduced(np.add, past.quantity[line], starts)
    price = _means(price, starts)
    keys, moment = keys[starts], past.moment[line][starts]
    if ((age[1:] > age[:-1]) & (keys[1:] == keys[:-1])).any():  # baskets that were open at the same time
        order = np.lexsort((moment, -age, keys))
        keys, moment = keys[order], moment[order]
        age, quantity, price = age[order], quantity[order], price[order]

    starts = starts_of(keys)
    count = lengths(starts, len(keys))
    last, first = age[starts + count - 1], age[starts]
    user = keys[starts] // span
    baskets, tenure = totals["baskets"][user], totals["tenure"][user]
    with np.errstate(invalid="ignore", divide="ignore"):  # undefined is NaN
        gap_mean = np.where(count > 1, (first - last) / (count - 1), np.nan)
        gap = np.zeros(len(age))
        gap[1:] = age[:-1] - age[1:] - np.repeat(gap_mean, count)[1:]
        gap[starts] = 0
        gap_spread = np.where(count > 2, np.sqrt(reduced(np.add, gap**2, starts) / (count - 1)), np.nan)
        gap_ratio = np.where(gap_mean > 0, last / gap_mean, np.nan)
        expected = count * np.minimum(1.0, RECENT_DAYS / tenure)
    recent = reduced(np.add, (age <= RECENT_DAYS).astype(np.float64), starts)
    return keys[starts], {
        "count": count,
        "days_since": last,
        "baskets_since": baskets - 1 - reduced(np.maximum, moment, starts),
        "gap_mean": gap_mean,
        "gap_spread": gap_spread,
        "gap_ratio": gap_ratio,
        "due": gap_ratio >= 1,
        "share": count / baskets,
        "rate": count / (baskets - reduced(np.minimum, moment, starts)),
        "trend": np.log((recent + 1) / (expected + 1)),
        "frequency": reduced(np.add, (1 + age / DECAY_DAYS) ** -DECAY_POWER, starts),
        "quantity": reduced(np.add, quantity, starts) / count,
        "price": _means(price, starts),
    }


def _means(values: Floats, starts: Ints) -> Floats:
    """Return the mean of each run over the values that are not NaN, NaN without any."""
    known: Bools = ~np.isnan(values)
    total = reduced(np.add, np.where(known, values, 0.0), starts)
    count = reduced(np.add, known.astype(np.float64), starts)
    return np.divide(total, count, out=np.full(len(starts), np.nan), where=count > 0)


def _spread(column: NDArray[np.generic], keys: Ints, every: Ints) -> Floats:
    """Return a column of some keys as one of all keys, NaN where it has none."""
    out = np.full(len(every), np.nan)
    out[np.searchsorted(every, keys)] = column
    return out
