"""Groups of users by who they are: the values of a few attributes."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import polars as pl

from recsys.columns import USER_ID
from recsys.errors import ConfigError, did_you_mean

MOST_VALUES = 20
"""Of an attribute that is taken as it is; a number with more is cut into quarters, any other loses its rare values."""
UNKNOWN, OTHER = "unknown", "other"


@dataclass(frozen=True)
class DemographicGroups:
    """Which values make which group.

    Attributes:
        attributes: Columns of the users table; a group is one combination of their values.
        bounds: Of numbers with many values: where the second, third and last quarter begin.
        groups: Combinations with enough users; the rest is ``other``, and nothing but missing values ``unknown``.
    """

    attributes: tuple[str, ...]
    bounds: dict[str, tuple[float, ...]]
    groups: tuple[str, ...]

    def assign(self, users: pl.DataFrame) -> pl.Series:
        """Return the group of each row of a users table."""
        values = users.select(self._text(attribute) for attribute in self.attributes)
        joined = values.select(
            group=pl.concat_str(pl.all().fill_null(UNKNOWN), separator=" / "),
            nothing=pl.all_horizontal(pl.all().is_null()),
        )
        return joined.select(
            demographic=pl.when("nothing")
            .then(pl.lit(UNKNOWN))
            .when(pl.col("group").is_in(list(self.groups)))
            .then("group")
            .otherwise(pl.lit(OTHER))
        ).to_series()

    def _text(self, attribute: str) -> pl.Expr:
        """Return the values as text, numbers of many values as ``18 to below 35``."""
        value = pl.col(attribute)
        if attribute not in self.bounds:
            return value.cast(pl.String)
        edges = [f"{bound:.12g}" for bound in self.bounds[attribute]]
        names = [f"below {edges[0]}", *(f"{a} to below {b}" for a, b in pairwise(edges))]
        names.append(f"from {edges[-1]}")
        quarter = pl.sum_horizontal((value >= bound).cast(pl.Int64) for bound in self.bounds[attribute])
        named = quarter.replace_strict(dict(enumerate(names)), return_dtype=pl.String)
        return pl.when(value.is_not_null()).then(named).alias(attribute)


def fit_demographic(
    users: pl.DataFrame, seen: pl.DataFrame, attributes: Sequence[str] | None, min_share: float
) -> DemographicGroups | None:
    """Find the groups among the users who have events.

    Args:
        users: Prepared users, ``user_id`` and attributes.
        seen: ``user_id`` of the users who count.
        attributes: Columns; None takes the first of 2 to 20 values, empty means no groups.
        min_share: Groups with a smaller share of the users of known values are put together.

    Returns:
        None when there is no attribute to group by.

    Raises:
        ConfigError: An attribute that the users do not have.
    """
    columns = [column for column in users.columns if column != USER_ID]
    counted = users.join(seen.select(USER_ID), on=USER_ID, how="semi")
    for attribute in attributes or ():
        if attribute not in columns:
            raise ConfigError(
                f"segments.demographics: '{attribute}' is no attribute of the users; there are: "
                f"{', '.join(columns) or 'none'}." + did_you_mean(attribute, columns)
            )
    if len(set(attributes or ())) < len(attributes or ()):
        raise ConfigError(f"segments.demographics: {', '.join(attributes or ())}: one is named twice; name each once.")
    if attributes is None:
        attributes = [c for c in columns if 2 <= counted[c].drop_nulls().n_unique() <= MOST_VALUES][:1]
    if not attributes:
        return None
    bounds = {}
    for attribute in attributes:
        values = counted[attribute].drop_nulls()
        if values.dtype.is_numeric() and values.n_unique() > MOST_VALUES:
            quarters = (values.quantile(share, interpolation="higher") for share in (0.25, 0.5, 0.75))
            bounds[attribute] = tuple(sorted({float(q) for q in quarters if q is not None}))
    free = DemographicGroups(tuple(attributes), bounds, ())
    texts = counted.select(free._text(attribute) for attribute in free.attributes)
    known = texts.filter(~pl.all_horizontal(pl.all().is_null()))
    sizes = known.select(group=pl.concat_str(pl.all().fill_null(UNKNOWN), separator=" / "))["group"].value_counts()
    kept = sizes.filter(pl.col("count") >= min_share * len(known))["group"].sort()
    return DemographicGroups(free.attributes, bounds, tuple(kept))
