"""Touchpoints of a configuration become those of a bundle: as far as the data allow, or with a clear message."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from recsys.bundle.filters import Filters, Range
from recsys.bundle.profiles import Profile
from recsys.columns import ITEM_ID, VALUE
from recsys.config.touchpoints import AUTO, TouchpointConfig, TouchpointsConfig
from recsys.data.prepared import Prepared
from recsys.errors import ConfigError, did_you_mean

PRICE = "price"
"""Name of the attribute that is taken for the price when none is named."""
OF_RANKER = ("together", "due")
"""What only a bundle with a second stage knows."""
CATEGORIES = 2, 20_000
"""Fewest and most values of an attribute that is taken for the category when none is named."""


@dataclass(frozen=True)
class FittedTouchpoints:
    """The touchpoints of a bundle.

    Attributes:
        profiles: By name.
        price: Attribute of the items that is their price; None: what was paid, where that is known.
    """

    profiles: Mapping[str, Profile]
    price: str | None


def fit_touchpoints(settings: TouchpointsConfig, prepared: Prepared, has_ranker: bool) -> FittedTouchpoints:
    """Find what the data have for every filter of a configuration.

    Args:
        settings: Checked.
        prepared: Its items and the columns of its events are looked at.
        has_ranker: Whether the bundle has a second stage.

    Raises:
        ConfigError: A profile that does not adapt needs what the data have not, or an attribute is named that is not
            there; every such place is named.
    """
    items, problems = prepared.items, list[str]()
    attributes = [name for name in items.columns if name != ITEM_ID]
    for key, name in (("price", settings.price), ("category", settings.category)):
        if name not in (None, AUTO):
            problems += _missing(f"touchpoints.{key}={name}", str(name), attributes)
    price = settings.price
    if price == AUTO:
        price = PRICE if PRICE in attributes and items[PRICE].dtype.is_numeric() else None
    elif price in attributes and not items[price].dtype.is_numeric():
        problems.append(f"touchpoints.price={price}: is {items[price].dtype}; the price must be a number.")
    paid = settings.price == AUTO and has_ranker and VALUE in prepared.event_parts[0].collect_schema()
    category = categories(prepared) if settings.category == AUTO else settings.category
    data = _Data(attributes, category, has_price=price is not None or paid, has_ranker=has_ranker)
    profiles = {name: _fit(name, profile, data, problems) for name, profile in settings.profiles.items()}
    if problems:
        raise ConfigError("\n".join(problems))
    return FittedTouchpoints(profiles, price)


def categories(prepared: Prepared) -> str | None:
    """Return the attribute that parts the items as a shop would: with nearest to the square root of N values."""
    items = prepared.items
    columns = dict.fromkeys(
        f.column
        for f in prepared.spec.side("item")
        if f.kind == "id" and f.column in items.columns and f.column != ITEM_ID
    )
    counts = {name: items[name].drop_nulls().n_unique() for name in columns}
    fewest, most = CATEGORIES
    fit = {name: abs(math.log(n) - math.log(len(items)) / 2) for name, n in counts.items() if fewest <= n <= most}
    return min(fit, key=lambda name: fit[name]) if fit else None


@dataclass(frozen=True)
class _Data:
    """What a profile may need."""

    attributes: list[str]
    category: str | None
    has_price: bool
    has_ranker: bool


def _fit(name: str, asked: TouchpointConfig, data: _Data, problems: list[str]) -> Profile:
    place, gone = f"touchpoints.profiles.{name}", dict[str, str]()
    if not data.has_ranker:
        for key in ("sources", "order"):
            for word in set(getattr(asked, key)) & set(OF_RANKER):
                gone[f"{key}: {word}"] = "needs a ranker"
    for key in ("price", "band"):
        if getattr(asked, key) is not None and not data.has_price:
            gone[key] = "no item has a price: no numeric attribute of that name, and no value of events with a ranker"
    named = {"same": [asked.same] if asked.same else [], "caps": list(asked.caps)}
    for key, attributes in named.items():
        for attribute in attributes:
            if attribute == AUTO and data.category is None:
                gone[f"{key}: {AUTO}"] = "no attribute of the items parts them into categories"
            elif attribute != AUTO:
                problems += _missing(f"{place}.{key}: {attribute}", attribute, data.attributes)
    if not asked.adapts:
        problems += [f"{place}.{key}: {why}; leave it out, or set {place}.adapts=true." for key, why in gone.items()]
    caps = {data.category if key == AUTO else key: most for key, most in asked.caps.items()}
    filters = Filters(
        without_bought=asked.without_bought,
        price=None if "price" in gone else _range(asked.price),
        band=None if "band" in gone else _range(asked.band),
        same=(data.category if asked.same == AUTO else asked.same) or "",
        caps={key: most for key, most in caps.items() if key is not None},
        diversity=asked.diversity,
    )
    without = "personal" if asked.request == "none" else "similar"
    return Profile(
        request=asked.request,
        sources=tuple(word for word in asked.sources if f"sources: {word}" not in gone) or (without,),
        order=tuple(word for word in asked.order if f"order: {word}" not in gone) or (without,),
        depth=asked.depth,
        k=asked.k,
        filters=filters,
        left_out=tuple(f"{key}: {why}" for key, why in gone.items()),
    )


def _range(bounds: list[float] | None) -> Range | None:
    return None if bounds is None else (bounds[0], None if math.isinf(bounds[1]) else bounds[1])


def _missing(place: str, name: str, legal: list[str]) -> list[str]:
    if name in legal:
        return []
    return [
        f"{place}: the items have no such attribute; there are: {', '.join(legal) or 'none'}."
        + did_you_mean(name, legal)
    ]
