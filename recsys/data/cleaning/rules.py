"""All cleaning in its order: rows of the source, events, events as of the windows, items.

Between the first step and the second the types of the columns are checked, between the second and the third the
windows are found. Events are handed over with all those of a user, so that each step can work on parts of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from recsys.columns import BASKET_ID, EVENT_TYPE, QUANTITY, USER_ID
from recsys.config.cleaning import ACCOUNT_LIMITS
from recsys.config.data import DataConfig
from recsys.data.clean import in_order
from recsys.data.cleaning.accounts import events_of, lines_until, over_limits
from recsys.data.cleaning.duplicates import drop_copies, near_duplicates
from recsys.data.cleaning.event_types import is_type, types_found, weighted
from recsys.data.cleaning.finding import Finding
from recsys.data.cleaning.junk import junk_events
from recsys.data.cleaning.returns import RETURN_OF, is_return, match_returns, taken_back, without_returned
from recsys.data.sources import COPIES, REJECT_REASON, REPAIRED, ROW_NUMBER
from recsys.data.split import NAMES, Windows
from recsys.errors import DataError

ORDER = (
    "shifted",  # rows of the source, before their types are checked
    "left_out",
    "time_zones",  # while they are
    "duplicates",
    "event_types",
    "junk",
    "near_duplicates",
    "accounts",  # from here as of the windows
    "returns",
    "text",  # items
    "conflicts",
    "units",
)
"""The rules in the order in which they are applied; a row with several faults goes by the first of them."""


@dataclass(frozen=True)
class Cleaned:
    """Events on their way.

    Attributes:
        events: What is left, in order, with ``row_number``, and how many rows each stands for.
        impressions: ``user_id, item_id, timestamp`` and the other columns, once each, apart from the events.
        rejects: ``row_number, reject_reason`` of what a rule has dropped.
        returns: Each return with its purchase, from :func:`recsys.data.cleaning.returns.match_returns`.
        duplicates: Rows that said exactly what another one says.
        findings: In the order of the rules.
    """

    events: pl.DataFrame
    impressions: pl.DataFrame
    rejects: pl.DataFrame
    returns: pl.DataFrame
    duplicates: int
    findings: tuple[Finding, ...]


def clean_events(events: pl.DataFrame, items: pl.DataFrame | None, cfg: DataConfig, repaired: pl.Series) -> Cleaned:
    """Apply the rules that need no windows to all events of some users.

    Args:
        events: Checked events with ``row_number``, in any order.
        items: The items table with ids of the same type, or None.
        cfg: The rules.
        repaired: Row numbers of those whose values were put back into their columns.

    Raises:
        DataError: A rule needs a column that is not there.
    """
    rules, findings, dropped = cfg.cleaning, [], []

    def drop(events: pl.DataFrame, mask: pl.Series, reason: str) -> pl.DataFrame:
        dropped.append(_rejects(events.filter(mask), reason))
        return events.filter(~mask)

    n_read = len(events)
    events = events.with_columns(
        pl.lit(1, pl.Int64).alias(COPIES), pl.col(ROW_NUMBER).is_in(repaired.implode()).cast(pl.Int64).alias(REPAIRED)
    )
    events = in_order(events)
    events = drop_copies(events) if rules.duplicates else events
    duplicates = n_read - len(events)
    if rules.duplicates:
        findings.append(Finding("duplicates", duplicates, "exact duplicates", "dropped; one of each stays"))
    if EVENT_TYPE in events.columns:
        findings.append(types_found(events, cfg))
    seen = is_type(events, list(cfg.impressions))
    impressions, events = events.filter(seen), events.filter(~seen)
    for number, rule in enumerate(rules.junk):
        junk = junk_events(events, items, rule)
        names = ", ".join([*rule.values, *([f"/{rule.pattern}/"] if rule.pattern is not None else [])])
        found = Finding("junk", int(junk.sum()), f"events whose {rule.column} is {names}", "dropped")
        findings.append(found)
        events = drop(events, junk, "junk" if len(rules.junk) == 1 else f"junk_{number + 1}")
    returns = _returns(events, cfg)
    if rules.near_duplicate_seconds > 0:
        near = near_duplicates(events, rules.near_duplicate_seconds, is_return(events.columns, rules.returns))
        what = f"events within {rules.near_duplicate_seconds:g} seconds of one of the same user, item and type"
        findings.append(Finding("near_duplicates", int(near.sum()), what, "dropped; the first stays"))
        events, returns = drop(events, near, "near_duplicate"), returns.filter(~near)
    bought = [kind for kind in cfg.relevant if kind not in rules.returns.event_types]
    matches = match_returns(events, returns, rules.returns, bought)
    unmatched = events[ROW_NUMBER].is_in(matches.filter(pl.col(RETURN_OF).is_null())[ROW_NUMBER].implode())
    dropped += [
        _rejects(events.filter(returns & ~unmatched), "return"),
        _rejects(events.filter(unmatched), "return_unmatched"),
    ]
    events = events.filter(~returns)
    below = int((events[QUANTITY] < 0).sum()) if QUANTITY in events.columns else 0
    if below:
        done = (
            "kept as events like any other; data.cleaning.returns.negative_quantity=true lets them take purchases back"
        )
        findings.append(Finding("returns", below, "events with a quantity below 0", done))
    return Cleaned(
        events,
        impressions.drop(ROW_NUMBER, COPIES, REPAIRED),
        pl.concat(dropped),
        matches,
        duplicates,
        tuple(findings),
    )


def settle(cleaned: Cleaned, windows: Windows, cfg: DataConfig, lines_of_all: Sequence[int] | None = None) -> Cleaned:
    """Apply the rules whose answer depends on what came before: accounts and returns, as of each window.

    Args:
        cleaned: From :func:`clean_events`.
        windows: The split.
        cfg: The rules.
        lines_of_all: From :func:`recsys.data.cleaning.accounts.lines_until` of everybody's events, where ``cleaned``
            has those of some users.
    """
    rules, events = cfg.cleaning, cleaned.events
    findings, dropped = list(cleaned.findings), [cleaned.rejects]
    if _limits_accounts(cfg):
        accounts = over_limits(events, rules.accounts, windows, lines_of_all or lines_until(events, windows))
        theirs = events_of(events, accounts, windows)
        is_drop = rules.accounts.action == "drop"
        flagged = "flagged: kept, and named in the prepared data"
        done = "dropped from the window on in which a limit was broken" if is_drop else flagged
        findings.append(Finding("accounts", len(accounts), "accounts over a limit", done, _shown(accounts)))
        if is_drop:
            dropped.append(_rejects(events.filter(theirs), "account_over_limits"))
            events = events.filter(~theirs)
    if _takes_back(cfg):
        taken = taken_back(events, cleaned.returns, windows)
        before = events
        events, gone = without_returned(events, taken)
        dropped.append(_rejects(before.filter(gone), "returned"))
        events = events.filter(~gone)
        matched = len(cleaned.returns) - cleaned.returns[RETURN_OF].null_count()
        n_returns, n_gone = len(cleaned.returns), int(gone.sum())
        parts = (
            ("without a purchase before them", n_returns - matched),
            ("purchases taken back whole", n_gone),
            ("purchases taken back in part", len(taken) - n_gone),
            ("after a cut, when the purchase has long counted, or of a dropped account", _late(cleaned, taken)),
        )
        done = "the lines themselves leave the history; purchases of the same window are taken back"
        findings.append(Finding("returns", n_returns, "returns", done, parts))
    return replace(cleaned, events=events, rejects=pl.concat(dropped), findings=tuple(findings))


def waits_for_windows(cfg: DataConfig) -> bool:
    """Tell whether :func:`settle` does anything."""
    return _limits_accounts(cfg) or _takes_back(cfg)


def finish(events: pl.DataFrame, cfg: DataConfig) -> pl.DataFrame:
    """Return the events without what only cleaning reads, with their weights."""
    return weighted(events, cfg).drop(ROW_NUMBER, COPIES, REPAIRED)


def with_values(rejects: pl.DataFrame, source: pl.DataFrame) -> pl.DataFrame:
    """Return ``row_number, reject_reason`` of rejected rows with the values of the source, whose numbers ascend."""
    places = source[ROW_NUMBER].search_sorted(rejects[ROW_NUMBER])
    return pl.concat([rejects, source.drop(ROW_NUMBER)[places]], how="horizontal")


def _returns(events: pl.DataFrame, cfg: DataConfig) -> pl.Series:
    rules = cfg.cleaning.returns
    for wanted, column, key in (
        (rules.negative_quantity, QUANTITY, "negative_quantity"),
        (rules.same_basket, BASKET_ID, "same_basket"),
    ):
        if wanted and column not in events.columns:
            raise DataError(
                f"data.cleaning.returns.{key} needs a column '{column}'; map it with data.columns.{column}."
            )
    return events.with_columns(is_return(events.columns, rules).alias("_return"))["_return"]


def _limits_accounts(cfg: DataConfig) -> bool:
    return any(getattr(cfg.cleaning.accounts, name) is not None for name in ACCOUNT_LIMITS)


def _takes_back(cfg: DataConfig) -> bool:
    return bool(cfg.cleaning.returns.event_types) or cfg.cleaning.returns.negative_quantity


def _late(cleaned: Cleaned, taken: pl.DataFrame) -> int:
    matched = cleaned.returns.filter(pl.col(RETURN_OF).is_not_null())
    return len(matched.join(taken, left_on=RETURN_OF, right_on=ROW_NUMBER, how="anti"))


def _rejects(events: pl.DataFrame, reason: str) -> pl.DataFrame:
    return events.select(pl.col(ROW_NUMBER), pl.lit(reason).alias(REJECT_REASON))


def _shown(accounts: pl.DataFrame) -> tuple[tuple[str, int], ...]:
    parts = []
    for row in accounts.iter_rows(named=True):
        own = (
            f"{row['lines'] - row['repaired']:,} as they stood, {row['repaired']:,} put back; "
            if row["repaired"]
            else ""
        )
        parts.append(
            (
                f"lines of {row[USER_ID]} ({own}{row['share']:.2%} of all, at most {row['events_a_day']:,} events and"
                f" {row['items_a_day']:,} items a day; over a limit since the {NAMES[row['since']]} window)",
                row["lines"],
            )
        )
    return tuple(parts)
