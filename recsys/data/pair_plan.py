"""Which features of a (user, item) pair a data set allows: the list that computing, model and bundle agree on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from recsys.columns import EVENT_TYPE, QUANTITY, VALUE
from recsys.data.sessions import SessionPlan
from recsys.errors import ConfigError, did_you_mean
from recsys.features import FeatureSpec

MAX_GROUPS = 8
"""Groups taken when none are configured; each costs a dozen features."""
GROUP_VALUES = (2, 20_000)
"""Fewest and most values of an item attribute that is taken as a group when none are configured."""

_INTERNAL = {
    "item_price",
    "item_price_ratio",
    "item_last_price",
    "user_price",
    "user_lines",
    "user_spend",
    "pair_price",
}
"""Columns that are there on the way, whether or not they are features."""

_Row = tuple[str, float | None]
"""Name after the prefix, value where nothing is known."""

_RHYTHM: tuple[_Row, ...] = (
    ("count", 0.0),
    ("days_since", None),
    ("baskets_since", None),
    ("gap_mean", None),
    ("gap_spread", None),
    ("gap_ratio", None),
    ("due", 0.0),
    ("share", 0.0),
    ("rate", 0.0),
    ("trend", 0.0),
    ("frequency", 0.0),
)
_ITEM: tuple[_Row, ...] = (
    ("users_all", 0.0),
    ("users_28d", 0.0),
    ("users_7d", 0.0),
    ("events_all", 0.0),
    ("events_28d", 0.0),
    ("events_7d", 0.0),
    ("trend", 0.0),
    ("trend_7d", 0.0),
    ("age", None),
    ("days_since", None),
    ("repeat", None),
    ("gap_mean", None),
)
_USER: tuple[_Row, ...] = (
    ("baskets", 0.0),
    ("baskets_28d", 0.0),
    ("items", 0.0),
    ("days_since", None),
    ("tenure", None),
    ("gap_mean", None),
    ("basket_size", None),
    ("repeat", None),
)


@dataclass(frozen=True)
class PairFeature:
    """One column of the features of pairs.

    Attributes:
        name: Column; the prefix says whose it is.
        side: ``pair`` user and item, ``group`` user and a group of items, ``item`` or ``user``.
        absent: The value where nothing is known of it; None leaves it null.
    """

    name: str
    side: str
    absent: float | None


@dataclass(frozen=True)
class PairPlan:
    """What the features of pairs are made of; it stays the same for all cuts, so that the columns do, too.

    Attributes:
        groups: Item attributes for which the user's rhythm is measured as for single items.
        relevant: Event types that count; empty: all.
        has_quantity: Events have a quantity.
        has_value: Events have a value, which over the quantity is the price.
        has_others: There are events of other types than the relevant ones; they are counted apart.
        sessions: Features of sessions and open carts; None: none.
    """

    groups: tuple[str, ...] = ()
    relevant: tuple[str, ...] = ()
    has_quantity: bool = False
    has_value: bool = False
    has_others: bool = False
    sessions: SessionPlan | None = None

    @cached_property
    def prefixes(self) -> tuple[str, ...]:
        """What the names of each group's features begin with: the attribute, lengthened where a name was taken."""
        taken = {f.name for f in self._own_features} | _INTERNAL
        prefixes = []
        for group in self.groups:
            prefix = group
            while taken & (names := {f.name for f in self._group_features(prefix)} | {f"{prefix}_price"}):
                prefix += "_group"
            taken |= names
            prefixes.append(prefix)
        return tuple(prefixes)

    @cached_property
    def features(self) -> tuple[PairFeature, ...]:
        """All features in the order of the columns: pair, groups, item, user."""
        pair = tuple(f for f in self._own_features if f.side == "pair")
        groups = tuple(f for prefix in self.prefixes for f in self._group_features(prefix))
        return pair + groups + tuple(f for f in self._own_features if f.side != "pair")

    @property
    def rhythm(self) -> tuple[_Row, ...]:
        """Name and value of who has no event, of how users come back to an item or a group."""
        quantity: tuple[_Row, ...] = (("quantity", 0.0),)
        others: tuple[_Row, ...] = (("other_count", 0.0), ("other_days_since", None))
        return _RHYTHM + quantity * self.has_quantity + others * self.has_others

    @property
    def _own_features(self) -> tuple[PairFeature, ...]:
        price_ratio: tuple[_Row, ...] = (("price_ratio", None),)
        price: tuple[_Row, ...] = (("price", None), *price_ratio)
        spend: tuple[_Row, ...] = (("spend", None),)
        others: tuple[_Row, ...] = (("others_28d", 0.0),)
        pair, user = (self.sessions.pair_rows, self.sessions.user_rows) if self.sessions else ((), ())
        rows = {
            "pair": (*self.rhythm, ("item_gap_ratio", None), *price_ratio * self.has_value, *pair),
            "item": _ITEM + price * self.has_value + others * self.has_others,
            "user": _USER + spend * self.has_value + others * self.has_others + user,
        }
        return tuple(PairFeature(f"{side}_{row[0]}", side, *row[1:]) for side in rows for row in rows[side])

    def _group_features(self, prefix: str) -> tuple[PairFeature, ...]:
        price_ratio: tuple[_Row, ...] = (("price_ratio", None),)
        rows = (*self.rhythm, ("item_share", 0.0), *price_ratio * self.has_value)
        return tuple(PairFeature(f"{prefix}_{row[0]}", "group", *row[1:]) for row in rows)


def possible_names(columns: Iterable[str]) -> frozenset[str]:
    """Return the names that numbers of pairs can have where items have these columns, without those of sessions."""
    everything = PairPlan(groups=tuple(columns), has_quantity=True, has_value=True, has_others=True)
    return frozenset(feature.name for feature in everything.features)


def plan_pairs(
    events: pl.DataFrame,
    items: pl.DataFrame,
    spec: FeatureSpec,
    groups: Sequence[str] | None = None,
    relevant: Sequence[str] = (),
    sessions: SessionPlan | None = None,
) -> PairPlan:
    """Decide which features a data set allows.

    Args:
        events: Prepared events; only the columns and the event types matter.
        items: Prepared items.
        spec: Declared or inferred features; candidates for groups are the single-valued ids of items.
        groups: Columns of ``items``; None takes the first :data:`MAX_GROUPS` ids with as many values as
            :data:`GROUP_VALUES` allows and on average at least two items a value.
        relevant: Event types that count; empty: all.
        sessions: From :func:`recsys.data.sessions.plan_sessions`; None leaves them out.

    Raises:
        ConfigError: A group that is no column of the items, or is named twice.
    """
    columns = [c for c in items.columns if c != "item_id"]
    for group in groups or ():
        if group not in columns:
            raise ConfigError(
                f"groups: '{group}' is no attribute of the items; there are: {', '.join(columns) or 'none'}."
                + did_you_mean(group, columns)
            )
    if groups is not None and len(set(groups)) < len(groups):
        raise ConfigError(f"groups: {', '.join(groups)}: one is named twice; name each once.")
    if groups is None:
        ids = dict.fromkeys(f.column for f in spec.side("item") if f.kind == "id" and f.column in columns)
        groups = [column for column in ids if _makes_groups(items[column])][:MAX_GROUPS]
    has_others = bool(relevant) and EVENT_TYPE in events.columns
    if has_others:
        has_others = not events[EVENT_TYPE].is_in(list(relevant)).fill_null(False).all()
    return PairPlan(
        groups=tuple(groups),
        relevant=tuple(relevant) if EVENT_TYPE in events.columns else (),
        has_quantity=QUANTITY in events.columns,
        has_value=VALUE in events.columns,
        has_others=has_others,
        sessions=sessions,
    )


def _makes_groups(values: pl.Series) -> bool:
    known = values.drop_nulls()
    fewest, most = GROUP_VALUES
    return fewest <= known.n_unique() <= min(most, len(known) // 2)
