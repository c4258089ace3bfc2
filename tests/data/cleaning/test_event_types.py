import polars as pl
import pytest

from recsys.config.data import DataConfig
from recsys.data.cleaning.event_types import check_types, is_type, leave_out, role, types_found, weighted
from recsys.errors import DataError

CFG = DataConfig(
    name="t", relevant=["buy"], left_out=["filter"], impressions=["seen"], weights={"buy": 3.0, "cart": 0.5}
)
CFG.cleaning.returns.event_types = ["back"]
KINDS = ["buy", "view", "view", "filter", "seen", None, "cart", "back"]
EVENTS = pl.DataFrame({"event_type": KINDS})
TYPES = {kind for kind in KINDS if kind is not None}


def test_each_type_has_a_role():
    roles = [role(CFG, kind) for kind in KINDS]
    others = ["history only", "impressions", "history only", "history only", "returns"]
    assert roles == ["relevant", "history only", "history only", *others]
    assert role(DataConfig(name="t"), "view") == "relevant"
    assert is_type(EVENTS, ["view"]).sum() == 2
    assert is_type(pl.DataFrame({"x": [1, 2]}), ["view"]).to_list() == [False, False]


def test_weights_are_a_column_where_there_are_any():
    assert weighted(EVENTS, CFG)["event_weight"].to_list() == [3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 1.0]
    assert weighted(EVENTS, DataConfig(name="t")).columns == ["event_type"]
    with pytest.raises(DataError, match="makes a column 'event_weight'"):
        weighted(weighted(EVENTS, CFG), CFG)


def test_every_type_is_counted():
    finding = types_found(EVENTS, CFG)
    assert finding.found == 8
    assert finding.parts[0] == ("view, history only, weight 1", 2)
    assert "(none), history only, weight 1: 1" in finding.details
    assert "cart, history only, weight 0.5: 1" in finding.details


@pytest.mark.parametrize("key", ["relevant", "impressions", "left_out"])
def test_a_type_that_never_occurs_is_a_mistake(key):
    cfg = DataConfig(name="t", **{key: ["vew"]})
    with pytest.raises(DataError, match=rf"here, column 'event_type': data\.{key} names 'vew'.*Did you mean 'view'"):
        check_types(TYPES, cfg, "here")
    check_types(TYPES, CFG, "here")


def test_what_is_left_out_is_asked_nothing():
    source = EVENTS.with_row_index("row_number", offset=1)
    rest, rejects, (finding,) = leave_out(source, CFG)
    assert rest["row_number"].to_list() == [1, 2, 3, 5, 6, 7, 8]
    assert rejects.rows() == [(4, "event_type_left_out")]
    assert (finding.found, finding.parts) == (1, (("filter", 1),))
    rest, rejects, findings = leave_out(source, DataConfig(name="t"))
    assert (rest.equals(source), rejects.rows(), findings) == (True, [], ())
