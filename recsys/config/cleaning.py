"""The part of the data configuration that says how events and items are cleaned; by default only duplicates go."""

from dataclasses import dataclass, field

CONFLICT_RULES = ("auto", "latest", "most_frequent", "as_of")
ACCOUNT_ACTIONS = ("flag", "drop")
ACCOUNT_LIMITS = ("events_a_day", "items_a_day", "lines", "share")


@dataclass
class ShiftedConfig:
    """Rows whose values stand in the columns of others."""

    when: dict[str, str | None]  # column -> regular expression that its value, as text, matches; null: missing
    move: dict[str, str] = field(default_factory=dict)  # column -> where its value stands; empty: rows are rejected


@dataclass
class JunkConfig:
    """Items or events that are none: postage, adjustments, tests."""

    column: str = "item_id"  # item_id, another column of the events, or an attribute of the items table
    values: list[str] = field(default_factory=list)  # whole values of the column, as text
    pattern: str | None = None  # regular expression, anywhere in the value as text


@dataclass
class AccountsConfig:
    """Limits that a customer does not reach, but a robot or a shared account does; null: no limit."""

    action: str = "flag"  # flag: named on the console and in meta.json; drop: gone from the window of the breach on
    events_a_day: int | None = None  # on any day (UTC), copies included
    items_a_day: int | None = None  # distinct ones
    lines: int | None = None  # in all, copies included
    share: float | None = None  # of the lines of everybody


@dataclass
class ReturnsConfig:
    """Which events take a purchase back: the latest earlier one of the user and item with enough quantity left."""

    event_types: list[str] = field(default_factory=list)  # that are returns
    negative_quantity: bool = False  # true: events with a quantity below 0 are returns
    same_basket: bool = False  # the purchase must be of the return's basket


@dataclass
class CleaningConfig:
    """Rules on events and items, in the order in which they are applied."""

    shifted: list[ShiftedConfig] = field(default_factory=list)
    duplicates: bool = True  # rows that are equal in every column count once
    junk: list[JunkConfig] = field(default_factory=list)
    near_duplicate_seconds: float = 0.0  # same user, item and type so soon after another: dropped; 0: none
    accounts: AccountsConfig = field(default_factory=AccountsConfig)
    returns: ReturnsConfig = field(default_factory=ReturnsConfig)
    text: list[str] = field(default_factory=list)  # item attributes whose writing is made one
    conflicts: str = "auto"  # auto (last row of the table, first event line) | latest | most_frequent | as_of
    item_time: str | None = None  # column of the items table: since when a row holds; ISO times or epoch numbers
    units: list[str] = field(default_factory=list)  # item attributes such as "6 PK/12 OZ", read as numbers
    unit_words: dict[str, str] = field(default_factory=dict)  # word of your own -> OZ, ML, CT ...
