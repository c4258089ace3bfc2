"""Between validation and cleaning: consent, retention, erasure and pseudonyms, as ``data.privacy`` says."""

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from recsys.columns import CONSENT_COLUMNS, GRANTED, PURPOSE, USER_ID, WITHDRAWN
from recsys.config.data import DataConfig
from recsys.config.privacy import PrivacyConfig
from recsys.data.dtypes import plain_id, same_type
from recsys.data.sources import REJECT_REASON, ROW_NUMBER, Tables, read_consent
from recsys.data.timestamps import given_times
from recsys.errors import ConfigError, DataError, did_you_mean
from recsys.privacy.consent import Consent
from recsys.privacy.erased import ERASED, Erased, as_text, load_erased
from recsys.privacy.protect import protect, protect_users
from recsys.privacy.pseudonyms import key_digest, pseudonyms, read_key


@dataclass(frozen=True)
class Guard:
    """What ``data.privacy`` says, read once for all events of a table.

    Attributes:
        key: Of the pseudonyms, or None.
        erased: People who must not come back.
        consent: What the users said, or None.
        end: The latest time of the data that counts.
        id_type: Type of the users' ids in the events.
    """

    key: bytes | None
    erased: Erased
    consent: Consent | None
    end: datetime
    id_type: pl.DataType

    @classmethod
    def of(cls, cfg: DataConfig, id_type: pl.DataType, last: datetime | None) -> "Guard":
        """Read the key, the consent table and the list of the erased.

        Args:
            cfg: Names them.
            id_type: Type of the users' ids in the events.
            last: The latest time of all events that can be used; None where there are none.

        Raises:
            ConfigError: There is no key where it should be, or it lies with the prepared data.
            DataError: The consent table, or the list of the erased, cannot be used.
        """
        key = _key(cfg)
        erased = load_erased(Path(cfg.cache_dir).expanduser())
        consent = None if cfg.privacy.consent is None else consent_of(cfg, id_type)
        return cls(key, erased, consent, _end(cfg, last or datetime.now(UTC)), id_type)

    def events(self, events: pl.DataFrame, cfg: DataConfig) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, int]]:
        """Leave out what may not be used of checked events, before anything else reads them.

        Returns:
            The events, ids pseudonyms where there is a key; ``user_id`` of theirs as they came, where consent is asked
            for; how many are left out by reason, nothing else being kept of them.
        """
        kept, reasons = protect(events, self.erased, self.consent, _oldest(cfg.privacy, self.end))
        active = kept.select(pl.col(USER_ID).unique().sort()) if self.consent is not None else kept.select(USER_ID)[:0]
        if self.key is not None:
            kept = kept.with_columns(pseudonyms(kept[USER_ID], self.key))
            kept = self._without_erased(kept, reasons)
        return kept, active, reasons

    def users(
        self, users: pl.DataFrame | None, active: pl.DataFrame, cfg: DataConfig
    ) -> tuple[pl.DataFrame | None, dict[str, Any]]:
        """Leave out who may not be kept of the users' table, and return it with what the report says of the guard.

        Args:
            users: As read.
            active: ``user_id`` of those who have events, from :meth:`events`.
            cfg: The configuration.

        Raises:
            DataError: Ids that are not those of the events.
        """
        facts: dict[str, Any] = {"purpose": cfg.privacy.purpose} if self.consent is not None else {}
        if users is not None:
            ids = same_type(plain_id(users[USER_ID], f"data.users={cfg.users}"), self.id_type, "data.users")
            known = users.with_columns(ids)
            users, facts["users_left_out"] = protect_users(known, active, self.erased, self.consent, self.end)
        if self.key is not None:
            if users is not None:
                known = users.with_columns(pseudonyms(users[USER_ID], self.key))
                users = self._without_erased(known, facts["users_left_out"])
            facts["pseudonyms"] = "HMAC-SHA-256"
        return users, facts

    def _without_erased(self, table: pl.DataFrame, counts: dict[str, int]) -> pl.DataFrame:
        """Return the rows of those who were not erased by their pseudonym, and count the others."""
        gone = self.erased.holds(table[USER_ID])
        if gone.any():
            counts[ERASED] = counts.get(ERASED, 0) + int(gone.sum())
        return table.filter(~gone)


def asks_for_end(privacy: PrivacyConfig) -> bool:
    """Tell whether the latest time of all events decides about some of them."""
    return privacy.retention_days is not None or privacy.consent is not None


def hide(rejects: pl.DataFrame, cfg: DataConfig) -> pl.DataFrame:
    """Return what of rejected rows may be kept: numbers and reasons alone, or the rows that name no erased user."""
    if cfg.privacy.pseudonym_key is not None or cfg.privacy.consent is not None:
        return rejects.select(ROW_NUMBER, REJECT_REASON)
    return rejects.filter(~_names_one_of(rejects, load_erased(Path(cfg.cache_dir).expanduser())))


def columns_read(tables: Tables, privacy: PrivacyConfig) -> dict[str, list[str]]:
    """Return the columns that are read of each table, by their standard names."""
    frames = {"events": tables.events, "items": tables.items, "users": tables.users}
    read = {
        name: [column for column in frame.columns if column != ROW_NUMBER]
        for name, frame in frames.items()
        if frame is not None
    }
    return read | ({"consent": list(CONSENT_COLUMNS)} if privacy.consent is not None else {})


def meaning(cfg: DataConfig) -> dict[str, Any]:
    """Return what of ``data.privacy`` shapes prepared data: no places, and of the key a digest that does not tell it.

    Raises:
        ConfigError: There is no key where it should be, or it lies with the prepared data.
    """
    shape = {name: value for name, value in asdict(cfg.privacy).items() if name not in ("consent", "access_log")}
    key = _key(cfg)
    return shape | {"pseudonym_key": None if key is None else key_digest(key)}


def _key(cfg: DataConfig) -> bytes | None:
    place = cfg.privacy.pseudonym_key
    if place is None:
        return None
    key = read_key(place)
    kind, _, where = place.partition(":")
    if kind == "file" and Path(where).expanduser().resolve().is_relative_to(Path(cfg.cache_dir).expanduser().resolve()):
        raise ConfigError(
            f"data.privacy.pseudonym_key={place}: the key lies with the prepared data, data.cache_dir={cfg.cache_dir};"
            " who takes the folder has both. Keep it elsewhere."
        )
    return key


def consent_of(cfg: DataConfig, id_type: pl.DataType) -> Consent:
    """Read what the users said about the purpose of ``data.privacy``.

    Args:
        cfg: Names the table.
        id_type: Type of the users' ids in the events.

    Raises:
        ConfigError: What holds for the others is not said.
        DataError: The table cannot be used.
    """
    privacy = cfg.privacy
    place = f"data.privacy.consent={privacy.consent}"
    utc = replace(cfg, timezone="UTC")
    raw = read_consent(cfg)
    ids = same_type(plain_id(raw[USER_ID], place), id_type, place)
    times = [given_times(raw[name], utc, place, "consent is not guessed") for name in (GRANTED, WITHDRAWN)]
    table = raw.select(ids, pl.col(PURPOSE).cast(pl.String).str.strip_chars(), *times)
    for name in (USER_ID, PURPOSE):
        if table[name].null_count():
            raise DataError(f"{place}, column '{name}': {table[name].null_count():,} rows have none; give one each.")
    turned = table.filter(pl.col(WITHDRAWN) < pl.col(GRANTED))
    if len(turned):
        raise DataError(f"{place}: {len(turned):,} rows are withdrawn before they are granted; correct them.")
    found = table[PURPOSE].unique().sort().to_list()
    if privacy.purpose not in found:
        raise DataError(
            f"{place}, column '{PURPOSE}': data.privacy.purpose names '{privacy.purpose}', which never occurs; found:"
            f" {', '.join(found[:20])}.{did_you_mean(privacy.purpose, found)}"
        )
    if privacy.default is None:
        raise ConfigError("data.privacy.default has no value; for users without a row of consent give deny or allow.")
    return Consent.of(
        table,
        privacy.purpose,
        allow=privacy.default == "allow",
        drop_all=privacy.after_withdrawal == "drop_all",
    )


def _end(cfg: DataConfig, last: datetime) -> datetime:
    if cfg.split.end is None:
        return last
    end = datetime.fromisoformat(cfg.split.end)
    return min(last, end.replace(tzinfo=UTC) if end.tzinfo is None else end)


def _oldest(privacy: PrivacyConfig, end: datetime) -> datetime | None:
    if privacy.retention_days is not None:
        return end - timedelta(days=privacy.retention_days)
    if privacy.retain_from is None:
        return None
    first = datetime.fromisoformat(privacy.retain_from)
    return first.replace(tzinfo=UTC) if first.tzinfo is None else first


def _names_one_of(rejects: pl.DataFrame, erased: Erased) -> pl.Series:
    """Return which rows name an erased user in whatever column; shifted rows have their ids in a wrong one."""
    found = pl.repeat(False, len(rejects), eager=True)
    for column in rejects.drop(ROW_NUMBER, REJECT_REASON):
        found |= erased.holds(as_text(column))
    return found
