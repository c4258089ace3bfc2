"""What two sides of a cut may not share: times, baskets, rows. Any split can be audited, whoever made it."""

from collections.abc import Sequence

import polars as pl

from recsys.audit.findings import Finding
from recsys.columns import BASKET_ID, EVENT_TYPE, ITEM_ID, TIMESTAMP, USER_ID


def audit_sides(before: pl.DataFrame, after: pl.DataFrame, cut: str, relevant: Sequence[str] = ()) -> list[Finding]:
    """Name what stands on both sides of a cut.

    Args:
        before: Events that a model is fitted on: ``user_id``, ``item_id``, ``timestamp``, and ``basket_id`` and
            ``event_type`` where there are any.
        after: Events that it is measured by, of the same columns.
        cut: Name of the cut, for the findings.
        relevant: Event types that count; a basket matters where these stand on both sides. Empty: all.
    """
    if before.is_empty() or after.is_empty():
        return []
    place = f"events, cut {cut}"
    return [
        *_times(before, after, place),
        *_rows(before, after, place),
        *_baskets(_only(before, relevant), _only(after, relevant), place),
        *_users(before, after, place),
    ]


def _only(events: pl.DataFrame, relevant: Sequence[str]) -> pl.DataFrame:
    if not relevant or EVENT_TYPE not in events.columns:
        return events
    return events.filter(pl.col(EVENT_TYPE).is_in(list(relevant)))


def _times(before: pl.DataFrame, after: pl.DataFrame, place: str) -> list[Finding]:
    first = after.select(pl.col(TIMESTAMP).min()).item()
    late = before.filter(pl.col(TIMESTAMP) >= first).sort(TIMESTAMP, USER_ID, ITEM_ID)
    if late.is_empty():
        return []
    shared = late[TIMESTAMP][-1] == first
    row = late.row(0, named=True)
    return [
        Finding(
            "timestamp on both sides" if shared else "split not by time",
            "error",
            f"{place}, column '{TIMESTAMP}'",
            len(late),
            f"the later side begins at {first}, yet {len(late):,} rows of the earlier side are "
            f"{'at' if shared else 'at or after'} that time; first: user {row[USER_ID]!r}, item {row[ITEM_ID]!r}, "
            f"{row[TIMESTAMP]}",
            "cut at a time, not at a row: what happens at the time of the cut belongs to the later side",
        )
    ]


def _rows(before: pl.DataFrame, after: pl.DataFrame, place: str) -> list[Finding]:
    """Find rows that are equal in all but their basket: the answer stands among the questions."""
    if before.select(pl.col(TIMESTAMP).max()).item() < after.select(pl.col(TIMESTAMP).min()).item():
        return []  # rows of different times: to compare all the rest takes most of the time of an audit
    columns = [name for name in before.columns if name in after.columns and name != BASKET_ID]
    same = after.join(before.select(columns).unique(), on=columns, how="semi", nulls_equal=True)
    if same.is_empty():
        return []
    row = same.row(0, named=True)
    return [
        Finding(
            "row on both sides",
            "error",
            place,
            len(same),
            f"{len(same):,} rows of the later side stand on the earlier side, too; first: user {row[USER_ID]!r}, "
            f"item {row[ITEM_ID]!r}, {row[TIMESTAMP]}",
            "drop duplicates before the split",
        )
    ]


def _baskets(before: pl.DataFrame, after: pl.DataFrame, place: str) -> list[Finding]:
    if BASKET_ID not in before.columns or BASKET_ID not in after.columns:
        return []
    keys = [USER_ID, BASKET_ID]
    both = after.drop_nulls(keys).join(before.drop_nulls(keys), on=keys, how="semi")
    if both.is_empty():
        return []
    row = both.sort(keys).row(0, named=True)
    return [
        Finding(
            "basket on both sides",
            "error",
            f"{place}, column '{BASKET_ID}'",
            len(both),
            f"{both.select(keys).n_unique():,} baskets begin before the cut and end after it, with {len(both):,} rows "
            f"after it; first: user {row[USER_ID]!r}, basket {row[BASKET_ID]!r}",
            "cut where no basket is open (data.split.val_start, data.split.test_start), or give all rows of a basket "
            "the time of its checkout",
        )
    ]


def _users(before: pl.DataFrame, after: pl.DataFrame, place: str) -> list[Finding]:
    users = after[USER_ID].unique()
    known = int(users.is_in(before[USER_ID].unique().implode()).sum())
    return [
        Finding(
            "users on both sides",
            "info",
            f"{place}, column '{USER_ID}'",
            known,
            f"{known:,} of the {len(users):,} users after the cut have events before it; {len(users) - known:,} are "
            "cold",
            "nothing: with a temporal split this is as it should be",
        )
    ]
