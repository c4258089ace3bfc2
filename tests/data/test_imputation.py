"""Missing attributes: by hand, against what was hidden, blind to later rows, the same after a round trip."""

import io
import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from rich.console import Console

from recsys.config.data import IMPUTATIONS, ImputationConfig
from recsys.data import imputation_methods as methods
from recsys.data.imputation import METHODS, Imputer, fit_imputer, imputation_facts, impute, refit
from recsys.data.imputation_hidden import accuracy, hide
from recsys.data.imputation_store import load_imputer, save_imputer
from recsys.data.prepare import prepare
from recsys.data.prepared import load_prepared
from recsys.data.report import data_report, print_summary
from recsys.data.report_page import render
from recsys.errors import DataError

SHELF = pl.DataFrame(
    {
        "item_id": range(1, 11),
        "kind": ["tea", "tea", "tea", "tea", "jam", "jam", "jam", None, "oil", "jam"],
        "size": ["s", "s", "l", None, "l", "l", None, None, None, "s"],
        "price": [1.0, 2.0, 9.0, None, 4.0, 6.0, 5.0, 7.0, None, math.inf],
    }
)


def fitted(table: pl.DataFrame = SHELF, **settings) -> Imputer:
    return fit_imputer(table, table[table.columns[0]], **settings)


def filled(table: pl.DataFrame = SHELF, **settings) -> pl.DataFrame:
    return impute(fitted(table, **settings), table)


def shelf(rows: int, seed: int = 0) -> pl.DataFrame:
    """Items whose size follows from their kind and brand, and price from their size; one in five is missing."""
    chance = np.random.default_rng(seed)
    kind, brand = chance.integers(0, 4, rows), chance.integers(0, 3, rows)
    size = 3 * kind + brand
    columns = {
        "kind": [f"kind{k}" for k in kind],
        "brand": [f"brand{b}" for b in brand],
        "size": [f"size{s}" for s in size],
        "price": (10.0 * size + chance.normal(0, 1, rows)).tolist(),
    }
    gone = chance.random((2, rows)) < 0.2
    for name, gaps in zip(("size", "price"), gone, strict=True):
        columns[name] = [None if gap else value for value, gap in zip(columns[name], gaps, strict=True)]
    return pl.DataFrame({"item_id": range(rows)} | columns)


def test_usual_value_of_the_group_then_of_all() -> None:
    out = filled(default="none", methods={"size": "most_frequent", "price": "median"}, groups=["kind"])
    # tea: s twice; jam: l twice; no kind and oil: s and l are equally frequent, l is the smaller.
    assert out["size"].to_list() == ["s", "s", "l", "s", "l", "l", "l", "l", "l", "s"]
    # tea: 1, 2, 9; jam: 4, 6, 5, and infinity is no price; oil has none, so the median of 1, 2, 4, 5, 6, 7, 9.
    assert out["price"].to_list() == [1.0, 2.0, 9.0, 2.0, 4.0, 6.0, 5.0, 7.0, 5.0, 5.0]
    assert out["kind"].to_list() == SHELF["kind"].to_list()
    assert out.columns == [*SHELF.columns, "size_missing", "price_missing"]
    assert out["size_missing"].to_list() == [0, 0, 0, 1, 0, 0, 1, 1, 1, 0]
    assert out["price_missing"].to_list() == [0, 0, 0, 1, 0, 0, 0, 0, 1, 1]


def test_groups_are_looked_at_in_the_given_order() -> None:
    table = pl.DataFrame(
        {
            "item_id": range(6),
            "type": ["green", "green", None, "black", "black", None],
            "kind": ["tea", "tea", "tea", "tea", "tea", "jam"],
            "size": [None, "s", None, "l", "l", None],
        }
    )
    fine = filled(table, default="none", methods={"size": "most_frequent"}, groups=["type", "kind"])
    coarse = filled(table, default="none", methods={"size": "most_frequent"}, groups=["kind", "type"])
    assert fine["size"].to_list() == ["s", "s", "l", "l", "l", "l"]
    assert coarse["size"].to_list() == ["l", "s", "l", "l", "l", "l"]


def test_the_best_group_is_found() -> None:
    table = shelf(600).with_columns(noise=pl.Series([f"n{i % 4}" for i in range(600)]))
    (filler,) = fitted(table, default="none", methods={"size": "most_frequent"}).fillers
    assert filler.groups[0] == "kind"
    assert filler.groups[-1] == "noise"


def test_missing_is_a_value_of_its_own() -> None:
    table = pl.DataFrame(
        {
            "item_id": range(4),
            "text": ["missing", "a", None, "b"],
            "maker_id": [-3, 5, None, 7],
            "price": [1.5, 2.5, None, 0.5],
        }
    )
    out = filled(table, default="missing")
    assert out.row(2, named=True) == {
        "item_id": 2,
        "text": "(missing)",
        "maker_id": -4,
        "price": None,  # what models read as missing already
        "text_missing": 1,
        "maker_id_missing": 1,
        "price_missing": 1,
    }
    assert_frame_equal(out[[0, 1, 3]].select(table.columns), table[[0, 1, 3]])


@pytest.mark.parametrize("method", ["knn", "iterative"])
def test_similar_rows_tell_what_no_single_column_does(method) -> None:
    table = shelf(600)
    truth = shelf(600).select(size="size", code=None)
    out = filled(table, default=method)
    kind, brand = (out[c].str.slice(-1).cast(pl.Int64) for c in ("kind", "brand"))
    assert truth["size"].null_count() > 50
    assert (out["size"] == "size" + (3 * kind + brand).cast(pl.String)).mean() > 0.99
    assert (out["price"] - 10.0 * (3 * kind + brand)).abs().max() < 8
    facts = {f.column: f.accuracy for f in fitted(table).fillers}
    assert facts["size"][method] > 0.95 > facts["size"]["most_frequent"] > facts["size"]["missing"] == 0
    assert facts["price"][method] > 0.9


def test_neighbours_are_those_that_agree_most() -> None:
    rows = [(1, "a", "x", "p"), (2, "a", "x", "p"), (3, "a", "y", "q"), (4, "b", "y", "q"), (5, "b", "y", "q")]
    asked = [(6, "a", "x", None), (7, "b", None, None), (8, "c", "z", None), (9, None, None, None)]
    table = pl.DataFrame(rows + asked, schema=["item_id", "one", "two", "size"], orient="row")
    peers = methods.Peers.draw(table.drop("item_id"), ["size"], ["one", "two", "size"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "NEIGHBOURS", 2)
        found = peers.nearest("size", table.tail(4).drop("item_id"))
    assert found.to_list() == ["p", "q", None, None]  # the last two agree with nobody


def test_auto_is_at_least_as_accurate_as_each_method() -> None:
    for seed in range(3):
        for filler in fitted(shelf(300, seed)).fillers:
            assert set(filler.accuracy) == set(METHODS) - {"median" if filler.category else "most_frequent"}
            assert filler.accuracy[filler.method] == max(filler.accuracy.values())


def test_of_equally_accurate_methods_the_simplest_is_taken() -> None:
    table = pl.DataFrame({"item_id": range(50), "kind": ["tea"] * 40 + [None] * 10, "other": ["x", "y"] * 25})
    (filler,) = fitted(table).fillers
    assert filler.accuracy == {"missing": 0.0, "most_frequent": 1.0, "knn": 1.0, "iterative": 1.0}
    assert filler.method == "most_frequent"


def test_hidden_values_lack_what_missing_ones_lack() -> None:
    table = pl.DataFrame(
        {
            "a": ["x"] * 30 + [None] * 20,
            "b": ["y"] * 30 + [None] * 20,  # always missing together with a
            "c": ["z"] * 30 + [None] * 10 + ["z"] * 10,
        }
    )
    masked, drawn = hide(table, "a")
    assert drawn.sum() == 6
    assert drawn[30:].sum() == 0
    hidden = masked.filter(drawn)
    assert hidden["a"].null_count() == hidden["b"].null_count() == 6
    assert_frame_equal(masked.filter(~drawn), table.filter(~drawn))
    assert_frame_equal(hide(table, "a")[0], masked)


def test_accuracy_by_hand() -> None:
    texts = pl.Series(["a", "b", None, "a"])
    assert accuracy(texts, pl.Series(["a", "a", "a", "a"]), True, "a") == 0.5
    truth = pl.Series([0.0, 4.0, 6.0])
    assert accuracy(pl.Series([0.0, 4.0, 6.0]), truth, False, 4.0) == 1
    assert accuracy(pl.Series([4.0, 4.0, 4.0]), truth, False, 4.0) == 0
    assert accuracy(pl.Series([None, None, None], dtype=pl.Float64), truth, False, 4.0) == 0
    assert accuracy(pl.Series([1.0, 4.0, 5.0]), truth, False, 4.0) == pytest.approx(1 - 2 / 6)
    assert accuracy(pl.Series([90.0, 4.0, 5.0]), truth, False, 4.0) == 0


def test_only_what_has_gaps_or_is_named_is_filled() -> None:
    assert [f.column for f in fitted().fillers] == ["kind", "size", "price"]
    assert fitted(default="none").fillers == ()
    whole = SHELF.filter(pl.col("size").is_not_null() & (pl.col("price") < math.inf))
    assert fitted(whole).fillers == ()
    (filler,) = fitted(whole, methods={"size": "most_frequent"}).fillers
    assert (filler.flag, filler.gaps) == ("", 0)
    later = impute(fitted(whole, methods={"size": "most_frequent"}), SHELF)
    assert later["size"].null_count() == 0
    assert later.columns == SHELF.columns


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": {"sise": "auto"}}, r"'sise' is no attribute of the table of item_id.*Did you mean 'size'"),
        ({"groups": ["brand"]}, r"'brand' is no attribute"),
        ({"methods": {"size": "median"}}, r"'size' cannot be filled by 'median', its values are names"),
        ({"methods": {"price": "most_frequent"}}, r"'price' cannot be filled by 'most_frequent'.*quantities"),
    ],
)
def test_what_does_not_fit_is_refused(settings, message) -> None:
    table = SHELF.with_columns(price=pl.col("price") + pl.Series(range(10)) / 7)
    with pytest.raises(DataError, match=message):
        fitted(table, **settings)


def test_a_default_is_read_as_what_fits_the_column() -> None:
    found = {f.column: f.method for f in fitted(default="median").fillers}
    assert found == {"kind": "most_frequent", "size": "most_frequent", "price": "median"}


@pytest.mark.parametrize("default", ["most_frequent", "knn", "iterative", "auto"])
def test_stored_as_plain_data_and_read_again(default, tmp_path) -> None:
    table = shelf(120)
    imputer = fitted(table, default=default)
    save_imputer(imputer, tmp_path / "items")
    assert {f.suffix for f in (tmp_path / "items").iterdir()} == {".json", ".parquet"}
    again = load_imputer(tmp_path / "items")
    assert imputation_facts({"items": again}) == imputation_facts({"items": imputer})
    other = shelf(80, seed=5)
    assert_frame_equal(impute(again, other), impute(imputer, other))


@pytest.mark.parametrize("method", ["most_frequent", "knn", "iterative", "missing"])
def test_fitted_again_on_fewer_rows(method) -> None:
    """Equal to fitting on these rows alone, though their gaps are filled by now; on all rows, to what it was."""
    table = shelf(120)
    methods = {"size": method, "price": "median" if method == "most_frequent" else method}
    imputer = fitted(table, default="none", methods=methods, groups=["kind"])
    left, asked = table.filter(pl.col("item_id") % 5 != 0), shelf(80, seed=5)
    alone = fitted(left, default="none", methods=methods, groups=["kind"])
    done = impute(imputer, table)
    fewer = refit(imputer, done.filter(pl.col("item_id").is_in(left["item_id"].implode())), left["item_id"])
    among = refit(imputer, done, left["item_id"])
    for again in (fewer, among):
        assert_frame_equal(impute(again, asked), impute(alone, asked))
        assert [f.gaps for f in again.fillers] == [f.gaps for f in alone.fillers]
    same = refit(imputer, done, table["item_id"])
    assert_frame_equal(same.peers.rows, imputer.peers.rows)
    assert imputation_facts({"items": same}) == imputation_facts({"items": imputer})


def test_a_table_without_a_needed_column_is_refused() -> None:
    with pytest.raises(DataError, match="no column 'kind'"):
        impute(fitted(default="most_frequent", groups=["kind"]), SHELF.drop("kind"))


ROW = st.tuples(
    st.none() | st.sampled_from(["tea", "jam", ""]),
    st.none() | st.integers(-2, 2),
    st.none() | st.floats(-1e6, 1e6) | st.just(math.inf),
    st.none() | st.integers(0, 10**9),
)
SCHEMA = {"kind": pl.String, "maker_id": pl.Int64, "price": pl.Float64, "code": pl.Int64}


def rows_of(rows, first: int = 0) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    return frame.select(pl.int_range(first, first + len(frame), dtype=pl.Int64).alias("item_id"), pl.all())


@given(rows=st.lists(ROW, max_size=12), default=st.sampled_from(["auto", *METHODS]))
@settings(max_examples=40)
def test_any_table_is_filled(rows, default) -> None:
    table = rows_of(rows)
    imputer = fitted(table, default=default)
    out = impute(imputer, table)
    assert out.select(table.columns).schema == table.schema
    fillers = {f.column: f for f in imputer.fillers}
    for name in SCHEMA:
        before, after = table[name], out[name]
        kept = before.is_not_null() & (before != math.inf if name == "price" else True)
        assert after.filter(kept).to_list() == before.filter(kept).to_list()
        assert (name in fillers) == (0 < kept.sum() < len(table))
        if name in fillers and (fillers[name].method != "missing" or fillers[name].category):
            assert after.null_count() == 0


@given(rows=st.lists(ROW, min_size=1, max_size=10), later=st.lists(ROW, max_size=6), data=st.data())
@settings(max_examples=25)
def test_neither_rows_that_were_not_seen_nor_their_order_matter(rows, later, data) -> None:
    table = rows_of(rows)
    both = pl.concat([table, rows_of(later, first=len(rows))])
    shuffled = both[data.draw(st.permutations(range(len(both))))]
    alone, among = (fit_imputer(t, table["item_id"]) for t in (table, shuffled))
    assert imputation_facts({"t": alone}) == imputation_facts({"t": among})
    assert_frame_equal(impute(alone, table), impute(among, table))


@pytest.fixture
def gappy(shop, tmp_path):
    """The shop with gaps in its items."""
    items = pl.DataFrame(
        {
            "item_id": [f"sku{i}" for i in range(11)],
            "brand": ["acme", "acme", None, "best", "best", "best", "best", None, "acme", "best", None],
            "kind": ["a", "a", "a", "b", "b", "b", "b", "b", "a", "b", "a"],
        }
    )
    items.write_parquet(tmp_path / "gappy.parquet")
    return replace(shop, items=str(tmp_path / "gappy.parquet"))


def test_prepared_with_imputation(gappy) -> None:
    bare = prepare(gappy)
    assert bare.imputers == {}
    assert bare.items["brand"].null_count() == 3
    asked = ImputationConfig(items={"brand": "most_frequent"}, users={"gender": "missing"}, item_groups=["kind"])
    data = prepare(replace(gappy, imputation=asked))
    assert data.items["brand"].null_count() == 0
    brands = dict(data.items.select("item_id", "brand").iter_rows())
    assert (brands["sku2"], brands["sku7"], brands["sku10"]) == ("acme", "best", "acme")
    assert data.users["gender"].to_list() == ["f", "m", *["missing"] * 5]
    assert [f.name for f in data.spec.side("item")] == ["item_id", "brand", "kind", "brand_missing"]
    assert_frame_equal(impute(load_prepared(data.path).imputers["items"], bare.items), data.items)
    assert (data.path / "imputation" / "items" / "imputer.json").is_file()
    assert_frame_equal(data.events, bare.events)


def test_report_shows_accuracy_by_column(gappy) -> None:
    report = data_report(prepare(replace(gappy, imputation=ImputationConfig(default="auto"))))
    assert [(f["table"], f["column"]) for f in report.imputation] == [("items", "brand"), ("users", "gender")]
    out = io.StringIO()
    print_summary(report, Console(file=out, width=140))
    (line,) = (text for text in out.getvalue().splitlines() if "items" in text and "brand" in text)
    assert "%" in line
    assert "Filled attributes" in render(report)
    assert "Filled attributes" not in render(data_report(prepare(gappy)))


def test_config_names_the_methods() -> None:
    assert set(IMPUTATIONS) == {"none", "auto", *METHODS}
