"""All segments of a shop, assigned to anybody as of any cut; reading them needs no scikit-learn."""

from dataclasses import dataclass

import polars as pl

from recsys.columns import USER_ID
from recsys.segments.behaviour import behaviour
from recsys.segments.clusters import Clustering, Space
from recsys.segments.demographic import DemographicGroups
from recsys.segments.intent import IntentRules
from recsys.segments.rfm import RfmScale

CLUSTERINGS = ("kmeans", "ward", "complete")
PREFIX = "segment_"
"""What the names of segments begin with where they are attributes of users."""
NO_EVENTS = "no_events"
"""Segment of users without an event before the cut; they have a demographic group all the same."""
NO_PURCHASES = "no_purchases"
"""Segment by RFM and clusters of users who did something, but bought nothing before the cut."""


@dataclass(frozen=True)
class SegmentModel:
    """Everything that assigning segments needs.

    Attributes:
        cut: Microseconds since 1970 UTC; fitted on the events before it.
        relevant: Event types that count as purchases; empty: all.
        cart_types: Event types that put an item into the cart.
        space: Where the clusters lie; None without clusters.
        clusterings: By method: ``kmeans``, ``ward``, ``complete``.
        rfm, demographic, intent: None where not asked for, or without an attribute to group by.
    """

    cut: int
    relevant: tuple[str, ...]
    cart_types: tuple[str, ...]
    space: Space | None
    clusterings: dict[str, Clustering]
    rfm: RfmScale | None
    demographic: DemographicGroups | None
    intent: IntentRules | None

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of segments, each a column of what :meth:`assign` returns."""
        others = ("demographic", "intent")
        named = [("rfm", self.rfm), *self.clusterings.items(), *((name, getattr(self, name)) for name in others)]
        return tuple(name for name, part in named if part is not None)

    def behaviour(self, events: pl.DataFrame, cut: int) -> pl.DataFrame:
        """Sum up the events before ``cut`` as the segments read them: one row a user who has one."""
        return behaviour(events, cut, self.relevant, self.cart_types)

    def assign(self, events: pl.DataFrame, users: pl.DataFrame, cut: int) -> pl.DataFrame:
        """Return the segments of users as of a cut.

        Args:
            events: Prepared events of at least these users, in any order; those at or after the cut are not read.
            users: ``user_id`` and the attributes of the demographic groups, one row a user; known or new.
            cut: Microseconds since 1970 UTC.

        Returns:
            ``user_id`` in the order of ``users``; with RFM the scores ``rfm_recency``, ``rfm_frequency``,
            ``rfm_monetary`` (1 to 5, null without a purchase); one text column for each of :attr:`kinds`.
        """
        table = self.behaviour(events, cut)
        found = users.select(USER_ID).join(self.describe(table), on=USER_ID, how="left", maintain_order="left")
        by_events = [kind for kind in self.kinds if kind != "demographic"]
        found = found.with_columns(pl.col(by_events).fill_null(NO_EVENTS))
        if self.demographic is not None:
            found = found.with_columns(self.demographic.assign(users))
        scores = [column for column in found.columns if column.startswith("rfm_")]
        return found.select(USER_ID, *scores, *self.kinds)

    def attributes(self, events: pl.DataFrame, users: pl.DataFrame, cut: int) -> pl.DataFrame:
        """Return the segments of users as attributes, one column ``segment_KIND`` each.

        It is null for who has no event; the demographic group needs none.

        Args:
            events: As :meth:`assign` takes them.
            users: Likewise.
            cut: Likewise.
        """
        found = self.assign(events, users, cut)
        return found.select(pl.when(pl.col(kind) != NO_EVENTS).then(kind).alias(PREFIX + kind) for kind in self.kinds)

    def describe(self, table: pl.DataFrame) -> pl.DataFrame:
        """Return ``user_id`` and what follows from behaviour, for each row of a table from :meth:`behaviour`."""
        found = table.select(USER_ID)
        buys = table["frequency"] > 0
        if self.rfm is not None:
            found = found.hstack(self.rfm.score(table)).with_columns(pl.col("rfm").fill_null(NO_PURCHASES))
        if self.space is not None:
            points = self.space.points(table.filter(buys))
            place = pl.Series(buys).cum_sum().cast(pl.Int64) - 1
            for name, clustering in self.clusterings.items():
                numbers = pl.Series(name, clustering.assign(points), pl.Int64).cast(pl.String)
                text = numbers.gather(place.set(~buys, None)).fill_null(NO_PURCHASES)
                found = found.with_columns(text.alias(name))
        if self.intent is not None:
            found = found.with_columns(self.intent.assign(table))
        return found
