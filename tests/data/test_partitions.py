"""Preparing in partitions: the same data set as at once, whatever the tables hold, and whatever interrupts it."""

import shutil
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from recsys.config.cleaning import AccountsConfig, CleaningConfig, JunkConfig, ReturnsConfig, ShiftedConfig
from recsys.config.data import DataConfig, ImputationConfig, SplitConfig
from recsys.config.privacy import PrivacyConfig
from recsys.data import partitions, slices
from recsys.data.partitions import number_of_parts
from recsys.data.prepare import prepare, prepare_step
from recsys.data.prepared import Prepared
from recsys.data.report import data_report
from recsys.errors import ConfigError, DataError
from recsys.privacy.erased import add_erased

START = datetime(2024, 1, 1)
ROW = st.tuples(
    st.none() | st.integers(1, 6),
    st.none() | st.sampled_from(["a", "b", "c", " "]),
    st.integers(0, 400),
    st.sampled_from(["view", "buy", "buy", "back", "seen", "noise"]),
    st.none() | st.integers(1, 3),
    st.none() | st.sampled_from([-1.0, 1.0, 2.0]),
    st.none() | st.sampled_from(["north", "south", "n|s"]),
)
CLEANING = CleaningConfig(
    near_duplicate_seconds=90,
    junk=[JunkConfig(column="item_id", values=["c"])],
    accounts=AccountsConfig(lines=12, share=0.5, action="drop"),
    returns=ReturnsConfig(event_types=["back"], negative_quantity=True),
)
PLAIN = CleaningConfig()


def table(rows, times) -> pl.DataFrame:
    """Rows as a table that holds every type, times of one of the forms that tables have."""
    fixed = [(1 + i % 6, "abc"[i % 3], 30 * i, kind, None, 1.0, "north") for i, kind in enumerate(KINDS)]
    columns = ("user_id", "item_id", "minute", "event_type", "basket_id", "quantity", "store")
    types = (pl.Int64, pl.String, pl.Int64, pl.String, pl.Int64, pl.Float64, pl.String)
    frame = pl.DataFrame([*fixed, *rows], schema=dict(zip(columns, types, strict=True)), orient="row")
    time = pl.lit(START) + pl.duration(minutes="minute")
    forms = {
        "time": time,
        "text": time.dt.to_string("%Y-%m-%d %H:%M"),
        "seconds": time.dt.epoch("s"),
        "number text": time.dt.epoch("ms").cast(pl.String),
        "mixed": pl.when(pl.col("minute") % 7 == 0).then(pl.lit("soon")).otherwise(time.dt.to_string("%Y-%m-%d %H:%M")),
    }
    return frame.select("user_id", "item_id", forms[times].alias("timestamp"), *columns[3:])


KINDS = ["view", "buy", "back", "seen", "noise", "buy"] * 4


def same(a: Prepared, b: Prepared) -> None:
    """Check that two data sets hold the same."""
    for name in ("events", "items", "users", "impressions"):
        assert_frame_equal(getattr(a, name), getattr(b, name), check_exact=True)
    assert_frame_equal(*(pl.read_parquet(data.path / "rejects.parquet") for data in (a, b)))
    assert (a.windows, a.spec, a.has_item_table, a.fingerprint) == (b.windows, b.spec, b.has_item_table, b.fingerprint)
    assert a.report == b.report
    one, many = (vars(data_report(data)) | {"source": ""} for data in (a, b))
    assert one.pop("activity").tolist() == many.pop("activity").tolist()
    assert one == many


def both_ways(cfg: DataConfig, parts: int, folder: Path) -> None:
    """Prepare at once and in partitions, and compare what comes out or what is said."""
    found = []
    for number in (1, parts):
        try:
            found.append(prepare(replace(cfg, partitions=number, cache_dir=str(folder / f"in{number}"))))
        except DataError as error:
            found.append(str(error).replace(f"in{number}", "in"))
    if isinstance(found[0], str) or isinstance(found[1], str):
        assert found[0] == found[1]
        return
    same(*found)


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.lists(ROW, max_size=40),
    times=st.sampled_from(["time", "text", "seconds", "number text", "mixed"]),
    cleaning=st.sampled_from([CLEANING, PLAIN]),
    has_items=st.booleans(),
    ending=st.sampled_from(["parquet", "csv"]),
    parts=st.integers(2, 5),
    size=st.integers(3, 40),
)
@example([], "time", PLAIN, True, "parquet", 9, 1000)
def test_partitions_hold_what_one_holds(rows, times, cleaning, has_items, ending, parts, size) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "SLICE_ROWS", size)
        folder, events = Path(name), table(rows, times)
        (folder / "events").mkdir()
        for number, some in enumerate((events[:30], events[30:])):
            if len(some):
                getattr(some, f"write_{ending}")(folder / "events" / f"{number}.{ending}")
        pl.DataFrame({"item_id": ["a", "b", "d"], "brand": ["x", None, "y"]}).write_parquet(folder / "items.parquet")
        cfg = DataConfig(
            name="shop",
            events=str(folder / "events"),
            items=str(folder / "items.parquet") if has_items else None,
            context=["store"],
            left_out=["noise"],
            impressions=["seen"],
            weights={"buy": 2.0},
            cleaning=cleaning,
            imputation=ImputationConfig(default="auto"),
            max_reject_share=0.4,
        )
        both_ways(cfg, parts, folder)


SHIFTED = ShiftedConfig(when={"basket_id": "^u"}, move={"user_id": "basket_id"})
NAMED = pl.format("u{}", pl.col("user_id"))
ODD = {
    "text ids in one CSV file alone": lambda e: (
        "csv",
        [e[:12], e[12:].with_columns(user_id=NAMED)],
        {},
    ),
    "CSV numbers with leading zeros later": lambda e: (
        "csv",
        [e[:12], e[12:].with_columns(item_id=pl.lit("007"))],
        {},
    ),
    "quoted blanks in one CSV file alone": lambda e: (
        "quoted",
        [e[:12], e[12:].with_columns(pl.when(pl.int_range(pl.len()) > 2).then(pl.col("user_id", "quantity")))],
        {"max_reject_share": 1.0},
    ),
    "words for nothing in one CSV file alone": lambda e: (
        "csv",
        [e[:12], e[12:].with_columns(quantity=pl.lit("NA"), user_id=pl.lit("NaN"))],
        {"max_reject_share": 1.0},
    ),
    "CSV ids as floats in one file and of 20 digits in another": lambda e: (
        "csv",
        [
            e[:6].with_columns(basket_id=pl.lit("7")),
            e[6:12].with_columns(basket_id=pl.lit("8.0")),
            e[12:].with_columns(user_id=pl.when(pl.col("user_id") > 4).then(pl.lit("9" * 20)).otherwise("user_id")),
        ],
        {},
    ),
    "ids beyond Int64 in one row": lambda e: (
        "parquet",
        [e.with_columns(user_id=pl.col("user_id").cast(pl.UInt64) + pl.lit(2**63 - 3, pl.UInt64))],
        {},
    ),
    "ids as floats": lambda e: ("parquet", [e.with_columns(pl.col("user_id").cast(pl.Float64))], {}),
    "a zone for each row": lambda e: (
        "parquet",
        [e.with_columns(zone=pl.when(pl.col("user_id") > 3).then(pl.lit("Asia/Tokyo")).otherwise(pl.lit("moon")))],
        {"timezone_column": "zone", "item_attributes": [], "max_reject_share": 1.0},
    ),
    "attributes on the events": lambda e: (
        "parquet",
        [e.with_columns(brand=pl.col("item_id") + pl.col("store")), e[:0].with_columns(brand=pl.col("item_id"))],
        {"item_attributes": ["brand"]},
    ),
    "users in another column": lambda e: (
        "csv",
        [
            e.with_columns(
                user_id=pl.when(pl.col("user_id") > 4).then(None).otherwise(NAMED),
                basket_id=pl.when(pl.col("user_id") > 4).then(NAMED).otherwise("basket_id"),
            )
        ],
        {"cleaning": CleaningConfig(shifted=[SHIFTED]), "max_reject_share": 1.0},
    ),
    "days as folders": lambda e: ("day", [e[:12], e[12:]], {}),
    "a type that never occurs": lambda e: ("parquet", [e], {"relevant": ["by"]}),
    "calendar numbers": lambda e: (
        "parquet",
        [e.with_columns(timestamp=pl.col("timestamp").dt.to_string("%Y%m%d").cast(pl.Int64))],
        {},
    ),
    "one item": lambda e: ("parquet", [e.with_columns(item_id=pl.lit("a"))], {}),
    "nothing that can be used": lambda e: ("parquet", [e.with_columns(user_id=None)], {"max_reject_share": 1.0}),
    "the past alone is kept": lambda e: ("parquet", [e], {"privacy": PrivacyConfig(retention_days=0.4)}),
    "an end": lambda e: ("parquet", [e], {"split": SplitConfig(end="2024-01-01T09:00:00")}),
}


@pytest.mark.parametrize("case", ODD)
def test_what_depends_on_all_rows_is_decided_on_all_of_them(case, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(slices, "SLICE_ROWS", 5)
    ending, frames, settings = ODD[case](table([], "time"))
    for number, frame in enumerate(frames):
        folder = tmp_path / "events" / (f"day=2024-01-0{number + 1}" if ending == "day" else "")
        folder.mkdir(parents=True, exist_ok=True)
        if ending in ("csv", "quoted"):
            frame.write_csv(folder / f"{number}.csv", quote_style="always" if ending == "quoted" else None)
        else:
            frame.write_parquet(folder / f"{number}.parquet")
    both_ways(DataConfig(name="odd", events=str(tmp_path / "events"), **settings), 3, tmp_path)


def test_an_id_that_is_text_in_a_table_beside_is_text_in_the_events(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(slices, "SLICE_ROWS", 5)
    events = table([], "time").with_columns(item_id=pl.col("user_id") + 10)
    events.write_csv(tmp_path / "events.csv")
    pl.DataFrame({"item_id": ["11", "12", "SKU-9"], "brand": ["x", "y", "z"]}).write_csv(tmp_path / "items.csv")
    pl.DataFrame({"user_id": ["1", "2", "guest"], "age": [20, 30, 40]}).write_csv(tmp_path / "users.csv")
    paths = {name: str(tmp_path / f"{name}.csv") for name in ("events", "items", "users")}
    cfg = DataConfig(name="shop", **paths)
    both_ways(cfg, 3, tmp_path)
    data = prepare(replace(cfg, cache_dir=str(tmp_path / "in1")))
    assert data.events["item_id"].unique().sort().to_list() == [f"{number}" for number in range(11, 17)]
    assert data.items.rows()[:2] == [("11", "x"), ("12", "y")]
    assert data.users.rows()[-1] == ("guest", 40)


@pytest.fixture
def shop(tmp_path, monkeypatch) -> DataConfig:
    """A shop of two days in a file each, in slices of 7 rows and 3 partitions."""
    monkeypatch.setattr(slices, "SLICE_ROWS", 7)
    events = table([], "time")
    (tmp_path / "events").mkdir()
    events[:14].write_parquet(tmp_path / "events" / "1.parquet")
    events[14:21].write_parquet(tmp_path / "events" / "2.parquet")
    return DataConfig(
        name="shop", events=str(tmp_path / "events"), partitions=3, cache_dir=str(tmp_path / "prepared"), cleaning=LATE
    )


LATE = CleaningConfig(accounts=AccountsConfig(lines=50))


def test_a_new_day_leaves_the_old_ones(shop, tmp_path) -> None:
    prepare(shop)
    kept = tmp_path / "prepared" / "shop.parts" / "slices"
    before = {path: path.stat().st_mtime_ns for path in kept.rglob("*.*")}
    assert len(list(kept.iterdir())) == 3
    assert not list((kept.parent / "work").iterdir())
    table([], "time")[21:].write_parquet(tmp_path / "events" / "3.parquet")
    longer = prepare(shop)
    after = {path: path.stat().st_mtime_ns for path in kept.rglob("*.*")}
    assert len(list(kept.iterdir())) == 4
    assert before.items() < after.items()
    same(prepare(replace(shop, partitions=1, cache_dir=str(tmp_path / "at once"))), longer)
    (tmp_path / "events" / "1.parquet").unlink()
    prepare(shop)
    assert len(list(kept.iterdir())) == 2


def test_steps_one_by_one_make_the_same_files(shop, tmp_path) -> None:
    whole = prepare(shop)
    apart = replace(shop, cache_dir=str(tmp_path / "apart"))
    with pytest.raises(DataError, match="not split yet; run partition=split first"):
        prepare_step(apart, "1")
    assert prepare_step(apart, "split") is None
    assert [prepare_step(apart, number) for number in ("2", "0", "0")] == [None] * 3
    with pytest.raises(DataError, match="not clean yet: partition=1; run these first"):
        prepare_step(apart, "merge")
    prepare_step(apart, "1")
    merged = prepare_step(apart, "merge")
    assert files_of(merged.path) == files_of(whole.path)
    again = prepare_step(apart, "merge")
    assert again.path == merged.path
    for step in ("3", "-1", "clean"):
        with pytest.raises(
            ConfigError, match=rf"partition={step}: there are 3 partition.*legal: split, merge and 0 to 2"
        ):
            prepare_step(apart, step)


def files_of(folder: Path) -> dict[str, bytes]:
    """Bytes of every file of a prepared data set."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


KILLED = """
import json, os, signal, sys
import polars as pl
from recsys.config.cleaning import AccountsConfig, CleaningConfig
from recsys.config.data import DataConfig
from recsys.data import partitions, slices
from recsys.data.prepare import prepare

left, write = int(sys.argv[1]), pl.DataFrame.write_parquet

def half(frame, path, **more):
    global left
    left -= 1
    write(frame, path, **more)
    if not left:
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

pl.DataFrame.write_parquet, slices.SLICE_ROWS = half, 7
cleaning = CleaningConfig(accounts=AccountsConfig(lines=50))
prepare(DataConfig(name="shop", events=sys.argv[2], partitions=3, cache_dir=sys.argv[3], cleaning=cleaning))
"""


def test_killed_at_any_moment_and_started_again_ends_with_the_same_bytes(shop, tmp_path, python) -> None:
    """The run dies in the middle of a file, further on each time: slices, cleaned and settled parts, final tables."""
    whole = prepare(shop)
    cache = str(tmp_path / "killed")
    deaths = 0
    for writes in (5, 8, 7, 11, 10, 9, 2, 0):
        done = python(tmp_path, "-c", KILLED, str(writes), str(shop.events), cache)
        deaths += done.returncode == -signal.SIGKILL
        if done.returncode == 0:
            break
    assert deaths >= 5, done.stderr
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "killed" / whole.path.name) == files_of(whole.path)
    assert [path.name for path in (tmp_path / "killed").iterdir()].count("shop.parts") == 1
    assert not list((tmp_path / "killed").glob(".*"))


def test_processes_that_begin_together_prepare_once(shop, tmp_path, monkeypatch) -> None:
    """As those of a distributed training do: one makes the data set, the others wait for it."""
    cleaned, at_work = [], []
    clean = partitions.Partitions.clean

    def slowly(self: partitions.Partitions, number: int) -> None:
        at_work.append(number)
        time.sleep(0.05)
        clean(self, number)
        cleaned.append(at_work.copy())
        at_work.remove(number)

    monkeypatch.setattr(partitions.Partitions, "clean", slowly)
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(prepare, [shop] * 3))
    assert cleaned == [[0], [1], [2]]
    assert {one.path for one in made} == {made[0].path}
    same(made[0], made[2])


def test_a_run_that_stopped_goes_on_after_another_one_has_ended(shop, tmp_path) -> None:
    prepare_step(shop, "split")
    prepare_step(shop, "0")
    kept = tmp_path / "prepared" / "shop.parts"
    own = sorted(kept.glob("slices/*"))
    done = {path: path.stat().st_mtime_ns for path in kept.glob("work/*/clean-0000/*")}
    prepare(replace(shop, context=["store"]))
    assert {path: path.stat().st_mtime_ns for path in kept.glob("work/*/clean-0000/*")} == done
    prepare_step(shop, "1")
    same(prepare(replace(shop, partitions=1, cache_dir=str(tmp_path / "at once"))), prepare(shop))
    assert sorted(kept.glob("slices/*")) == own
    assert not list(kept.glob("work/*"))


def test_slices_may_be_deleted_while_a_run_stands_still(shop, tmp_path) -> None:
    prepare_step(shop, "split")
    prepare_step(shop, "0")
    shutil.rmtree(tmp_path / "prepared" / "shop.parts" / "slices")
    with pytest.raises(DataError, match="not split yet; run partition=split first"):
        prepare_step(shop, "1")
    same(prepare(replace(shop, partitions=1, cache_dir=str(tmp_path / "at once"))), prepare(shop))


def test_what_privacy_leaves_out_is_not_kept_in_slices(shop, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SHOP_KEY", "a key of thirty-two bytes, or so")
    consent = tmp_path / "consent.parquet"
    told = pl.DataFrame({"user_id": [1, 2, 3], "purpose": "shop", "granted": START, "withdrawn": None})
    told.with_columns(pl.col("withdrawn").cast(pl.Datetime)).write_parquet(consent)
    privacy = PrivacyConfig(consent=str(consent), purpose="shop", default="deny", pseudonym_key="env:SHOP_KEY")
    users = pl.DataFrame({"user_id": [1, 2, 4, 5], "age": [20, 30, 40, 50]})
    users.write_parquet(tmp_path / "users.parquet")
    cfg = replace(shop, privacy=privacy, users=str(tmp_path / "users.parquet"))
    many = prepare(cfg)
    same(prepare(replace(cfg, partitions=1, cache_dir=str(tmp_path / "at once"))), many)
    assert not list((tmp_path / "prepared" / "shop.parts" / "slices").iterdir())


def test_after_an_erasure_no_rows_are_kept_in_slices(shop, tmp_path) -> None:
    """They are rows of the source, which may still name who was erased."""
    add_erased(tmp_path / "prepared", ["3"])
    assert 3 not in prepare(shop).events["user_id"].to_list()
    assert not list((tmp_path / "prepared" / "shop.parts" / "slices").iterdir())


def test_memory_makes_partitions(shop, monkeypatch) -> None:
    assert number_of_parts(shop) == 3
    assert number_of_parts(replace(shop, memory_gib=2.0)) == 3
    monkeypatch.setattr(partitions, "BYTES_A_ROW", 2**30)
    assert number_of_parts(replace(shop, memory_gib=2.0)) == 32  # 21 rows of a GiB, one GiB at a time
    assert number_of_parts(replace(shop, memory_gib=7.0)) == 4
