"""Questions that the test window puts to touchpoints: who asks, what the request brings, and what was taken then.

One question a user, so that users stand for themselves in intervals::

    none    everything that the user took in the window
    item    one item of a basket of the window is hidden, one other is shown
    cart    one item of a basket is hidden, the rest is shown
    bought  a basket is shown; the answer is what the same user takes in the days after it
    upsell  an item in place of which the user took a dearer one of its category: shown is what they had last of it

What is shown is the request. Nothing else of the window is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor

from recsys.data.log import DAY, InteractionLog
from recsys.data.topk import NONE

DRAWN = 4
"""Users that are looked at for each that is asked, where many of them have nothing to be asked."""


@dataclass(frozen=True)
class Questions:
    """R questions.

    Attributes:
        users: User rows, int64 ``[R]``, distinct.
        items: For each what the request brings, item rows.
        truth: For each the item rows that count as an answer, one or more.
    """

    users: Tensor
    items: list[Tensor]
    truth: list[Tensor]

    def __len__(self) -> int:
        return len(self.users)

    def only(self, allowed: Callable[[int], Tensor]) -> "Questions":
        """Return the questions that may be answered, with the truth that may be an answer.

        Args:
            allowed: Number of a question to the items that its answer may hold, bool ``[N]``.
        """
        truth = [items[allowed(row)[items]] for row, items in enumerate(self.truth)]
        kept = [row for row, items in enumerate(truth) if len(items)]
        return Questions(self.users[kept], [self.items[row] for row in kept], [truth[row] for row in kept])


def window_questions(window: InteractionLog, most: int, seed: int) -> Questions:
    """Ask for everything that users took.

    Args:
        window: Events; only relevant ones count.
        most: Questions, drawn among the users.
        seed: Of the draw.
    """
    taken = _events(window).group_by("user", maintain_order=True).agg(pl.col("item").unique(maintain_order=True))
    return _asked(taken.with_columns(pl.lit([], pl.List(pl.Int64)).alias("shown")), most, seed)


def basket_questions(window: InteractionLog, most: int, seed: int, *, shown: int | None = None) -> Questions:
    """Hide one item of a basket of each user.

    Args:
        window: Events; only relevant ones count.
        most: Questions, drawn among the users who have a basket of two items.
        seed: Of all draws: which basket of a user, which item, which others.
        shown: Other items that are shown; None: all.
    """
    baskets = _baskets(window, seed).filter(pl.col("item").list.len() > 1)
    one = baskets.group_by("user", maintain_order=True).first()
    rest = pl.col("item").list.slice(1, shown)
    return _asked(one.with_columns(rest.alias("shown"), pl.col("item").list.head(1)), most, seed)


def bought_questions(window: InteractionLog, most: int, seed: int, *, days: float) -> Questions:
    """Ask what users take within days after a basket.

    Args:
        window: Events; only relevant ones count. Baskets less than ``days`` before its last event are not asked about.
        most: Questions, drawn among the users who came back.
        seed: Of all draws.
        days: After the basket.
    """
    events, horizon = _events(window), int(days * DAY)
    whole = _baskets(window, seed).filter(pl.col("time") <= pl.lit(events["time"].max()) - horizon)
    people = whole["user"].unique().sort()
    people = people.sample(min(DRAWN * most, len(people)), seed=seed)  # a join over all could be large
    whole = whole.filter(pl.col("user").is_in(people.implode()))
    later = whole.select("user", "basket", "time", shown="item").join(
        events.select("user", "item", when="time"), on="user", maintain_order="left_right"
    )
    later = later.filter((pl.col("when") > pl.col("time")) & (pl.col("when") <= pl.col("time") + horizon))
    later = later.filter(~pl.col("shown").list.contains(pl.col("item")))
    asked = later.group_by("user", "basket", maintain_order=True).agg(
        pl.col("shown").first(), pl.col("item").unique(maintain_order=True)
    )
    return _asked(asked.group_by("user", maintain_order=True).first(), most, seed)


def upsell_questions(
    history: InteractionLog,
    window: InteractionLog,
    most: int,
    seed: int,
    *,
    prices: Tensor,
    category: Tensor,
    band: tuple[float | None, float | None],
) -> Questions:
    """Ask for the dearer item that a user took in place of what they had last of its category.

    Args:
        history: Events before the window.
        window: Events; only relevant ones count.
        most: Questions, drawn among the users who took one.
        seed: Of all draws.
        prices: Of the items, ``[N]``, NaN where not known.
        category: Code of the items, int64 ``[N]``, -1 for none.
        band: The dearer item's price in multiples of the other's; None is open.
    """
    facts = pl.DataFrame({"item": range(len(prices)), "price": prices.numpy(), "category": category.numpy()})
    facts = facts.filter(pl.col("price").is_not_nan() & (pl.col("category") != NONE))
    last = _events(history).join(facts, on="item", maintain_order="left")
    last = last.sort("time", maintain_order=True).group_by("user", "category", maintain_order=True).last()
    taken = _events(window).join(facts, on="item", maintain_order="left")
    both = taken.join(last.select("user", "category", old="item", paid="price"), on=["user", "category"])
    low, high = band
    both = both.filter(pl.col("item") != pl.col("old"))
    both = both.filter(pl.col("price") >= (low or 0.0) * pl.col("paid"))
    both = both if high is None else both.filter(pl.col("price") <= high * pl.col("paid"))
    drawn = both.unique(["user", "old", "item"], maintain_order=True).sample(fraction=1.0, shuffle=True, seed=seed)
    first = drawn.group_by("user", maintain_order=True).first().sort("user")
    return _asked(first.select("user", pl.concat_list("old").alias("shown"), pl.concat_list("item")), most, seed)


def _events(log: InteractionLog) -> pl.DataFrame:
    """Return the relevant events, in the order of the log."""
    log = log.only_relevant()
    return pl.DataFrame({name: getattr(log, name).cpu().numpy() for name in ("user", "item", "time", "basket")})


def _baskets(window: InteractionLog, seed: int) -> pl.DataFrame:
    """Return ``user, basket, time`` of the last event and the distinct items; baskets and items in a drawn order."""
    drawn = _events(window).sample(fraction=1.0, shuffle=True, seed=seed)
    columns = pl.col("time").max(), pl.col("item").unique(maintain_order=True)
    return drawn.group_by("user", "basket", maintain_order=True).agg(columns)


def _asked(frame: pl.DataFrame, most: int, seed: int) -> Questions:
    """Draw among rows of ``user, shown, item`` (lists), one a user."""
    drawn = frame.sample(min(most, len(frame)), seed=seed).sort("user")

    def rows(name: str) -> list[Tensor]:
        return [torch.tensor(items, dtype=torch.int64) for items in drawn[name].to_list()]

    return Questions(torch.from_numpy(drawn["user"].to_numpy().copy()), rows("shown"), rows("item"))
