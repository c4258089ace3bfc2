"""Ids and paths on the command line are what was typed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.config.compose import compose
from recsys.config.overrides import readable


@pytest.mark.parametrize(
    "argument",
    [
        *("seed=1", "model=id_only", "--cfg", "job", "-m", "seed=1,2,3", "data.events=sales.parquet", "~logger"),
        *(
            "data.relevant=[buy,view]",
            "data.columns={user_id: customer}",
            "+data.columns.user_id=customer",
            "users=null",
        ),
        *("tracking.uri='http://x:1'", 'data.name="a b"', "data.name=${seed}", "data.relevant=[buy", "plain", "="),
        *("data.events=s3://bucket/day.parquet", "hydra.run.dir=/tmp/a b", "experiment=null", "user='12'"),
    ],
)
def test_what_hydra_reads_stays(argument: str) -> None:
    assert readable(argument) == argument


@pytest.mark.parametrize(
    "path",
    [
        *("shops/josé/events.csv", "/tmp/a(b)/x.csv", "/tmp/[a]/*.parquet", "s3://b/k?x=1", "it's.csv", "/tmp/{a}.csv"),
        *("a'b", "\\'", "C:\\shops\\", "x=\\", "=3"),
    ],
)
def test_paths_need_no_quotes(path: str) -> None:
    typed = compose("train", ["data=tables", readable(f"data.events={path}")])
    assert typed.data.events == path


@pytest.mark.parametrize(
    "user", ["007", "12E3", "1_000", "1.50", "true", "NULL", "a,b", " lead", "é", "[x]", "x:y", "-1"]
)
def test_ids_stay_what_was_typed(user: str) -> None:
    asked = compose("explain", ["bundle=b", readable(f"user={user}"), readable(f"item={user}")])
    assert (asked.user, asked.item) == (user, user)


def test_several_users_are_one_text() -> None:
    for given_as in ("users=u0,u1", "users=[u0,u1]", "users='u0,u1'"):
        assert compose("recommend", ["bundle=b", readable(given_as)]).users == "u0,u1"
    assert compose("recommend", ["bundle=b", readable("users=null")]).users is None
    assert compose("erase", ["users=people.csv"]).users == compose("erase", [readable("users=people.csv")]).users


@given(st.text(st.characters(exclude_characters="$\0", exclude_categories=["Cs"]), min_size=1))
def test_any_text_is_an_id(text: str) -> None:
    if text == "null" or text[0] in "'\"":
        return
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert OverridesParser.create().parse_override(readable(f"item={text}")).value() == text
