"""Writes small logs of shapes that a shop's recommender meets elsewhere, to see how defaults cope: user, item and time.

python scripts/make_shapes.py {news,music,sparse} --out news.parquet [--seed 0]

    news     clicks alone; an article lives for three days, so half of what is read next was never seen before
    music    a few songs, heard again and again; of ten plays eight or nine are repeats
    sparse   two purchases a user, most of them in the one category that the user likes: a column ``category``

    recsys train data=tables data.events=news.parquet data.name=news
    recsys train data=tables data.events=sparse.parquet data.name=sparse data.item_attributes=[category]
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.errors import DataError
from recsys.files import replacing

START = np.datetime64(datetime(2025, 1, 1))
DAY = 86_400_000_000
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a log; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("--out", type=Path, required=True, help="Parquet file to write; it must not be there yet")
    parser.add_argument("--users", type=int, help="as many as the shape has by default")
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args(arguments)
    if wanted.out.exists():
        parser.error(f"{wanted.out} is there already; name another file, or remove it.")
    draw = np.random.default_rng(wanted.seed)
    made = SHAPES[wanted.shape](draw, wanted.users) if wanted.users else SHAPES[wanted.shape](draw)
    try:
        with replacing(wanted.out) as part:
            made.write_parquet(part)
    except DataError as error:
        parser.error(str(error))
    users, items = made["user_id"].n_unique(), made["item_id"].n_unique()
    print(f"{wanted.out}: {len(made):,} events, {users:,} users, {items:,} items")
    return 0


def news(
    draw: np.random.Generator, users: int = 5000, items: int = 4000, days: int = 70, topics: int = 20, life: float = 3.0
) -> pl.DataFrame:
    """Draw clicks on articles that fade.

    Args:
        draw: Where chance comes from.
        users: U; each reads some of the topics, 0.25 clicks a day in the median.
        items: N; they appear evenly over the days, each of one topic, and are read once by a user.
        days: That the log lasts.
        topics: Of articles.
        life: Days in which the interest in an article falls to 1 / e.
    """
    likes = draw.dirichlet(np.full(topics, 0.25), users)
    topic = draw.integers(0, topics, items)
    born, appeal = draw.uniform(-5, days, items), draw.lognormal(0, 1, items)
    pace = draw.lognormal(np.log(0.25), 0.8, users)
    of_topic = topic == np.arange(topics)[:, None]
    step, parts = 0.25, []
    for start in np.arange(0, days, step):
        age = start - born
        weight = of_topic * np.where(age >= 0, appeal * np.exp(-age.clip(0) / life), 0.0)  # [topics, N]
        is_on = weight.sum(1) > 0
        user = np.repeat(np.arange(users), draw.poisson(pace * step))
        chosen = pick(draw, likes[user] * is_on + 1e-12 * is_on)
        item = pick(draw, weight[chosen])
        parts.append((user, item, start + step * draw.random(len(user))))
    user, item, time = (np.concatenate(column) for column in zip(*parts, strict=True))
    first = np.sort(np.unique(user * items + item, return_index=True)[1])
    return log_of(user[first], item[first], time[first])


def music(
    draw: np.random.Generator, users: int = 800, items: int = 6000, days: int = 200, genres: int = 30
) -> pl.DataFrame:
    """Draw plays, of which 15 % are of a song by its genre and popularity, the others of one that was heard lately.

    Args:
        draw: Where chance comes from.
        users: U; each begins in the first 60 days and plays 300 songs in the median.
        items: N, the songs.
        days: That the log lasts.
        genres: Of the songs; a user likes a few.
    """
    appeal, genre = draw.lognormal(0, 1.3, items), draw.integers(0, genres, items)
    likes = draw.dirichlet(np.full(genres, 0.15), users)
    plays = draw.lognormal(np.log(300), 0.7, users).astype(np.int64).clip(1, 3000)
    played = np.zeros((users, int(plays.max())), dtype=np.int64)
    for place in range(played.shape[1]):
        who = np.flatnonzero(plays > place)
        back = np.minimum(3 * draw.pareto(0.9, len(who)), place - 1).astype(np.int64)
        played[who, place] = played[who, np.maximum(place - 1 - back, 0)]
        fresh = who[(draw.random(len(who)) < 0.15) | (place == 0)]
        played[fresh, place] = pick(draw, likes[fresh][:, genre] * appeal)
    user = np.repeat(np.arange(users), plays)
    first = draw.uniform(0, 60, users)[user]
    time = first + (days - first) * draw.random(len(user))
    time = time[np.lexsort((time, user))]  # the places of a user follow one another
    return log_of(user, played[np.arange(played.shape[1]) < plays[:, None]], time)


def sparse(
    draw: np.random.Generator, users: int = 30_000, items: int = 5000, days: int = 300, categories: int = 60
) -> pl.DataFrame:
    """Draw two purchases a user, seven of ten in the category that the user likes.

    Args:
        draw: Where chance comes from.
        users: U; they come evenly over the days.
        items: N.
        days: That the log lasts.
        categories: Of the items.
    """
    category, appeal = draw.integers(0, categories, items), draw.lognormal(0, 1.2, items)
    user = np.repeat(np.arange(users), draw.geometric(0.55, users))
    liked = draw.integers(0, categories, users)[user]
    chosen = np.where(draw.random(len(user)) < 0.7, liked, draw.integers(0, categories, len(user)))
    weight = (category == np.arange(categories)[:, None]) * appeal
    item = pick(draw, weight[chosen])
    time = draw.uniform(0, days, users)[user] + draw.exponential(40, len(user))
    kept = time < days
    made = log_of(user[kept], item[kept], time[kept])
    return made.with_columns(category=pl.Series(category)[made["item_id"]])


def pick(draw: np.random.Generator, weights: Floats) -> Ints:
    """Draw a column of each row of ``[n, k]`` by its weights, int64 ``[n]``."""
    out = np.empty(len(weights), dtype=np.int64)
    for start in range(0, len(weights), 1024):
        ends = weights[start : start + 1024].cumsum(1)
        out[start : start + 1024] = (ends <= draw.random((len(ends), 1)) * ends[:, -1:]).sum(1)
    return out


def log_of(user: Ints, item: Ints, days: Floats) -> pl.DataFrame:
    """Return events in the order of time, days counted from :data:`START`."""
    time = START + (days * DAY).astype("timedelta64[us]")
    return pl.DataFrame({"user_id": user, "item_id": item, "timestamp": time}).sort("timestamp", maintain_order=True)


SHAPES: dict[str, Callable[..., pl.DataFrame]] = {"news": news, "music": music, "sparse": sparse}

if __name__ == "__main__":
    sys.exit(main())
