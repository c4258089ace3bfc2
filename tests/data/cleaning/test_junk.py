import polars as pl
import pytest

from recsys.config.cleaning import JunkConfig
from recsys.data.cleaning.junk import junk_events, without_junk
from recsys.errors import ConfigError, DataError

ITEMS = pl.DataFrame({"item_id": ["POST", "a", "b"], "kind": ["postage", None, "TEST ring"]})


@pytest.mark.parametrize(
    ("rule", "rows"),
    [
        (JunkConfig(values=["POST"]), [1]),
        (JunkConfig(pattern="^[A-Z]+$"), [1]),
        (JunkConfig(column="kind", values=["postage"]), [1]),
        (JunkConfig(column="kind", pattern="(?i)^test"), [3]),
        (JunkConfig(column="shelf", values=["9"]), [2]),
        (JunkConfig(values=["none"]), []),
        (JunkConfig(values=["POST"], pattern="^b$"), [1, 3]),
    ],
)
def test_by_id_or_attribute(events_of, rule, rows):
    events = events_of([(1, "POST", 0, 1), (1, "a", 1, 9), (1, "b", 2, None)], shelf=pl.Int64)
    assert events.filter(junk_events(events, ITEMS, rule))["row_number"].to_list() == rows


def test_a_column_that_is_not_there(events_of):
    with pytest.raises(DataError, match=r"no column 'kin'; columns: .*kind.*Did you mean 'kind'"):
        junk_events(events_of([(1, "a", 0)]), ITEMS, JunkConfig(column="kin", values=["x"]))
    with pytest.raises(ConfigError, match="cannot be read"):
        junk_events(events_of([(1, "a", 0)]), ITEMS, JunkConfig(pattern="(?!x)"))


def test_the_catalogue_loses_junk_and_nothing_else():
    rules = [JunkConfig(pattern="^POST$"), JunkConfig(column="kind", pattern="^TEST"), JunkConfig("shelf", ["9"])]
    assert without_junk(ITEMS, rules)["item_id"].to_list() == ["a"]
    assert without_junk(ITEMS, []).equals(ITEMS)
