"""Groups of users by what they are about to do, by rules on their latest events.

The rules in order, the first that holds counts; a rhythm is the user's own mean gap between baskets, or with fewer than
two baskets the gap that is usual in the shop:

=================  ============================================================================================
``abandoned_cart`` in the last days an item went into the cart that was not bought since
``just_bought``    less than half of the rhythm has passed since the last basket
``browsing``       other events in the last days, and no basket since half a rhythm or more (or ever)
``due``            half to one and a half rhythms have passed
``lapsing``        one and a half to four
``dormant``        four or more, or only other events, none of them lately
=================  ============================================================================================
"""

from dataclasses import dataclass

import polars as pl

GROUPS = ("abandoned_cart", "just_bought", "browsing", "due", "lapsing", "dormant")
JUST, DUE, LAPSING = 0.5, 1.5, 4.0
"""Rhythms since the last basket at which a group ends."""
SHORTEST = 1 / 24
"""Days that a rhythm has at least: baskets minutes apart are one visit."""


@dataclass(frozen=True)
class IntentRules:
    """What the rules were fitted with.

    Attributes:
        usual_gap: Days between baskets, the median over users with two or more.
        recent_days: How far back an event is recent.
    """

    usual_gap: float
    recent_days: float

    def assign(self, table: pl.DataFrame) -> pl.Series:
        """Return the group of each row of a table from :func:`~recsys.segments.behaviour.behaviour`."""
        own = pl.when(pl.col("frequency") > 1).then("gap").otherwise(self.usual_gap)
        passed = pl.col("recency") / own.clip(SHORTEST)
        return table.select(
            intent=pl.when(pl.col("cart_recency") <= self.recent_days)
            .then(pl.lit("abandoned_cart"))
            .when(passed < JUST)
            .then(pl.lit("just_bought"))
            .when(pl.col("others_recency") <= self.recent_days)
            .then(pl.lit("browsing"))
            .when(passed < DUE)
            .then(pl.lit("due"))
            .when(passed < LAPSING)
            .then(pl.lit("lapsing"))
            .otherwise(pl.lit("dormant"))
        ).to_series()


def fit_intent(table: pl.DataFrame, recent_days: float) -> IntentRules:
    """Find the usual gap: where nobody has bought twice, the median of the days since the only basket."""
    usual = table.filter(pl.col("frequency") > 1)["gap"].median()
    usual = table["recency"].median() if usual is None else usual
    return IntentRules(SHORTEST if usual is None else max(float(usual), SHORTEST), recent_days)  # type: ignore[arg-type]
