"""Keys below ``data``: where tables lie, what their columns mean, and how they are cleaned, filled and split."""

from dataclasses import dataclass, field
from typing import Any

from recsys.config.cleaning import CleaningConfig
from recsys.config.privacy import PrivacyConfig

MISSING: Any = "???"  # what OmegaConf takes for a value that must be given; the training core does without OmegaConf

SOURCES = ("tables", "completejourney")
TIMESTAMP_UNITS = ("auto", "s", "ms", "us", "ns")
LOGS = ("memory", "mapped")
IMPUTATIONS = ("none", "auto", "missing", "most_frequent", "median", "knn", "iterative")
SESSIONS_BY = ("gap", "basket_id")
NO_ZONES = ("Factory", "localtime")  # files of a machine's time zone database that name no place


@dataclass
class SplitConfig:
    """Three half-open UTC windows: ``start <= train < val_start <= val < test_start <= test < end``."""

    val: float = 0.15  # share of events in the validation window
    test: float = 0.15  # share of events in the test window
    val_start: str | None = None  # ISO time; given, it replaces the share (needs test_start too)
    test_start: str | None = None  # ISO time
    end: str | None = None  # ISO time; events at or after it are not used


@dataclass
class ImputationConfig:
    """What stands where an attribute is missing; measured and fitted on items and users of the training window."""

    default: str = "none"  # none | auto | missing | most_frequent | median | knn | iterative; of attributes with gaps
    items: dict[str, str] = field(default_factory=dict)  # item attribute -> one of these instead
    users: dict[str, str] = field(default_factory=dict)  # the same for user attributes
    item_groups: list[str] | None = None  # attributes within which most_frequent and median look; null: the best
    user_groups: list[str] | None = None  # such as a segment


@dataclass
class SessionsConfig:
    """How events make sessions, and what they tell of a user's interest; `ranker.sessions` makes features of it."""

    by: str = "gap"  # gap | basket_id: the shop's own id, where an event has one
    gap_minutes: float = 30.0  # without an event that end a session
    timezone: str | None = None  # of the shop, for hours and holidays; null: data.timezone
    holidays: list[str] = field(default_factory=list)  # local dates such as 2024-12-25
    cart: list[str] = field(default_factory=lambda: ["cart", "add_to_cart"])  # event types
    wishlist: list[str] = field(default_factory=lambda: ["wishlist", "add_to_wishlist"])  # event types
    purchase: list[str] = field(default_factory=lambda: ["purchase"])  # event types that buy
    cart_days: float = 1.0  # what was added and not bought within these is abandoned
    half_life_days: float = 14.0  # after which an event counts half for the engagement
    weights: dict[str, float] = field(  # event type -> what it counts for the engagement; others count 1
        default_factory=lambda: {
            "impression": 0.0,
            "wishlist": 3.0,
            "add_to_wishlist": 3.0,
            "cart": 4.0,
            "add_to_cart": 4.0,
            "purchase": 8.0,
            "return": 0.0,
            "cancellation": 0.0,
        }
    )


@dataclass
class DataConfig:
    """Where the tables lie and what their columns mean."""

    name: str = MISSING  # of the shop; prepared data and the registered model are called after it
    source: str = "tables"  # tables | completejourney
    events: str | None = None  # file, glob, directory or URI: Parquet, CSV or Arrow; null: what the source brings along
    items: str | None = None  # the same; null: columns of the events describe the items
    users: str | None = None  # the same; null: users are known by their ids alone
    columns: dict[str, str] = field(default_factory=dict)  # standard name -> column of the events table
    item_columns: dict[str, str] = field(default_factory=dict)  # the same for the items table
    user_columns: dict[str, str] = field(default_factory=dict)  # the same for the users table
    timestamp_unit: str = "auto"  # auto | s | ms | us | ns, for epoch numbers
    timestamp_format: str | None = None  # strptime format for text; null: ISO 8601 and common variants
    timezone: str = "UTC"  # of timestamps that carry none
    timezone_column: str | None = None  # event column with the zone of each row; where it is empty, timezone
    relevant: list[str] = field(default_factory=list)  # event types that count as positives; empty: all
    left_out: list[str] = field(default_factory=list)  # event types that are not used; the others are history
    impressions: list[str] = field(default_factory=list)  # event types that say what was shown: no part of the history
    weights: dict[str, float] = field(default_factory=dict)  # event type -> weight in the retriever's fits; else 1
    cleaning: CleaningConfig = field(default_factory=CleaningConfig)
    item_attributes: list[str] | None = None  # null: all; event columns that describe the item when items is null
    user_attributes: list[str] | None = None  # null: all columns of the users table
    context: list[str] = field(default_factory=list)  # event columns that describe the moment (store, device ...)
    features: list[dict[str, Any]] | None = None  # null: inferred from the tables
    max_reject_share: float = 0.05  # more unusable rows than this stop the run
    split: SplitConfig = field(default_factory=SplitConfig)
    imputation: ImputationConfig = field(default_factory=ImputationConfig)
    sessions: SessionsConfig = field(default_factory=SessionsConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    cache_dir: str = "prepared"  # prepared data sets, one folder per content hash
    log: str = "memory"  # memory | mapped; mapped trains the retriever from files, for a log that does not fit
    partitions: int = 1  # in which events are prepared, by user, one after the other or on several machines; 1: at once
    memory_gib: float | None = None  # that preparing may take; makes more partitions of as many events as need them
