"""Profiles of touchpoints, and the small part of a bundle that holds them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recsys.bundle import format as part
from recsys.bundle.filters import Filters
from recsys.files import json_bytes


@dataclass(frozen=True)
class Profile:
    """One touchpoint; what the words mean: recsys/config/touchpoints.py.

    Attributes:
        request: ``none``, ``item``, ``cart`` or ``bought``: what a request brings beside its user.
        sources: What candidates come from: ``personal``, ``together``, ``similar``.
        order: What they are ordered by, these or ``due``; several are fused by their ranks, ``sum of 1 / (60 + rank)``.
        depth: Candidates that each source names, beside the ranker's own.
        k: Items of an answer, where the caller does not say.
        filters: What the answer may hold.
        left_out: What the configuration asks for and the data do not allow, with the reason.
    """

    request: str = "none"
    sources: tuple[str, ...] = ("personal",)
    order: tuple[str, ...] = ("personal",)
    depth: int = 200
    k: int = 20
    filters: Filters = field(default_factory=Filters)
    left_out: tuple[str, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        """Return the profile as JSON data."""
        lists = {name: list(getattr(self, name)) for name in ("sources", "order", "left_out")}
        rest = {"request": self.request, "depth": self.depth, "k": self.k}
        return rest | lists | {"filters": self.filters.to_plain()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Profile":
        """Read what :meth:`to_plain` wrote."""
        lists: dict[str, Any] = {name: tuple(plain[name]) for name in ("sources", "order", "left_out")}
        rest = {name: plain[name] for name in ("request", "depth", "k")}
        return cls(**rest, **lists, filters=Filters.from_plain(plain["filters"]))


def read_profiles(folder: Path) -> tuple[dict[str, Profile], str | None]:
    """Return the profiles of a bundle by name, and its attribute with the price; none of a bundle without the part."""
    path = folder / part.TOUCHPOINTS
    if not path.is_file():
        return {}, None
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: Profile.from_plain(plain) for name, plain in content["profiles"].items()}, content["price"]


def write_profiles(folder: Path, profiles: Mapping[str, Profile], price: str | None) -> None:
    """Write the part of a bundle that says what its touchpoints are.

    Args:
        folder: Of the bundle.
        profiles: By name.
        price: Numeric attribute of the items; None: the median of what was paid, where there is a ranker that knows it.
    """
    content = {"price": price, "profiles": {name: profile.to_plain() for name, profile in profiles.items()}}
    (folder / part.TOUCHPOINTS).write_bytes(json_bytes(content))
