"""The baselines by name, and those that only count: they are hard to beat where people buy the same things again."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from recsys.data.candidate_tables import recent_days
from recsys.data.log import DAY
from recsys.errors import ConfigError, did_you_mean
from recsys.evaluation.collaborative import ALS, EASE, ItemKNN
from recsys.evaluation.content import ContentKNN
from recsys.evaluation.next_basket import TIFUKNN, UPCF
from recsys.evaluation.recommender import Past, Recommender, first_in_basket, popularity, user_items, with_fallback


@dataclass
class Popular:
    """The same list for everybody: items by number of users who took them."""

    name: str = "popular"
    item_scores: Tensor = field(init=False, repr=False)

    def fit(self, past: Past) -> None:
        """Count users."""
        self.item_scores = popularity(past.history)

    def scores(self, users: Tensor) -> Tensor:
        """Return the counts, scaled to ``[0, 1)``, ``[B, N]`` without a copy."""
        return self.item_scores.expand(len(users), -1)


@dataclass
class RecentPopular:
    """Items by number of users who took them in the last days before the cut, then ever.

    Attributes:
        days: None takes those that :func:`~recsys.data.candidate_tables.recent_days` finds in the past.
    """

    name: str = "recent_popular"
    days: float | None = None
    item_scores: Tensor = field(init=False, repr=False)

    def fit(self, past: Past) -> None:
        """Count users of the window ``[cut - days, cut)``."""
        days = recent_days(past.history, past.cut) if self.days is None else self.days
        recent = popularity(past.history.between(past.cut - int(days * DAY), past.cut))
        self.item_scores = with_fallback(recent, popularity(past.history))

    def scores(self, users: Tensor) -> Tensor:
        """Return the recent counts, scaled, ``[B, N]`` without a copy."""
        return self.item_scores.expand(len(users), -1)


@dataclass
class PersonalFrequency:
    """What the user takes often and took lately; after that, what is popular.

    An item scores the sum of ``(1 + age / scale) ** -power`` over the user's past baskets that hold it, the age
    in days. In the spirit of the personal frequencies of Hu et al. 2020 (TIFU-KNN) and Li et al. 2023
    (arXiv 2109.14233).

    Attributes:
        scale: Days after which the decay sets in.
        power: How fast a basket is forgotten; 0 counts all baskets alike.
    """

    name: str = "personal_frequency"
    scale: float = 30.0
    power: float = 0.5

    def fit(self, past: Past) -> None:
        """Weigh every basket by its age; an item counts once a basket."""
        age = (past.cut - past.history.time).double() / DAY
        weights = (1 + age / self.scale) ** -self.power
        self._matrix = user_items(past.history, weights * first_in_basket(past.history))
        self._popular = popularity(past.history)

    def scores(self, users: Tensor) -> Tensor:
        """Return the decayed frequencies, popularity below them, ``[B, N]``."""
        return with_fallback(torch.from_numpy(self._matrix[users.numpy()].toarray()), self._popular)


BASELINES: dict[str, Callable[[int], Recommender]] = {
    "popular": lambda _: Popular(),
    "recent_popular": lambda _: RecentPopular(),
    "personal_frequency": lambda _: PersonalFrequency(),
    "tifu_knn": lambda _: TIFUKNN(),
    "up_cf": lambda _: UPCF(),
    "item_knn": lambda _: ItemKNN(),
    "als": lambda seed: ALS(seed=seed),
    "ease": lambda _: EASE(),
    "content_knn": lambda _: ContentKNN(),
}
"""Name to a maker that takes the seed."""


def make_baseline(name: str, seed: int = 0) -> Recommender:
    """Make an unfitted baseline.

    Raises:
        ConfigError: No baseline has this name.
    """
    if name not in BASELINES:
        raise ConfigError(
            f"evaluation.baselines: '{name}' is not one of {', '.join(BASELINES)}." + did_you_mean(name, BASELINES)
        )
    return BASELINES[name](seed)
