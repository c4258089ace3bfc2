"""The rules about event types and cleaning, each broken once."""

from dataclasses import replace

import pytest

from recsys.config.check import check
from recsys.config.cleaning import AccountsConfig, CleaningConfig, JunkConfig, ReturnsConfig, ShiftedConfig
from recsys.config.compose import compose
from recsys.config.data import DataConfig
from recsys.config.schema import Config
from recsys.errors import ConfigError


def make_config(cleaning: dict[str, object] | None = None, **data: object) -> Config:
    """A legal configuration with some values of the data and of the cleaning replaced."""
    rules = replace(CleaningConfig(), **(cleaning or {}))  # type: ignore[arg-type]
    return Config(data=DataConfig(name="shop", events="events.parquet", cleaning=rules, **data), run_dir="run")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cleaning", "expected"),
    [
        ({"conflicts": "latst"}, "conflicts: 'latst' is not one of .* Did you mean 'latest'"),
        ({"item_time": "since"}, "item_time=since: is read for an items table .* no effect"),
        ({"shifted": [ShiftedConfig({})]}, r"shifted\[0\]\.when: one or more columns"),
        ({"shifted": [ShiftedConfig({"brand": "("})]}, r"shifted\[0\]\.when\.brand='\(': is no regular expression"),
        ({"junk": [JunkConfig()]}, r"junk\[0\]: names nothing"),
        ({"junk": [JunkConfig(pattern="[")]}, r"junk\[0\]\.pattern='\[': is no regular expression"),
        ({"accounts": AccountsConfig(action="dorp")}, "action: 'dorp' is not one of flag, drop. Did you mean 'drop'"),
        ({"accounts": AccountsConfig(action="drop")}, "accounts.action=drop: no limit is given, so it has no effect"),
        ({"accounts": AccountsConfig(lines=0)}, "accounts.lines=0: must be 1 or more, or null"),
        ({"accounts": AccountsConfig(events_a_day=-1)}, "accounts.events_a_day=-1: must be 1 or more"),
        ({"accounts": AccountsConfig(items_a_day=0)}, "accounts.items_a_day=0: must be 1 or more"),
        ({"accounts": AccountsConfig(share=1.0)}, r"accounts.share=1\.0: must be a share above 0 and below 1"),
        ({"near_duplicate_seconds": 1e16}, r"near_duplicate_seconds=1e\+16: must be 0 or more, at most"),
        ({"near_duplicate_seconds": -1.0}, r"near_duplicate_seconds=-1\.0: must be 0 or more"),
    ],
)
def test_rules_of_cleaning(cleaning: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        check(make_config(cleaning))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"relevant": ["buy"], "left_out": ["buy"]}, r"data\.left_out: 'buy' is named by data\.relevant too"),
        ({"weights": {"buy": 0.0}}, r"data\.weights\.buy=0\.0: must be above 0"),
        ({"weights": {"seen": 2.0}, "impressions": ["seen"]}, "weights.seen: its events are impressions"),
    ],
)
def test_rules_of_event_types(data: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        check(make_config(**data))


def test_a_return_is_nothing_else() -> None:
    with pytest.raises(ConfigError, match=r"returns\.event_types: 'back' is named by data\.relevant too"):
        check(make_config({"returns": ReturnsConfig(event_types=["back"])}, relevant=["back"]))


def test_as_of_needs_a_time() -> None:
    with pytest.raises(ConfigError, match=r"as_of: needs data\.cleaning\.item_time"):
        check(make_config({"conflicts": "as_of"}, items="items.parquet"))
    check(make_config({"conflicts": "as_of"}))
    check(make_config({"conflicts": "as_of", "item_time": "since"}, items="items.parquet"))


def test_the_console_takes_rules_and_words() -> None:
    cfg = compose(
        "prepare",
        [
            "data=tables",
            "data.events=e.parquet",
            "data.weights.buy=2",
            "data.cleaning.unit_words.box=CT",
            "data.cleaning.junk=[{values: [POST]}, {column: kind, pattern: test}]",
            "data.cleaning.shifted=[{when: {user_id: null, brand: x}, move: {user_id: brand}}]",
        ],
    )
    assert cfg.data.weights == {"buy": 2.0}
    assert cfg.data.cleaning.unit_words == {"box": "CT"}
    assert cfg.data.cleaning.junk == [JunkConfig(values=["POST"]), JunkConfig("kind", pattern="test")]
    assert cfg.data.cleaning.shifted == [ShiftedConfig({"user_id": None, "brand": "x"}, {"user_id": "brand"})]


@pytest.mark.parametrize("key", ["junk=[{colum: item_id}]", "shifted=[{move: {}}]", "dupes=true"])
def test_the_console_refuses_what_is_no_rule(key: str) -> None:
    with pytest.raises(ConfigError, match=r"no such key|has no value"):
        compose("prepare", ["data=tables", "data.events=e.parquet", f"data.cleaning.{key}"])
