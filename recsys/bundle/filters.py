"""What the answer of a touchpoint may hold: what was bought, prices, values of attributes; how far items are alike."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import torch
from torch import Tensor

from recsys.data.topk import NONE
from recsys.errors import BundleError, did_you_mean

Range = tuple[float | None, float | None]
"""Lowest and highest, both within; None is open."""


@dataclass(frozen=True)
class Filters:
    """What the items of an answer have in common, and how far they may be alike.

    Attributes:
        without_bought: Leave out what the user has had, fresh events included; the reader knows what that is.
        price: Lowest and highest price; an item without a price is then left out.
        band: The same as multiples of the price of an item of the request; one such item is enough.
        same: Attribute in which an item must be like that item of the request; empty: none. A request that has no item
            with a value, or for ``band`` a price, gets no answer.
        caps: Attribute to the most items of an answer that share a value; items without a value are not counted.
        diversity: Weight of the relevance in maximal marginal relevance, 0 to 1: each next item has the highest
            ``diversity * relevance - (1 - diversity) * similarity`` to what has been picked (Carbonell and Goldstein
            1998). Relevance is scaled to 0 to 1 among the candidates; similarity is the cosine of the item vectors,
            without the part that remembers single items. 1 leaves the order as it is.
    """

    without_bought: bool = False
    price: Range | None = None
    band: Range | None = None
    same: str = ""
    caps: Mapping[str, int] = field(default_factory=dict)
    diversity: float = 1.0

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing.

        Raises:
            BundleError: Names the first of them.
        """
        for name, bounds in (("price", self.price), ("band", self.band)):
            low, high = bounds or (None, None)
            if low is not None and high is not None and low > high:
                raise BundleError(f"filters: {name} from {low:g} to {high:g} holds nothing; give the lower one first.")
        if not 0.0 <= self.diversity <= 1.0:
            raise BundleError(f"filters: diversity {self.diversity:g} is no weight from 0 to 1; 1 leaves it out.")
        for attribute, most in self.caps.items():
            if most < 1:
                raise BundleError(f"filters: a cap of {most} on '{attribute}' leaves nothing; give 1 or more.")

    @property
    def attributes(self) -> tuple[str, ...]:
        """Attributes of the items that are looked at."""
        return (*([self.same] if self.same else []), *self.caps)

    @property
    def needs_items(self) -> bool:
        """Whether the request must bring items to compare with."""
        return self.band is not None or bool(self.same)

    def to_plain(self) -> dict[str, Any]:
        """Return the filters as JSON data."""
        return {
            "without_bought": self.without_bought,
            "price": list(self.price) if self.price else None,
            "band": list(self.band) if self.band else None,
            "same": self.same,
            "caps": dict(self.caps),
            "diversity": self.diversity,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Filters":
        """Read what :meth:`to_plain` wrote."""
        bounds: dict[str, Any] = {
            name: None if plain[name] is None else (plain[name][0], plain[name][1]) for name in ("price", "band")
        }
        rest = {name: value for name, value in plain.items() if name not in bounds}
        return cls(**rest, **bounds)


class ItemFacts:
    """What filters read of the catalogue.

    Args:
        items: The catalogue, N rows.
        prices: Of the items, float32 ``[N]``, NaN where not known; None where the bundle has no prices.
    """

    def __init__(self, items: pl.DataFrame, prices: Tensor | None) -> None:
        self._items, self._prices = items, prices
        self._codes: dict[str, Tensor] = {}

    @property
    def prices(self) -> Tensor:
        """Float32 ``[N]``, NaN where not known.

        Raises:
            BundleError: The bundle has none.
        """
        if self._prices is None:
            raise BundleError(
                "filters: this bundle has no prices: neither a numeric attribute of the items that touchpoints.price "
                "names, nor a ranker with the values of events; leave the filter out, or train with one of the two."
            )
        return self._prices

    def codes(self, attribute: str) -> Tensor:
        """Return a number for each value of an attribute, int64 ``[N]``, -1 where there is none.

        Raises:
            BundleError: The items have no such attribute.
        """
        if attribute not in self._codes:
            legal = [name for name in self._items.columns if not name.startswith("asof/")]
            if attribute not in legal:
                raise BundleError(
                    f"filters: items have no attribute '{attribute}'; there are: {', '.join(legal)}."
                    + did_you_mean(attribute, legal)
                )
            values = self._items[attribute]
            ranks = (values.rank("dense").cast(pl.Int64) - 1).fill_null(NONE)
            self._codes[attribute] = torch.from_numpy(ranks.to_numpy().copy())
        return self._codes[attribute]


def allowed_items(
    filters: Filters,
    facts: ItemFacts,
    may: Tensor,
    anchors: Sequence[Tensor],
    left_out: Sequence[Collection[int]],
) -> Tensor:
    """Return which items each of B requests may get, bool ``[B, N]``.

    Args:
        filters: Of the touchpoint.
        facts: Of the items.
        may: What anybody may get, bool ``[N]``.
        anchors: Item rows that each request brought, known ones; they are left out of its answer.
        left_out: For each request the item rows to leave out, such as what the user has had.
    """
    mask = may.repeat(len(anchors), 1)
    if filters.price is not None:
        mask &= _within(facts.prices, filters.price)
    for row, items in enumerate(anchors):
        if filters.needs_items:
            near = torch.zeros_like(may)
            for item in items.tolist():
                near |= _like(filters, facts, item)
            mask[row] &= near
        mask[row, items] = False
        mask[row, torch.tensor(list(left_out[row]), dtype=torch.int64)] = False
    return mask


def _like(filters: Filters, facts: ItemFacts, item: int) -> Tensor:
    """Return which items have an item's value and a price in its band, bool ``[N]``; none where it has none."""
    near: Tensor | None = None
    if filters.band is not None:
        low, high = (None if bound is None else bound * float(facts.prices[item]) for bound in filters.band)
        near = _within(facts.prices, (low, high))
    if filters.same:
        codes = facts.codes(filters.same)
        same = (codes == codes[item]) & (codes != NONE)
        near = same if near is None else near & same
    assert near is not None
    return near


def _within(prices: Tensor, bounds: Range) -> Tensor:
    low, high = bounds
    inside = ~prices.isnan()
    if low is not None:
        inside &= prices >= low  # never true beside NaN
    if high is not None:
        inside &= prices <= high
    return inside
