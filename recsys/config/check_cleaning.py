"""The rules about event types and cleaning that types cannot say."""

import re
from collections.abc import Iterator

from recsys.config.cleaning import ACCOUNT_ACTIONS, ACCOUNT_LIMITS, CONFLICT_RULES, CleaningConfig
from recsys.config.data import DataConfig
from recsys.errors import did_you_mean

MOST_SECONDS = 1_000_000_000
"""Between near duplicates; 30 years."""


def cleaning_problems(data: DataConfig) -> Iterator[str]:
    """Yield a line for each broken rule, with the key, its value and what is legal."""
    yield from _types(data)
    rules = data.cleaning
    yield from _patterns(rules)
    yield from _limits(rules)
    key = "data.cleaning.conflicts"
    if rules.conflicts not in CONFLICT_RULES:
        near = did_you_mean(rules.conflicts, CONFLICT_RULES)
        yield f"{key}: '{rules.conflicts}' is not one of {', '.join(CONFLICT_RULES)}.{near}"
    if rules.conflicts == "as_of" and data.items and rules.item_time is None:
        yield f"{key}=as_of: needs data.cleaning.item_time, the column of the items table since when a row holds."
    if rules.item_time is not None and (rules.conflicts not in ("latest", "as_of") or not data.items):
        yield (
            f"data.cleaning.item_time={rules.item_time}: is read for an items table (data.items) with"
            f" {key}=latest or as_of; here it would have no effect."
        )
    for number, rule in enumerate(rules.shifted):
        if not rule.when:
            yield f"data.cleaning.shifted[{number}].when: one or more columns with a regular expression, or null."
    for number, junk in enumerate(rules.junk):
        if not junk.values and junk.pattern is None:
            yield f"data.cleaning.junk[{number}]: names nothing; give values or a pattern."
    # The names of the units themselves are known where they are read.


def _types(data: DataConfig) -> Iterator[str]:
    roles = {
        "data.relevant": data.relevant,
        "data.left_out": data.left_out,
        "data.impressions": data.impressions,
        "data.cleaning.returns.event_types": data.cleaning.returns.event_types,
    }
    seen: dict[str, str] = {}
    for key, kinds in roles.items():
        for kind in kinds:
            if kind in seen:
                yield f"{key}: '{kind}' is named by {seen[kind]} too; an event type has one role."
            seen.setdefault(kind, key)
    for kind, weight in data.weights.items():
        if not 0 < weight < float("inf"):
            yield f"data.weights.{kind}={weight}: must be above 0; what has no weight goes to data.left_out."
        if kind in data.left_out or kind in data.impressions:
            yield f"data.weights.{kind}: its events are {seen[kind].removeprefix('data.')}, so they weigh nothing."


def _patterns(rules: CleaningConfig) -> Iterator[str]:
    patterns = {
        f"data.cleaning.shifted[{number}].when.{column}": pattern
        for number, rule in enumerate(rules.shifted)
        for column, pattern in rule.when.items()
    }
    patterns |= {f"data.cleaning.junk[{number}].pattern": rule.pattern for number, rule in enumerate(rules.junk)}
    for key, pattern in patterns.items():
        try:
            re.compile(pattern or "")
        except re.error as error:
            yield f"{key}='{pattern}': is no regular expression: {error}."


def _limits(rules: CleaningConfig) -> Iterator[str]:
    accounts = rules.accounts
    if accounts.action not in ACCOUNT_ACTIONS:
        near = did_you_mean(accounts.action, ACCOUNT_ACTIONS)
        yield f"data.cleaning.accounts.action: '{accounts.action}' is not one of {', '.join(ACCOUNT_ACTIONS)}.{near}"
    if accounts.action != "flag" and all(getattr(accounts, name) is None for name in ACCOUNT_LIMITS):
        yield (
            f"data.cleaning.accounts.action={accounts.action}: no limit is given, so it has no effect; give one of"
            f" {', '.join(ACCOUNT_LIMITS)}."
        )
    for name in ("events_a_day", "items_a_day", "lines"):
        limit = getattr(accounts, name)
        if limit is not None and limit < 1:
            yield f"data.cleaning.accounts.{name}={limit}: must be 1 or more, or null."
    if accounts.share is not None and not 0 < accounts.share < 1:
        yield f"data.cleaning.accounts.share={accounts.share}: must be a share above 0 and below 1, or null."
    if not 0 <= rules.near_duplicate_seconds <= MOST_SECONDS:
        yield (
            f"data.cleaning.near_duplicate_seconds={rules.near_duplicate_seconds}: must be 0 or more, at most"
            f" {MOST_SECONDS}."
        )
