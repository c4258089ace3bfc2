"""The one declaration of a feature: it drives encoding, towers, export signature and reports."""

from collections.abc import Iterable, Iterator
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from recsys.columns import ITEM_ID, USER_ID
from recsys.errors import ConfigError, did_you_mean

PAD_ID = 0
"""Padding and missing values; its embedding is zero."""
OOV_ID = 1
"""A value that the vocabulary has not seen."""
FIRST_ID = 2
"""The first known value of every vocabulary."""

REQUEST = "request"
"""Input of the ranker with the request of each pair, a row of the inputs of histories; int64 ``[P]``."""
HISTORY = "history/"
"""How the names of inputs begin that tell of the user's last events."""

SIDES = ("user", "item", "context")
KINDS = ("id", "multi_id", "numeric", "text", "timestamp")
CLOCK_SLOTS = (24, 7, 12)
"""Hours of the day, days of the week and months of the year (UTC): the three ids of a ``timestamp`` feature."""


@dataclass(frozen=True)
class Feature:
    """How one column becomes model input.

    Attributes:
        name: Key of the encoded tensor; also the column, unless ``column`` says otherwise.
        side: ``user`` and ``context`` feed the user tower, ``item`` feeds both through the item encoder.
        kind: ``id`` one categorical value -> int64 ``[B]``; ``multi_id`` a separated list and ``text``
            the words of a text, hashed -> int64 ``[B, slots]``; ``timestamp`` the hour, weekday and month of
            a UTC time -> int64 ``[B, 3]``; ``numeric`` -> float32 ``[B]``, NaN where missing.
        column: Source column in the prepared table; empty means ``name``.
        min_count: Values rarer than this in the fit window have no id of their own.
        buckets: More than 0 hashes values into this many ids instead of keeping a vocabulary.
        width: Of the embedding table in the towers, for an attribute of very many values; 0: as wide as what reads it.
        slots: Values kept of a ``multi_id`` or words of a ``text``.
        separator: What separates the values of a ``multi_id``.
    """

    name: str
    side: str
    kind: str
    column: str = ""
    min_count: int = 1
    buckets: int = 0
    width: int = 0
    slots: int = 8
    separator: str = " "

    def __post_init__(self) -> None:
        for key, legal in (("side", SIDES), ("kind", KINDS)):
            value = getattr(self, key)
            if value not in legal:
                raise ConfigError(
                    f"feature '{self.name}': {key} '{value}' is not one of {', '.join(legal)}."
                    + did_you_mean(str(value), legal)
                )
        for key, least in (("min_count", 1), ("buckets", 0), ("width", 0), ("slots", 1)):
            if getattr(self, key) < least:
                raise ConfigError(f"feature '{self.name}': {key}={getattr(self, key)} must be {least} or more.")
        if self.width and (not self.is_categorical or self.name in (USER_ID, ITEM_ID)):
            raise ConfigError(
                f"feature '{self.name}': width={self.width} is for categorical attributes; tables of {USER_ID} and "
                f"{ITEM_ID} are as wide as model.width says, and a number has no table."
            )
        if not self.column:
            object.__setattr__(self, "column", self.name)
        if self.kind == "text" and self.buckets == 0:
            object.__setattr__(self, "buckets", 2**14)

    @property
    def is_categorical(self) -> bool:
        """Whether the encoded tensor holds ids rather than numbers."""
        return self.kind != "numeric"

    @property
    def is_own_id(self) -> bool:
        """Whether it is the id of its user or item; an items table may have a ``user_id`` too, of the seller."""
        return (self.side, self.column) in (("user", USER_ID), ("item", ITEM_ID))

    @property
    def is_list(self) -> bool:
        """Whether one row has several ids."""
        return self.kind in ("multi_id", "text", "timestamp")


@dataclass(frozen=True)
class FeatureSpec:
    """All declared features of a data set, in a fixed order; names are unique."""

    features: tuple[Feature, ...]

    def __post_init__(self) -> None:
        names = [f.name for f in self.features]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ConfigError(f"features declared twice: {', '.join(twice)}; give each its own name.")

    def __iter__(self) -> Iterator[Feature]:
        return iter(self.features)

    def side(self, *sides: str) -> tuple[Feature, ...]:
        """Return the features of the given sides, in declared order."""
        return tuple(f for f in self.features if f.side in sides)

    def to_list(self) -> list[dict[str, Any]]:
        """Return plain data for YAML or JSON; :meth:`from_list` reverses it."""
        return [asdict(f) for f in self.features]

    @classmethod
    def from_list(cls, rows: Iterable[dict[str, Any]]) -> "FeatureSpec":
        """Build a spec from plain data, refusing unknown keys.

        Raises:
            ConfigError: A row has a key that no feature has, lacks one that it must have, or has an illegal value.
        """
        known = {f.name: f.type for f in fields(Feature)}
        needed = [f.name for f in fields(Feature) if f.default is MISSING]
        features = []
        for row in rows:
            for key in row:
                if key not in known:
                    raise ConfigError(
                        f"feature '{row.get('name', '?')}': unknown key '{key}'; legal: {', '.join(known)}."
                        + did_you_mean(key, known)
                    )
                if type(row[key]) is not known[key]:
                    raise ConfigError(
                        f"feature '{row.get('name', '?')}': {key}={row[key]!r} must be "
                        f"{'a whole number' if known[key] is int else 'text'}."
                    )
            if missing := [key for key in needed if key not in row]:
                raise ConfigError(
                    f"feature '{row.get('name', '?')}': no {' and no '.join(missing)}; each has {', '.join(needed)}."
                )
            features.append(Feature(**row))
        return cls(tuple(features))
