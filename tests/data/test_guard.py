"""What ``data.privacy`` does to prepared data: who is in it, under which name, how long, and what is counted."""

import json
import logging
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.config.privacy import PrivacyConfig
from recsys.data.guard import hide
from recsys.data.prepare import prepare
from recsys.data.report import data_report
from recsys.data.report_page import render
from recsys.errors import ConfigError, DataError
from recsys.privacy.erased import add_erased
from recsys.privacy.pseudonyms import pseudonym

START = datetime(2024, 1, 1, tzinfo=UTC)
KEY = "a key of thirty-two bytes, or so"


def hours(number: int) -> datetime:
    return START + timedelta(hours=number)


@pytest.fixture
def consent(tmp_path):
    """Write a consent table of (user, purpose, granted, withdrawn) in hours and return the settings that name it."""

    def write(rows, **settings):
        path = tmp_path / "consent.parquet"
        times = [None if h is None else hours(h) for row in rows for h in row[2:]]
        pl.DataFrame(
            {
                "user_id": [row[0] for row in rows],
                "purpose": [row[1] for row in rows],
                "granted": times[::2],
                "withdrawn": times[1::2],
            },
            schema_overrides={name: pl.Datetime("us", "UTC") for name in ("granted", "withdrawn")},
        ).write_parquet(path)
        return PrivacyConfig(**({"consent": str(path), "default": "allow"} | settings))

    return write


@pytest.fixture
def key(tmp_path, monkeypatch):
    monkeypatch.setenv("SHOP_KEY", KEY)
    return "env:SHOP_KEY"


def all_bytes(folder: Path) -> bytes:
    """Every byte below a folder, and what its Parquet files hold behind their compression."""
    parts = []
    for path in folder.rglob("*"):
        if path.is_file():
            parts.append(path.read_bytes())
        if path.suffix == ".parquet":
            parts.append(pl.read_parquet(path).write_json().encode())
    return b"".join(parts)


def test_consent_as_of_each_event_with_every_row_counted(shop, consent) -> None:
    """Event i is of user i % 7 + 1, at hour i. User 1 withdraws at hour 50; 2 agreed to something else alone."""
    rows = [(1, "personalization", 0, 50), (2, "analytics", 0, None), (2, "personalization", None, None)]
    data = prepare(replace(shop, privacy=consent(rows)))
    own = data.events.filter(pl.col("user_id") == 1)
    assert own["timestamp"].to_list() == [hours(i) for i in range(0, 50, 7)]
    assert 2 not in data.events["user_id"].to_list()
    late, never = len(range(56, 100, 7)), len(range(1, 100, 7))
    assert data.report["rejects"] == {"no_consent": never, "consent_withdrawn": late}
    assert data.report["rows"]["rejected"] == late + never
    assert len(data.events) == 100 - late - never
    assert data.report["users_left_out"] == {"without_consent": 1}  # 1 has earlier events, 2 has none
    assert 2 not in data.users["user_id"].to_list()
    assert pl.read_parquet(data.path / "rejects.parquet").is_empty()
    report = data_report(data)
    assert report.rejects == data.report["rejects"]
    assert "rejected: no consent" in render(report)


def test_earlier_events_go_too_where_configured(shop, consent) -> None:
    rows = [(1, "personalization", 0, 50)]
    data = prepare(replace(shop, privacy=consent(rows, after_withdrawal="drop_all")))
    assert 1 not in data.events["user_id"].to_list()
    assert 1 not in data.users["user_id"].to_list()


def test_default_deny(shop, consent) -> None:
    rows = [(user, "personalization", 0, None) for user in (3, 4, 5)]
    data = prepare(replace(shop, privacy=consent(rows, default="deny")))
    assert sorted(set(data.events["user_id"])) == sorted(set(data.users["user_id"])) == [3, 4, 5]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            st.integers(1, 5),
            st.just("personalization"),
            st.none() | st.integers(0, 40),
            st.none() | st.integers(41, 99),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_prepare_keeps_what_an_oracle_keeps(shop, consent, rows) -> None:
    """Grants lie before hour 41 and withdrawals after it, so that the oracle is one line."""
    said = {user: [(g, w) for u, _, g, w in rows if u == user] for user in range(1, 8)}

    def held(user: int, hour: int) -> bool:
        first = min((g for g, _ in said[user] if g is not None), default=100)
        last = min((w for _, w in said[user] if w is not None), default=100)
        return first <= hour < last if said[user] else True

    expected = [(i % 7 + 1, hours(i)) for i in range(100) if held(i % 7 + 1, i)]
    data = prepare(replace(shop, privacy=consent(rows)))
    assert sorted(data.events.select("user_id", "timestamp").rows()) == sorted(expected)
    assert data.report["rows"]["rejected"] == 100 - len(expected)


def test_pseudonyms_leave_no_id_anywhere(config, shop_events, key, tmp_path, caplog) -> None:
    name = pl.concat_str(pl.lit("customer-7f3a-"), pl.col("user_id").cast(pl.String))
    events = shop_events.with_columns(user_id=name)
    shifted = events[:2].with_columns(
        user_id=None, item_id=None, store=pl.col("user_id")
    )  # the id is in a wrong column
    users = pl.DataFrame({"user_id": [f"customer-7f3a-{u}" for u in (1, 2, 99)], "gender": ["f", "m", "f"]})
    cfg = config(
        events=pl.concat([events, shifted]),
        users=users,
        context=["store"],
        privacy=PrivacyConfig(pseudonym_key=key),
    )
    with caplog.at_level(logging.DEBUG):
        data = prepare(cfg)
    expected = {pseudonym(KEY.encode(), f"customer-7f3a-{u}") for u in range(1, 8)}
    assert set(data.events["user_id"]) == expected
    assert set(data.users["user_id"]) == expected | {pseudonym(KEY.encode(), "customer-7f3a-99")}
    assert data.users.filter(pl.col("gender") == "m")["user_id"].to_list() == [
        pseudonym(KEY.encode(), "customer-7f3a-2")
    ]
    assert pl.read_parquet(data.path / "rejects.parquet").columns == ["row_number", "reject_reason"]
    with pytest.raises(DataError, match="2 of 102 rows") as caught:
        prepare(replace(cfg, max_reject_share=0.0))
    written = all_bytes(Path(cfg.cache_dir)) + caplog.text.encode() + str(caught.value).encode()
    assert pseudonym(KEY.encode(), "customer-7f3a-3").encode() in written  # the search finds what is there
    for secret in (b"customer-7f3a-", KEY.encode()):
        assert secret not in written


def test_another_key_prepares_anew_and_another_place_of_the_same_does_not(shop, key, tmp_path, monkeypatch) -> None:
    first = prepare(replace(shop, privacy=PrivacyConfig(pseudonym_key=key)))
    (tmp_path / "key").write_text(KEY)
    moved = replace(shop, privacy=PrivacyConfig(pseudonym_key=f"file:{tmp_path}/key"))
    assert prepare(moved).fingerprint == first.fingerprint
    (tmp_path / "key").write_text(KEY[::-1])
    assert prepare(moved).fingerprint != first.fingerprint
    assert prepare(shop).fingerprint != first.fingerprint
    (tmp_path / "prepared" / "key").write_text(KEY)
    with pytest.raises(ConfigError, match="lies with the prepared data"):
        prepare(replace(shop, privacy=PrivacyConfig(pseudonym_key=f"file:{tmp_path}/prepared/key")))


@pytest.mark.parametrize(
    ("settings", "first"),
    [({"retention_days": 2.0}, 51), ({"retain_from": "2024-01-03T02:00:00"}, 50), ({"retention_days": 30.0}, 0)],
)
def test_retention(shop, settings, first) -> None:
    """The last event is at hour 99; an event of exactly the limit is kept."""
    data = prepare(replace(shop, privacy=PrivacyConfig(**settings)))
    assert data.events["timestamp"].min() == hours(first)
    assert data.report["rejects"] == ({"beyond_retention": first} if first else {})


def test_all_rules_count_every_row_once(shop, consent) -> None:
    """The first of the reasons counts: erased before consent before age."""
    add_erased(Path(shop.cache_dir), ["3"])
    rows = [(1, "personalization", 0, 50), (3, "personalization", None, None)]
    data = prepare(replace(shop, privacy=consent(rows, retention_days=2.0)))
    reasons = Counter()
    for i in range(100):
        user = i % 7 + 1
        reasons[
            "erased_user"
            if user == 3
            else "consent_withdrawn"
            if user == 1 and i >= 50
            else "beyond_retention"
            if i < 51
            else ""
        ] += 1
    assert len(data.events) == reasons.pop("")
    assert data.report["rejects"] == dict(reasons)
    # user 1 has no event that may be used, and does not agree as of the end
    assert data.report["users_left_out"] == {"erased_user": 1, "without_consent": 1}


def test_who_is_erased_does_not_come_back(shop, shop_events, tmp_path) -> None:
    """Neither from the cache, nor from the source, nor as a row that could not be used."""
    dirty = pl.concat(
        [shop_events.cast({"user_id": pl.String}), pl.DataFrame({"user_id": ["7", None], "item_id": [None, "7"]})],
        how="diagonal",
    )
    dirty.write_parquet(shop.events)
    before = prepare(shop)
    add_erased(Path(shop.cache_dir), ["7"])
    data = prepare(shop)
    assert data.fingerprint == before.fingerprint
    assert "7" not in data.events["user_id"].to_list() + data.users["user_id"].to_list()
    assert len(pl.read_parquet(data.path / "rejects.parquet")) == 0
    assert data.report["rows"]["read"] == 102
    assert prepare(shop).report == data.report  # now it is the same list, so the folder is used again


def test_who_is_erased_by_pseudonym_does_not_come_back(shop, key) -> None:
    """Event i is of user i % 7 + 1, so 15 of the 100 events are of user 2."""
    gone = pseudonym(KEY.encode(), "2")
    add_erased(Path(shop.cache_dir), [gone])
    data = prepare(replace(shop, privacy=PrivacyConfig(pseudonym_key=key)))
    assert gone not in data.events["user_id"].to_list() + data.users["user_id"].to_list()
    assert data.report["rejects"] == {"erased_user": 15}
    assert data.report["users_left_out"] == {"erased_user": 1}


def test_rejects_hide_whom_the_list_names_and_nobody_whose_id_ends_alike(shop) -> None:
    add_erased(Path(shop.cache_dir), ["7", "acme.0"])
    rejects = pl.DataFrame({
        "row_number": [1, 2, 3, 4], "reject_reason": "item_id_missing",
        "user_id": ["acme", "acme.0", "7.0", None], "value": [1.0, 2.0, 3.0, 7.0],
    })  # fmt: skip
    assert hide(rejects, shop)["row_number"].to_list() == [1, 3]


def test_only_declared_columns_are_read(config, shop_events, tmp_path) -> None:
    """The pages of every other column are noise: whoever decodes one of them fails."""
    users = pl.DataFrame({"user_id": range(1, 8), "gender": ["f", "m"] * 3 + [None]})
    consent = pl.DataFrame({"user_id": [1], "purpose": "personalization", "granted": START, "withdrawn": START})
    frames = {"events": shop_events, "users": users, "consent": consent}
    declared = {"events": {"user_id", "item_id", "timestamp", "value", "store"}, "users": {"user_id", "gender"}}
    for name, frame in frames.items():
        path = tmp_path / f"{name}.parquet"
        frame.with_columns(diagnosis=pl.lit("secret") + pl.int_range(pl.len()).cast(pl.String)).write_parquet(path)
        spoil(path, frame.schema.names() if name == "consent" else declared[name])
    with pytest.raises(pl.exceptions.PolarsError):
        pl.read_parquet(tmp_path / "users.parquet")
    data = prepare(
        config(
            events=str(tmp_path / "events.parquet"),
            users=str(tmp_path / "users.parquet"),
            context=["store"],
            item_attributes=[],
            user_attributes=["gender"],
            privacy=PrivacyConfig(consent=str(tmp_path / "consent.parquet"), default="allow"),
        )
    )
    assert data.report["columns"] == {
        "events": ["user_id", "item_id", "timestamp", "value", "store"],
        "users": ["user_id", "gender"],
        "consent": ["user_id", "purpose", "granted", "withdrawn"],
    }
    assert "diagnosis" not in json.dumps(data.report)


def spoil(path: Path, declared: set[str]) -> None:
    """Overwrite the pages of the other columns with noise."""
    content = bytearray(path.read_bytes())
    group = pq.ParquetFile(path).metadata.row_group(0)
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema not in declared:
            start = column.dictionary_page_offset or column.data_page_offset
            content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"granted": pl.lit("yesterday")}, r"column 'granted': 1 times cannot be read, such as 'yesterday'"),
        ({"purpose": pl.lit("adverts")}, "names 'personalization', which never occurs; found: adverts"),
        ({"user_id": pl.lit(None, pl.Int64)}, "column 'user_id': 1 rows have none"),
        ({"withdrawn": pl.lit(hours(-1))}, "1 rows are withdrawn before they are granted"),
        ({"user_id": pl.lit("x")}, "not every value is the same in both"),
        ({"purpose": None}, "no column 'purpose'"),
    ],
)
def test_a_consent_table_that_cannot_be_relied_on(shop, tmp_path, changes, expected) -> None:
    table = pl.DataFrame({"user_id": [1], "purpose": ["personalization"], "granted": [START], "withdrawn": [None]})
    table = table.with_columns(**{k: v for k, v in changes.items() if v is not None})
    table.drop([k for k, v in changes.items() if v is None]).write_parquet(tmp_path / "consent.parquet")
    with pytest.raises(DataError, match=expected):
        prepare(replace(shop, privacy=PrivacyConfig(consent=str(tmp_path / "consent.parquet"), default="deny")))


def test_consent_from_csv_with_other_names(shop, tmp_path) -> None:
    (tmp_path / "c.csv").write_text(
        "who,why,yes,no\n1,personalization,2024-01-01,2024-01-02T00:00:00Z\n2,personalization,,\n"
    )
    names = {"user_id": "who", "purpose": "why", "granted": "yes", "withdrawn": "no"}
    privacy = PrivacyConfig(consent=str(tmp_path / "c.csv"), consent_columns=names, default="allow")
    data = prepare(replace(shop, privacy=privacy))
    assert data.events.filter(pl.col("user_id") == 1)["timestamp"].max() == hours(21)
    assert 2 not in data.events["user_id"].to_list()


def test_the_consent_table_is_part_of_the_fingerprint(shop, consent) -> None:
    first = prepare(replace(shop, privacy=consent([(1, "personalization", 0, None)])))
    second = prepare(replace(shop, privacy=consent([(1, "personalization", 0, 50)])))
    assert first.fingerprint != second.fingerprint
