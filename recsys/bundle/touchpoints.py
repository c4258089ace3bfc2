"""Touchpoints: home, product page, cart ... each with what its request brings, its candidates, its order and filters.

::

    the request's items ─► together, similar ─┐
    the user's past ─────► personal ──────────┴─► allowed candidates ─► order (one signal, or several fused) ─► picked

The items of a request are fresh context, such as a cart: they say what is wanted now, and are no part of the history.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.bundle.filters import Filters, ItemFacts, allowed_items
from recsys.bundle.histories import Ints
from recsys.bundle.picking import Picked, full_values, pick
from recsys.bundle.profiles import Profile
from recsys.bundle.ranking import Ranking, Requests
from recsys.bundle.requests import Id, checked_ids
from recsys.bundle.signals import Signals
from recsys.columns import ITEM_ID
from recsys.data.topk import NONE
from recsys.errors import BundleError, did_you_mean

PRICE = "item_price"
"""Median price of an item before the cut, in the state of the second stage."""
Pool = tuple[Tensor, Tensor, Tensor]
"""Item rows ``[B, P]``, -1 for none, what they are ordered by, and what an answer says of them."""
CELLS = 2**23
"""Requests times items whose scores are in memory at a time: 32 MB."""


class Touchpoints:
    """The touchpoints of a bundle; nothing in it changes.

    Args:
        profiles: By name.
        price: Attribute of the items that is their price; None: what was paid, where the second stage knows it.
        items: The catalogue, N rows.
        vectors: Of the items, ``[N, D]``.
        eligible: Items that may be recommended, bool ``[N]``.
        ranking: The second stage; None without.

    Attributes:
        profiles: By name.
        facts: What filters read of the items.
        at_once: Requests that are answered at a time.
    """

    def __init__(
        self,
        profiles: Mapping[str, Profile],
        price: str | None,
        items: pl.DataFrame,
        vectors: Tensor,
        eligible: Tensor,
        ranking: Ranking | None,
    ) -> None:
        self.profiles = profiles
        self._vectors, self._eligible, self._ranking = vectors, eligible, ranking
        # the part of the vectors that remembers single items says nothing of what they have in common
        self._alike = vectors if ranking is None else ranking.state.general
        self._lengths = self._alike.norm(dim=1).clamp(min=1e-12)  # once: it takes half of the time of a cart
        self.facts = ItemFacts(items, prices(items, price, ranking))
        self.at_once = max(CELLS // max(len(items), 1), 1)

    def profile(self, name: str | None, filters: Filters | None) -> Profile:
        """Return a profile by name, with other filters where they are given; without a name what is personal.

        Raises:
            BundleError: There is none of this name.
        """
        if name is not None and name not in self.profiles:
            legal = ", ".join(self.profiles) or "none; train with touchpoints=default to have some"
            raise BundleError(
                f"touchpoint: '{name}' is none of this bundle's: {legal}." + did_you_mean(name, self.profiles)
            )
        found = self.profiles[name] if name is not None else Profile()
        return found if filters is None else replace(found, filters=filters)

    def answer(
        self,
        profile: Profile,
        anchors: Sequence[Tensor],
        vectors: Tensor,
        requests: Requests | None,
        left_out: Sequence[Collection[int]],
        allowed: Tensor | None,
        ks: Sequence[int],
    ) -> tuple[Ints, NDArray[np.float32]]:
        """Return the best items of B requests, as :meth:`recsys.bundle.reader.Bundle.retrieve` does.

        Args:
            profile: The touchpoint.
            anchors: Item rows that each request brought, int64.
            vectors: Of the user tower, ``[B, D]``.
            requests: What the second stage reads of the users; None without one.
            left_out: For each request the item rows to leave out.
            allowed: Item rows that any of them may get, bool ``[N]``; None: all.
            ks: Items of each request.
        """
        may = self.allowed(profile, anchors, left_out, allowed)
        picked = self.best(profile, anchors, vectors, requests, may, torch.tensor(ks))
        return picked.items.numpy(), picked.scores.numpy()

    def allowed(
        self, profile: Profile, anchors: Sequence[Tensor], left_out: Sequence[Collection[int]], allowed: Tensor | None
    ) -> Tensor:
        """Return which items each of B requests may get, bool ``[B, N]``; arguments as :meth:`answer` takes them."""
        may = self._eligible if allowed is None else self._eligible & allowed
        return allowed_items(profile.filters, self.facts, may, anchors, left_out)

    def best(
        self,
        profile: Profile,
        anchors: Sequence[Tensor],
        vectors: Tensor,
        requests: Requests | None,
        may: Tensor,
        ks: Tensor,
    ) -> Picked:
        """Return the best items of B requests.

        Args:
            profile: The touchpoint.
            anchors: Item rows that each request brought, int64.
            vectors: Of the user tower, ``[B, D]``.
            requests: What the second stage reads of the users; None without one.
            may: Which items each may get, bool ``[B, N]``, of :meth:`allowed`.
            ks: Items of each request, int64 ``[B]``.
        """
        signals = Signals(profile, anchors, vectors, self._vectors, self._alike, self._lengths, self._ranking, requests)

        def first(may: Tensor) -> Pool:
            return signals.ordered(signals.candidates(may))

        def further(may: Tensor) -> Pool:
            return signals.ordered(signals.further(may))

        return self.fill(profile, may, ks, first, further)

    def fill(
        self,
        profile: Profile,
        may: Tensor,
        ks: Tensor,
        first: Callable[[Tensor], Pool],
        further: Callable[[Tensor], Pool],
    ) -> Picked:
        """Pick by the caps and the diversity of a touchpoint until each of B requests has as many items as it may.

        Args:
            profile: The touchpoint.
            may: Which items each may get, bool ``[B, N]``.
            ks: Items of each request, int64 ``[B]``.
            first: Returns candidates, given which items each request may get.
            further: The same where those did not suffice; it names at least one item of each request that may still
                get any.
        """
        picked, may = Picked.nothing(len(may), int(ks.max())), may.clone()
        pool = first(may)
        while True:
            picked = pick(*pool, ks, profile.filters, self.facts, self._alike, picked)
            row, column = (pool[0] != NONE).nonzero(as_tuple=True)
            may[row, pool[0][row, column]] = False
            if profile.filters.caps:
                may &= ~full_values(profile.filters, self.facts, picked)
            may[picked.count >= ks] = False
            if not may.any():
                return picked
            pool = further(may)


def prices(items: pl.DataFrame, attribute: str | None, ranking: Ranking | None) -> Tensor | None:
    """Return the price of each item, float32 ``[N]``, NaN where not known; None where there are none.

    Args:
        items: The catalogue.
        attribute: That is the price; None: the median of what was paid, which the second stage may know.
        ranking: The second stage; None without.
    """
    if attribute is not None:
        found = items[attribute]
    elif ranking is not None and PRICE in ranking.state.items.table.columns:
        table = ranking.state.items.table.select(ITEM_ID, PRICE)
        found = items.select(ITEM_ID).join(table, on=ITEM_ID, how="left", maintain_order="left")[PRICE]
    else:
        return None
    known = found.cast(pl.Float32).fill_nan(None)
    return (
        None if known.null_count() == len(known) else torch.from_numpy(known.fill_null(float("nan")).to_numpy().copy())
    )


def anchor_rows(
    items: Sequence[Sequence[Id]] | None, n_requests: int, item_rows: Mapping[Id, int], item_type: str
) -> list[Tensor]:
    """Turn the raw items of each of B requests into distinct item rows; those that are not known are left out.

    Raises:
        BundleError: The number of lists is not B, one is no list, or an id has the wrong type.
    """
    if items is None:
        return [torch.empty(0, dtype=torch.int64)] * n_requests
    if len(items) != n_requests:
        raise BundleError(f"items: {len(items)} lists given for {n_requests} users; give one (or []) for each.")
    parsed = []
    for one in items:
        if isinstance(one, str) or not hasattr(one, "__len__"):
            raise BundleError(f"items: {one!r} is no list; give a list of items for each user, such as [[{one!r}]].")
        ids = checked_ids(one, item_type, "items")
        rows = dict.fromkeys(item_rows[i] for i in ids if i is not None and i in item_rows)
        parsed.append(torch.tensor(list(rows), dtype=torch.int64))
    return parsed
