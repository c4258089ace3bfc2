import hashlib
import hmac

import polars as pl
import pytest

from recsys.errors import ConfigError
from recsys.privacy.pseudonyms import key_digest, pseudonym, pseudonyms, read_key

KEY = b"0123456789abcdef0123456789abcdef"


def test_hmac_sha256_of_the_text() -> None:
    expected = hmac.new(KEY, b"customer-17", hashlib.sha256).hexdigest()
    assert pseudonym(KEY, "customer-17") == expected
    ids = pl.Series("user_id", ["b", None, "customer-17", "b"])
    named = pseudonyms(ids, KEY)
    assert (named.name, named.dtype) == ("user_id", pl.String)
    assert named.to_list() == [pseudonym(KEY, "b"), None, expected, pseudonym(KEY, "b")]


def test_numbers_and_text_are_the_same_person() -> None:
    assert pseudonyms(pl.Series([17, -1]), KEY).to_list() == pseudonyms(pl.Series(["17", "-1"]), KEY).to_list()
    assert pseudonyms(pl.Series([], dtype=pl.Int64), KEY).to_list() == []


def test_another_key_is_another_name_and_the_digest_tells_neither() -> None:
    other = KEY[::-1]
    assert pseudonym(KEY, "a") != pseudonym(other, "a")
    assert key_digest(KEY) != key_digest(other)
    assert KEY.decode() not in key_digest(KEY)


def test_key_from_file_and_environment(tmp_path, monkeypatch) -> None:
    (tmp_path / "key").write_bytes(KEY + b"\n")
    monkeypatch.setenv("SHOP_KEY", KEY.decode())
    assert read_key(f"file:{tmp_path}/key") == read_key("env:SHOP_KEY") == KEY


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("file:nowhere/key", "cannot be read"),
        ("env:NOT_SET_HERE", "is not set"),
        ("env:TOO_SHORT", "a key of 6 bytes"),
        ("a-secret-that-somebody-put-into-the-config", "where the key lies"),
    ],
)
def test_no_key_no_pseudonyms(place: str, expected: str, monkeypatch) -> None:
    monkeypatch.setenv("TOO_SHORT", "secret")
    with pytest.raises(ConfigError, match=expected) as caught:
        read_key(place)
    assert "a-secret" not in str(caught.value)
    assert "secret'" not in str(caught.value)
