"""Configuration of consent, retention, pseudonyms, access log and erasure, and its rules."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from recsys.columns import CONSENT_COLUMNS
from recsys.errors import did_you_mean

CONSENT_DEFAULTS = ("deny", "allow")
AFTER_WITHDRAWAL = ("keep_earlier", "drop_all")
MOST_DAYS = 100_000
"""Of retention: more than lie between the times that are read, those of the years 1900 to 2199, would be no limit."""
KEY_PLACES = ("file:", "env:")
OLD_VERSIONS = ("delete", "pending")


@dataclass
class PrivacyConfig:
    """Whose events may be used, for how long, and under which name."""

    consent: str | None = None  # table of user_id, purpose, granted, withdrawn (UTC); null: no filter
    consent_columns: dict[str, str] = field(default_factory=dict)  # standard name -> column of the consent table
    purpose: str = "personalization"  # personalization | analytics | what else the table names
    default: str | None = None  # deny | allow, for users without a row of the purpose; a consent table needs the choice
    after_withdrawal: str = "keep_earlier"  # keep_earlier | drop_all: what happens to events before a withdrawal
    pseudonym_key: str | None = None  # file:PATH or env:NAME of the key; user ids become pseudonyms by it
    retention_days: float | None = None  # events so long before the end, or longer, are dropped
    retain_from: str | None = None  # ISO time; events before it are dropped
    access_log: str | None = None  # file that every command that reads prepared data appends a line to; null: none


@dataclass
class EraseConfig:
    """``erase``: people leave prepared data, runs, bundles and registered models; or a receipt is verified."""

    users: str | None = None  # file (.parquet, .csv) with a user_id column, or ids with commas between them
    verify: str | None = None  # a receipt of an earlier erasure; nothing is erased then
    pseudonym_key: str | None = None  # file:PATH or env:NAME, where data were prepared with pseudonyms
    cache_dirs: list[str] = field(default_factory=lambda: ["prepared"])  # folders of prepared data sets
    runs: list[str] = field(default_factory=list)  # run folders, or folders of them
    bundles: list[str] = field(default_factory=list)  # further folders of bundles
    models: list[str] = field(default_factory=list)  # names of registered models
    old_versions: str = "delete"  # delete | pending: of a registered model, once one without the people has replaced it
    tracking_uri: str | None = None  # of the server with the registered models; null: MLflow's default store
    tracking_experiment: str = "recsys"  # MLflow's, for the run that registers new versions
    access_log: str | None = None  # gets a line for the erasure; with verify, its chain of hashes is checked
    run_dir: str = "${hydra:runtime.output_dir}"  # the receipt is written there


def privacy_problems(privacy: PrivacyConfig) -> Iterator[str]:
    """Yield a message for every broken rule of ``data.privacy``."""
    legal = " or ".join(CONSENT_DEFAULTS)
    if privacy.consent is not None and privacy.default is None:
        yield f"data.privacy.default has no value; say what holds for users without a row of consent: {legal}."
    if privacy.default is not None and privacy.default not in CONSENT_DEFAULTS:
        yield f"data.privacy.default: '{privacy.default}' is not {legal}."
    if privacy.default is not None and privacy.consent is None:
        yield f"data.privacy.default={privacy.default} without data.privacy.consent: give the table that it completes."
    if privacy.after_withdrawal not in AFTER_WITHDRAWAL:
        yield _no_choice("data.privacy.after_withdrawal", privacy.after_withdrawal, AFTER_WITHDRAWAL)
    for name in privacy.consent_columns:
        if name not in CONSENT_COLUMNS:
            yield _no_choice("data.privacy.consent_columns", name, CONSENT_COLUMNS)
    if privacy.retention_days is not None and not 0 < privacy.retention_days <= MOST_DAYS:
        yield f"data.privacy.retention_days={privacy.retention_days}: must be above 0, at most {MOST_DAYS}, or null."
    if privacy.retention_days is not None and privacy.retain_from is not None:
        yield "data.privacy.retention_days and data.privacy.retain_from: give one of the two."
    if privacy.retain_from is not None:
        try:
            datetime.fromisoformat(privacy.retain_from)
        except ValueError:
            yield f"data.privacy.retain_from: '{privacy.retain_from}' is not an ISO time such as 2024-05-01."
    yield from _key("data.privacy.pseudonym_key", privacy.pseudonym_key)


def erase_problems(cfg: EraseConfig) -> Iterator[str]:
    """Yield a message for every broken rule of ``recsys erase``."""
    if (cfg.users is None) == (cfg.verify is None):
        yield "users and verify: give one of the two, whom to erase or the receipt to verify."
    if cfg.old_versions not in OLD_VERSIONS:
        yield _no_choice("old_versions", cfg.old_versions, OLD_VERSIONS)
    yield from _key("pseudonym_key", cfg.pseudonym_key)


def _no_choice(key: str, value: str, legal: tuple[str, ...]) -> str:
    return f"{key}: '{value}' is not one of {', '.join(legal)}.{did_you_mean(value, legal)}"


def _key(name: str, value: str | None) -> Iterator[str]:
    """The message does not repeat the value: it may be the key itself."""
    if value is not None and not (value.startswith(KEY_PLACES) and value.partition(":")[2]):
        yield f"{name}: must say where the key lies, file:PATH or env:NAME, and never be the key itself."
