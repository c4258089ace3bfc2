import io

import polars as pl
import pytest
from rich.console import Console

from recsys.config.data import DataConfig, SplitConfig
from recsys.config.schema import SegmentsConfig
from recsys.data.dataset import microseconds
from recsys.data.prepare import prepare
from recsys.errors import DataError
from recsys.segments.clusters import Space
from recsys.segments.fit import fit_segments
from recsys.segments.report import _traits, assign_all, number, print_segments, segment_report
from recsys.segments.report_page import render_segments, write_segments_html


@pytest.fixture(scope="module")
def report(planted, tmp_path_factory):
    """Of the planted shop, cut at day 120 and day 160; a town needs escaping."""
    events, truth = planted
    folder = tmp_path_factory.mktemp("shop")
    towns = truth.select(
        "user_id", town=pl.when(pl.col("habit") == "often").then(pl.lit("<b>Bonn</b>")).otherwise(pl.lit("Ulm"))
    )
    events.write_parquet(folder / "events.parquet")
    towns.write_parquet(folder / "users.parquet")
    split = SplitConfig(val_start="2024-04-30", test_start="2024-06-09")
    tables = {name: str(folder / f"{name}.parquet") for name in ("events", "users")}
    prepared = prepare(DataConfig(name="shop", split=split, cache_dir=str(folder / "prepared"), **tables))
    cut = microseconds(prepared.windows.val_start)
    model = fit_segments(prepared.events, prepared.users, cut, SegmentsConfig(ks=[2, 3, 4], sample=100))
    assigned = assign_all(prepared, model)
    return segment_report(prepared, model, assigned), assigned, prepared


def test_sizes_and_medians(report):
    found, assigned, prepared = report
    before = prepared.events.filter(pl.col("timestamp") < prepared.windows.val_start)
    assert found.users == before["user_id"].n_unique()
    for kind in found.kinds:
        sizes = dict(assigned["train"][kind.kind].value_counts().iter_rows())
        assert {p.segment: p.users for p in kind.profiles if p.users} == sizes
        assert sum(p.share for p in kind.profiles) == pytest.approx(1)
        for n, name in enumerate(("val", "test")):
            assert sum(p.later[n] for p in kind.profiles) == len(prepared.users) == len(assigned[name])
    champions = next(p for p in found.kinds[0].profiles if p.segment == "champions")
    ids = assigned["train"].filter(pl.col("rfm") == "champions")["user_id"]
    baskets = (
        before.filter(pl.col("user_id").is_in(ids.implode())).group_by("user_id").agg(pl.col("basket_id").n_unique())
    )
    assert champions.medians["frequency"] == baskets["basket_id"].median()
    assert "others" not in found.columns  # nobody did anything but buy


def test_migration_conserves_users(report):
    found, assigned, _ = report
    for kind in found.kinds:
        assert len(kind.migrations) == (0 if kind.kind == "demographic" else 2)
        for m in kind.migrations:
            sizes = dict(assigned[m.start][kind.kind].value_counts().iter_rows())
            assert [sum(line) for line in m.counts] == [sizes.get(segment, 0) for segment in m.segments]
            sizes = dict(assigned[m.end][kind.kind].value_counts().iter_rows())
            assert [sum(column) for column in zip(*m.counts, strict=True)] == [sizes.get(s, 0) for s in m.segments]
            same = assigned[m.start].join(assigned[m.end], on="user_id").filter(pl.col(kind.kind) != "no_events")
            assert m.stayed == pytest.approx((same[kind.kind] == same[f"{kind.kind}_right"]).mean())


def test_page_is_self_contained_escaped_and_always_the_same(report, tmp_path):
    page = render_segments(report[0])
    assert page.count("<svg") == 3 + 2  # choices of three methods, two trees
    assert "&lt;b&gt;Bonn" in page
    assert "<b>Bonn" not in page
    for outside in ('src="http', 'href="http', "<script", "<link", "@import"):
        assert outside not in page
    assert "--accent: #1e3a5f" in page  # the style, not escaped
    assert render_segments(report[0]) == page
    path = write_segments_html(report[0], tmp_path / "new" / "page.html")
    assert path.read_text(encoding="utf-8") == page
    with pytest.raises(DataError, match="report on segments cannot be written"):
        write_segments_html(report[0], path / "below_a_file.html")


def test_console_fits_a_terminal(report):
    out = io.StringIO()
    print_segments(report[0], Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split()[:1] == ["champions"] for line in lines)
    assert any("K-Means: 3 clusters, silhouette" in line for line in lines)


def test_traits_name_what_is_far_from_the_mean():
    space = Space(("frequency", "basket_size", "gap"), (0.0,) * 3, (1.0,) * 3)
    assert _traits(space, [0.6, -1.2, 0.4]) == "low basket size, high frequency"
    assert _traits(space, [0.1, 0.2, 0.3]) == "average"


def test_number():
    assert [number(v) for v in (None, 0.12345, 3.0, 1234.6)] == ["-", "0.123", "3", "1,235"]
