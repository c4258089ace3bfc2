"""Keys below ``touchpoints``: what each place where items are shown asks for."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from recsys.errors import did_you_mean

REQUESTS = ("none", "item", "cart", "bought")
"""What a request brings beside its user: nothing, one item, what is in the cart, what was just bought."""
SOURCES = ("personal", "together", "similar")
"""What candidates come from: the user's own, what is bought together with the request's items, what is like them."""
SIGNALS = (*SOURCES, "due")
"""What candidates are ordered by: how probably the user takes an item, how often it is bought together with those of
the request, how near its vector is to theirs, how due it is for the user again."""
AUTO = "auto"


@dataclass
class TouchpointConfig:
    """One touchpoint; what the bundle makes of it: recsys/bundle/profiles.py."""

    request: str = "none"  # none | item | cart | bought: what it brings beside its user; never part of the answer
    sources: list[str] = field(default_factory=lambda: ["personal"])  # personal | together | similar: candidates
    order: list[str] = field(default_factory=lambda: ["personal"])  # these, or due; several are fused by their ranks
    depth: int = 200  # candidates that together and similar name
    k: int = 20  # items of an answer, where the caller does not say
    without_bought: bool = False  # true: leave out what the user has had
    price: list[float] | None = None  # lowest and highest price; .inf: open
    band: list[float] | None = None  # the same as multiples of the price of an item of the request
    same: str | None = None  # attribute that such an item must share; auto: touchpoints.category
    caps: dict[str, int] = field(default_factory=dict)  # attribute, or auto -> most items of an answer with one value
    diversity: float = 1.0  # weight of relevance against likeness in maximal marginal relevance; 1: none
    adapts: bool = False  # true: what the data do not allow is dropped with a message; false: it is an error


@dataclass
class TouchpointsConfig:
    """Touchpoints of the bundle, and what their filters read."""

    price: str | None = AUTO  # numeric item attribute; auto: price, else the median of what was paid; null: none
    category: str | None = AUTO  # item attribute behind auto; auto: that with about sqrt(items) values; null: none
    profiles: dict[str, TouchpointConfig] = field(default_factory=dict)  # name -> touchpoint


def touchpoint_problems(cfg: TouchpointsConfig) -> Iterator[str]:
    """Yield a message for every rule that a touchpoint breaks; each names key, value and what is legal."""
    for name, profile in cfg.profiles.items():
        place = f"touchpoints.profiles.{name}"
        yield from _words(place, profile)
        for key in ("depth", "k"):
            if getattr(profile, key) < 1:
                yield f"{place}.{key}={getattr(profile, key)}: must be 1 or more."
        for key in ("price", "band"):
            bounds = getattr(profile, key)
            if bounds is not None and not (len(bounds) == 2 and 0 <= bounds[0] <= bounds[1]):
                yield f"{place}.{key}={list(bounds)}: must be two numbers with 0 <= lowest <= highest, or null."
        for attribute, most in profile.caps.items():
            if most < 1:
                yield f"{place}.caps.{attribute}={most}: must be 1 or more."
        if not 0 <= profile.diversity <= 1:
            yield f"{place}.diversity={profile.diversity}: must be a share from 0 to 1."
        if profile.request == "none" and (needing := list(_needing_items(profile))):
            yield f"{place}.request=none: {', '.join(needing)} needs items of the request; take item, cart or bought."


def _words(place: str, profile: TouchpointConfig) -> Iterator[str]:
    asked = [("request", [profile.request], REQUESTS), ("sources", profile.sources, SOURCES)]
    for key, found, legal in [*asked, ("order", profile.order, SIGNALS)]:
        if not found or len(set(found)) < len(found):
            yield f"{place}.{key}={list(found)}: name one or more of {', '.join(legal)}, each once."
        for word in found:
            if word not in legal:
                yield f"{place}.{key}: '{word}' is not one of {', '.join(legal)}.{did_you_mean(word, legal)}"


def _needing_items(profile: TouchpointConfig) -> Iterator[str]:
    for key in ("sources", "order"):
        yield from (f"{key}: {word}" for word in getattr(profile, key) if word in ("together", "similar"))
    yield from (key for key in ("band", "same") if getattr(profile, key) is not None)
