"""The rules of privacy and erasure, each broken once."""

import pytest

from recsys.config.check import check
from recsys.config.compose import compose
from recsys.config.privacy import EraseConfig, PrivacyConfig, privacy_problems
from recsys.errors import ConfigError

CONSENT = {"consent": "consent.parquet", "default": "deny"}


@pytest.mark.parametrize(
    "legal", [{}, CONSENT, CONSENT | {"consent_columns": {"granted": "yes"}}, {"retention_days": 1.5}]
)
def test_legal(legal) -> None:
    assert list(privacy_problems(PrivacyConfig(**legal))) == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"consent": "c.csv"}, "data.privacy.default has no value; say what holds for users without a row"),
        (CONSENT | {"default": "maybe"}, "data.privacy.default: 'maybe' is not deny or allow"),
        ({"default": "deny"}, "without data.privacy.consent"),
        (CONSENT | {"after_withdrawal": "drop_al"}, "Did you mean 'drop_all'?"),
        (CONSENT | {"consent_columns": {"grantd": "x"}}, "Did you mean 'granted'?"),
        ({"retention_days": 0.0}, "data.privacy.retention_days=0.0: must be above 0"),
        ({"retention_days": 1e6}, "data.privacy.retention_days=1000000.0: must be above 0, at most 100000"),
        ({"retention_days": 1.0, "retain_from": "2024-01-01"}, "give one of the two"),
        ({"retain_from": "last year"}, "data.privacy.retain_from: 'last year' is not an ISO time"),
        ({"pseudonym_key": "hunter2-hunter2-hunter2"}, "must say where the key lies"),
        ({"pseudonym_key": "env:"}, "must say where the key lies"),
    ],
)
def test_broken(settings, expected) -> None:
    (problem,) = privacy_problems(PrivacyConfig(**settings))
    assert expected in problem
    assert "hunter2" not in problem


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "users and verify: give one of the two"),
        ({"users": "a", "verify": "r.json"}, "users and verify: give one of the two"),
        ({"users": "a", "old_versions": "keep"}, "old_versions: 'keep' is not one of delete, pending"),
        ({"users": "a", "pseudonym_key": "hunter2"}, "pseudonym_key: must say where"),
    ],
)
def test_erase(settings, expected) -> None:
    check(EraseConfig(users="a"))
    with pytest.raises(ConfigError, match=expected) as caught:
        check(EraseConfig(**settings))
    assert "hunter2" not in str(caught.value)


def test_by_overrides() -> None:
    words = ["consent=c.csv", "default=allow", "consent_columns.user_id=who", "purpose=analytics"]
    cfg = compose("prepare", [f"data.privacy.{word}" for word in words])
    assert cfg.data.privacy.consent_columns == {"user_id": "who"}
    erase = compose("erase", ["users=people.csv", "models=[recsys-shop]", "run_dir=out"])
    assert isinstance(erase, EraseConfig)
    assert (erase.cache_dirs, erase.models, erase.old_versions) == (["prepared"], ["recsys-shop"], "delete")
