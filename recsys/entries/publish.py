"""``recsys publish``: the lists of a bundle into Redis, for readers who have no time to ask it."""

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from recsys.config.publish import PublishConfig
from recsys.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import polars as pl

    from recsys.bundle.reader import Bundle
    from recsys.serving.cache import Written

SECONDS_A_DAY = 86_400


def run(cfg: PublishConfig) -> "Written":
    """Write lists for users, segments and strangers, switch readers over, and prune what was before.

    Raises:
        BundleError: The bundle cannot be used.
        ConfigError: No such attribute of the users, a user id of the wrong type, or the client is not installed.
        DataError: The server does not answer or refuses, or another publisher is at work.
    """
    import polars as pl
    from rich.console import Console

    from recsys.columns import USER_ID
    from recsys.entries.recommend import asked_users, load, progress_of
    from recsys.serving.cache import new_generation, publication, without_password

    console, start = Console(), time.perf_counter()
    bundle = load(cfg.bundle, cfg.tracking_uri)
    users = asked_users(cfg.users, bundle)
    segments = segments_of(bundle, cfg.segment)
    generation = new_generation(bundle.manifest.fingerprint)
    seconds = round(cfg.days * SECONDS_A_DAY)
    votes: list[pl.DataFrame] = []
    with publication(cfg.to, cfg.name, generation, seconds, cfg.keep_seconds) as opened:
        with progress_of("publishing", console) as progress:
            bar = progress.add_task("", total=len(users))
            for begin in range(0, len(users), cfg.batch_size):
                some = users.slice(begin, cfg.batch_size)
                found = bundle.recommend(some, cfg.k, exclude_seen=cfg.exclude_seen)
                opened.write(lists(found, USER_ID, "user"))
                if segments is not None:
                    votes = [tallied([*votes, counted(found, segments)])]
                progress.advance(bar, len(some))
        stranger = bundle.recommend([None], cfg.k)
        opened.write({"stranger": row(stranger["item_id"].to_list(), stranger["score"].to_list())})
        if votes:
            opened.write(lists(best(votes[0], cfg.k), "segment", "segment"))
        about = {"bundle": bundle.manifest.fingerprint, "k": cfg.k, "users": len(users), "segment": cfg.segment}
        written = opened.switch(about | {"made": datetime.now(UTC).isoformat(timespec="seconds")})
    console.print(
        f"{written.lists:,} lists -> {without_password(cfg.to)} as {cfg.name}:{written.generation}:... "
        f"({time.perf_counter() - start:.1f} s; they live {cfg.days:g} days; {written.pruned:,} older keys go)",
        highlight=False,
        soft_wrap=True,
    )
    return written


def segments_of(bundle: "Bundle", column: str | None) -> "pl.DataFrame | None":
    """Return ``user_id`` and ``segment`` of the users that have one; None without a column.

    Raises:
        ConfigError: The bundle's users have no such attribute.
    """
    import polars as pl

    from recsys.columns import USER_ID

    if column is None:
        return None
    users = bundle.users
    legal = [name for name in users.columns if name != USER_ID]
    if column not in legal:
        raise ConfigError(
            f"segment={column}: the users of this bundle have no such attribute; legal: {', '.join(legal) or 'none'}."
            + did_you_mean(column, legal)
        )
    return users.select(USER_ID, pl.col(column).cast(pl.String).alias("segment")).drop_nulls()


def lists(found: "pl.DataFrame", column: str, kind: str) -> dict[str, dict[str, Any]]:
    """Return the ends of keys with what they hold, from rows sorted by rank."""
    import polars as pl

    grouped = found.group_by(column, maintain_order=True).agg(pl.col("item_id", "score"))
    return {f"{kind}:{who}": row(items, scores) for who, items, scores in grouped.iter_rows()}


def row(items: list[Any], scores: list[float]) -> dict[str, Any]:
    """Return one list as it is stored."""
    return {"items": items, "scores": [round(score, 6) for score in scores]}


def counted(found: "pl.DataFrame", segments: "pl.DataFrame") -> "pl.DataFrame":
    """Return ``segment, item_id, score``: the discounts of NDCG that the lists of a segment's users give its items."""
    import polars as pl

    votes = found.join(segments, on="user_id").with_columns(score=1 / (pl.col("rank") + 1).log(2))
    return tallied([votes.select("segment", "item_id", "score")])


def tallied(parts: "list[pl.DataFrame]") -> "pl.DataFrame":
    """Add up scores by segment and item."""
    import polars as pl

    return pl.concat(parts).group_by("segment", "item_id").agg(pl.col("score").sum())


def best(votes: "pl.DataFrame", k: int) -> "pl.DataFrame":
    """Return the k highest of each segment, as shares of the first."""
    import polars as pl

    ordered = votes.sort("segment", "score", "item_id", descending=[False, True, False])
    share = pl.col("score") / pl.col("score").max().over("segment")
    return ordered.with_columns(score=share).group_by("segment", maintain_order=True).head(k)
