"""Columns that hold the answer: outcomes as features, context that names the item, attributes from the future."""

from collections.abc import Iterable, Sequence

import polars as pl

from recsys.audit.findings import Finding
from recsys.columns import BASKET_ID, EVENT_TYPE, ITEM_ID, QUANTITY, TIMESTAMP, USER_ID, VALUE
from recsys.data.log import DAY
from recsys.features import Feature

OUTCOMES = {
    EVENT_TYPE: "is what happened, which is to be predicted",
    QUANTITY: "is known only when the item was taken",
    VALUE: "is known only when the item was taken",
    BASKET_ID: "tells which other items are of the same basket",
    ITEM_ID: "is the item that is to be predicted",
}
"""Columns of an event that are its outcome, with the reason."""
FIRST = "the first time"
"""What the earliest event of an item or a user is called."""
TOLD = 0.99
"""Share of what the most frequent value leaves open that the item settles, from which a context is the item's own."""
TRACKS = 0.999
"""Rank correlation with a count of all events from which an attribute is that count."""
FEWEST = 20
"""Items or users that must tell past from whole, for a verdict."""


def audit_outcomes(features: Iterable[Feature]) -> list[Finding]:
    """Name features that are made of the outcome of their own event."""
    return [
        Finding(
            "label among the features",
            "error",
            f"events, column '{feature.column}'",
            1,
            f"feature '{feature.name}' (side {feature.side}) reads it; it {OUTCOMES[feature.column]}",
            "take it out of data.features; how often and for how much something was bought before is computed as of "
            "each cut",
        )
        for feature in features
        if feature.side == "context" and feature.column in OUTCOMES
    ]


def audit_context(events: pl.DataFrame, columns: Sequence[str]) -> list[Finding]:
    """Name columns of the moment that belong to the item: they tell what was taken, and no request has them.

    Only items that several users took are looked at. A column is the item's own where it has the item's most frequent
    value in nearly every row, while items differ in it.
    """
    findings = []
    for name in columns:
        known = events.select(USER_ID, ITEM_ID, value=name).drop_nulls()
        known = known.filter(pl.col(USER_ID).n_unique().over(ITEM_ID) > 1)
        if known.is_empty():
            continue
        counts = known.group_by(ITEM_ID, "value").len()
        told = int(counts.group_by(ITEM_ID).agg(pl.col("len").max())["len"].sum())
        most = int(counts.group_by("value").agg(pl.col("len").sum())["len"].max())  # type: ignore[arg-type]
        if len(known) - most < FEWEST or told - most < TOLD * (len(known) - most):
            continue
        findings.append(
            Finding(
                "context names the item",
                "error",
                f"events, column '{name}'",
                len(known),
                f"{told:,} of {len(known):,} rows have the usual value of their item; the most frequent value alone "
                f"has {most:,}: it is an attribute of the item, which a request does not have",
                "take it out of data.context; it belongs to the items table (data.items, data.item_attributes)",
            )
        )
    return findings


def audit_age(events: pl.DataFrame, attribute: pl.DataFrame) -> list[Finding]:
    """Name an attribute that is younger than events that use it.

    Args:
        events: ``user_id``, ``item_id`` and ``timestamp`` in UTC.
        attribute: ``item_id`` or ``user_id``, the value, and ``known since``, the time from which it is known, in
            UTC; null: always.
    """
    key, column, _ = attribute.columns
    name = key.removesuffix("_id")
    used = events.join(attribute.drop_nulls(), on=key).filter(pl.col(TIMESTAMP) < pl.col("known since"))
    used = used.sort(TIMESTAMP, key)
    if used.is_empty():
        return []
    row = used.row(0, named=True)
    return [
        Finding(
            "attribute younger than the event",
            "error",
            f"{name}s, column '{column}'",
            len(used),
            f"{len(used):,} of {len(events):,} events, of {used[key].n_unique():,} {name}s, are older than the value "
            f"that they use; first: {key} {row[key]!r} at {row[TIMESTAMP]}, value {row[column]!r} known since "
            f"{row['known since']}",
            f"give the value as it was at the time of the event, or leave the column out (data.{name}_attributes)",
        )
    ]


def audit_aggregates(
    parts: Sequence[pl.LazyFrame], table: pl.DataFrame, key: str, cut: int, name: str, relevant: Sequence[str] = ()
) -> list[Finding]:
    """Name numeric attributes that sum up all events, those at and after the cut too.

    Each attribute is compared with counts, sums and the times of the first and the last event, over all events and
    over those before the cut, on the items or users for which the two differ: with sums and counts by rank
    correlation, with times to the day.

    Args:
        parts: The events, all those of a user in one part: ``user_id``, ``item_id``, ``timestamp`` in UTC,
            ``quantity``, ``value``, ``event_type`` where given.
        table: One row an item or user.
        key: ``item_id`` or ``user_id``.
        cut: Microseconds since 1970 UTC.
        name: Of the table, for the finding.
        relevant: Event types that count; the sums are tried over these events and over all. Empty: over all.
    """
    numeric = [c for c, dtype in table.schema.items() if c != key and dtype.is_numeric()]
    if not numeric:
        return []
    logs = {"events": pl.lit(True)}
    if relevant and EVENT_TYPE in parts[0].collect_schema():
        logs["relevant events"] = pl.col(EVENT_TYPE).is_in(list(relevant))
    is_past = pl.col(TIMESTAMP).dt.epoch("us") < cut
    findings = {}
    for log_name, counts in logs.items():
        whole, past = (_sums([p.filter(which) for p in parts], table, key) for which in (counts, counts & is_past))
        for column in numeric:
            for sums in whole.columns:
                tracked = _tracks(table[column], whole[sums], past[sums], is_time=sums.endswith("time"))
                if tracked and column not in findings:
                    may_be_honest = sums == FIRST  # so is the date of a launch or a registration
                    findings[column] = Finding(
                        "attribute sums up the future",
                        "warning" if may_be_honest else "error",
                        f"{name}, column '{column}'",
                        tracked[0],
                        f"it is {sums} of all {log_name}, those after the cut too ({tracked[1]})",
                        "keep it if it is known before, as the date of a launch is; if it was made of the events, "
                        f"leave it out (data.{name.removesuffix('s')}_attributes)"
                        if may_be_honest
                        else f"leave it out (data.{name.removesuffix('s')}_attributes); popularity, recency and habits "
                        "are computed as of each cut",
                    )
    return list(findings.values())


def _sums(parts: Sequence[pl.LazyFrame], table: pl.DataFrame, key: str) -> pl.DataFrame:
    """Return counts, sums and microseconds of the first and last event, one row a row of ``table``."""
    other = ITEM_ID if key == USER_ID else USER_ID
    time, first, last = pl.col(TIMESTAMP).dt.epoch("us"), FIRST, "the last time"
    sums = [pl.len().alias("the number"), pl.col(other).n_unique().alias(f"the number of {other[:-3]}s")]
    sums += [pl.col(c).sum().alias(f"the {c}") for c in (QUANTITY, VALUE) if c in parts[0].collect_schema()]
    each = [part.group_by(key).agg(*sums, time.min().alias(first), time.max().alias(last)).collect() for part in parts]
    # A user is in one part, so that their numbers add up; in another order the last digits of a sum are others.
    added = pl.exclude(key, first, last).sum().round(6)
    total = pl.concat(each).group_by(key).agg(added, pl.col(first).min(), pl.col(last).max())
    found = table.select(key).join(total, on=key, how="left", maintain_order="left")
    return found.drop(key).with_columns(pl.exclude(first, last).fill_null(0))


def _tracks(attribute: pl.Series, whole: pl.Series, past: pl.Series, is_time: bool) -> tuple[int, str] | None:
    """Return on how many rows the attribute follows the whole log rather than the past, and how well; else None."""
    frame = pl.DataFrame({"own": attribute.cast(pl.Float64), "whole": whole, "past": past})
    frame = frame.filter(pl.col("own").is_not_null() & pl.col("whole").ne_missing(pl.col("past")))
    if len(frame) < FEWEST:
        return None
    if is_time:
        same = int(((frame["own"] - frame["whole"] / DAY).abs() <= 1).sum())
        return (
            (len(frame), f"equal to the day in {same:,} of {len(frame):,} rows") if same >= TOLD * len(frame) else None
        )
    rank = [frame.select(pl.corr("own", other, method="spearman")).item() for other in ("whole", "past")]
    with_whole, with_past = (0.0 if r is None or r != r else abs(r) for r in rank)
    if with_whole < TRACKS or with_past >= with_whole:
        return None
    return len(frame), f"rank correlation {with_whole:.4f}, with the past alone {with_past:.4f}"
