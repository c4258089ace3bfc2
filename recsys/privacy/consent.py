"""Consent as of the time of each event: the last word that a user has given before it counts."""

from dataclasses import dataclass

import polars as pl

from recsys.columns import GRANTED, PURPOSE, TIMESTAMP, USER_ID, WITHDRAWN

NO_CONSENT, CONSENT_WITHDRAWN = "no_consent", "consent_withdrawn"
"""Why an event may not be used: nobody ever agreed to it, or they do no longer."""
_AT, _LAST = "at", "last_withdrawal"


@dataclass(frozen=True)
class Consent:
    """What the users said about one purpose.

    Attributes:
        words: ``user_id``, ``at`` (UTC), ``granted`` (bool); one row a user and time, sorted by time.
        people: ``user_id`` of everybody who has a row for the purpose, and ``last_withdrawal``.
        allow: Whether users without a row agree.
        drop_all: Whether a withdrawal takes the earlier events out, too.
    """

    words: pl.DataFrame
    people: pl.DataFrame
    allow: bool
    drop_all: bool

    @classmethod
    def of(cls, table: pl.DataFrame, purpose: str, *, allow: bool, drop_all: bool) -> "Consent":
        """Read the words of one purpose from a table.

        A grant holds from its time until the next withdrawal, and a withdrawal ends every grant up to its time, the
        one of that very moment included. A row with neither time says that the user has been asked and did not agree.

        Args:
            table: ``user_id, purpose, granted, withdrawn``, times in UTC; several rows a user, in any order.
            purpose: Whose rows count.
            allow: Whether users without a row of the purpose agree.
            drop_all: Whether a withdrawal takes the earlier events out, too; a later grant does not bring them back.
        """
        rows = table.filter(pl.col(PURPOSE) == purpose)
        words = pl.concat(
            rows.select(USER_ID, pl.col(column).alias(_AT), pl.lit(column == GRANTED).alias(GRANTED))
            for column in (GRANTED, WITHDRAWN)
        )
        words = words.drop_nulls(_AT).group_by(USER_ID, _AT).agg(pl.col(GRANTED).all()).sort(_AT)
        people = rows.group_by(USER_ID).agg(pl.col(WITHDRAWN).max().alias(_LAST))
        return cls(words, people, allow, drop_all)

    def reasons(self, events: pl.DataFrame) -> pl.Series:
        """Return why each event may not be used, String ``[n]``; null where its user had agreed by then.

        Args:
            events: ``user_id`` and ``timestamp`` (UTC), in any order.
        """
        row = "row"
        known = events.select(USER_ID, TIMESTAMP).with_row_index(row).sort(TIMESTAMP)
        # by is given, so polars could not check the order; both sides have just been sorted
        said = known.join_asof(
            self.words, left_on=TIMESTAMP, right_on=_AT, by=USER_ID, strategy="backward", check_sortedness=False
        )
        said = said.join(self.people.with_columns(known=True), on=USER_ID, how="left", maintain_order="left")
        silent = pl.col("known").is_null()
        withdrawn = ~pl.col(GRANTED)
        if self.drop_all:
            withdrawn |= (pl.col(_LAST) > pl.col(TIMESTAMP)).fill_null(False)
        no_word = pl.when(~(silent & self.allow)).then(pl.lit(NO_CONSENT))
        reason = pl.when(pl.col(GRANTED).is_null()).then(no_word).when(withdrawn).then(pl.lit(CONSENT_WITHDRAWN))
        return said.sort(row).select(reason.alias("reason")).to_series().cast(pl.String)
