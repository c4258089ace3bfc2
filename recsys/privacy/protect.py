"""Which events may be used at all: not of the erased, with consent, not too old. Works on any part of the users."""

from datetime import datetime

import polars as pl

from recsys.columns import TIMESTAMP, USER_ID
from recsys.privacy.consent import Consent
from recsys.privacy.erased import ERASED, Erased

TOO_OLD = "beyond_retention"
"""Why an old event is not used."""


def protect(
    events: pl.DataFrame, erased: Erased, consent: Consent | None, oldest: datetime | None
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the events that may be used, in their order, and how many may not by reason.

    An event with several reasons counts for the first: its user was erased, did not consent, it is too old.

    Args:
        events: With ``user_id`` and ``timestamp`` (UTC).
        erased: People who must not come back.
        consent: What the users said; None asks nobody.
        oldest: The first moment that may be kept; None keeps all.
    """
    reasons = [pl.select(pl.when(erased.holds(events[USER_ID])).then(pl.lit(ERASED))).to_series()]
    if consent is not None:
        reasons.append(consent.reasons(events))
    if oldest is not None:
        reasons.append(events.select(pl.when(pl.col(TIMESTAMP) < oldest).then(pl.lit(TOO_OLD))).to_series())
    reason = pl.select(pl.coalesce(reasons)).to_series()
    counts = reason.drop_nulls().rename("reason").value_counts().sort(["count", "reason"], descending=[True, False])
    return events.filter(reason.is_null()), dict(counts.iter_rows())


def protect_users(
    users: pl.DataFrame, events: pl.DataFrame, erased: Erased, consent: Consent | None, end: datetime
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the rows of the users' table that may be kept, and how many may not by reason.

    With consent asked for, these are the users who have an event that may be used, and those who agree as of the end.

    Args:
        users: With ``user_id``.
        events: From :func:`protect`.
        erased: People who must not come back.
        consent: What the users said; None asks nobody.
        end: The latest time of the data.
    """
    gone = erased.holds(users[USER_ID])
    known = users.filter(~gone)
    kept = known
    if consent is not None:
        silent = consent.reasons(known.select(USER_ID, pl.lit(end).alias(TIMESTAMP))).is_null()
        active = known[USER_ID].is_in(events[USER_ID].unique().implode()).fill_null(False)
        kept = known.filter(silent | active)
    counts = {ERASED: int(gone.sum()), "without_consent": len(known) - len(kept)}
    return kept, {reason: count for reason, count in counts.items() if count}
