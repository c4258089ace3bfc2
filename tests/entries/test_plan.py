"""``recsys plan``: planted mistakes, none of which may wait for a whole table; and forecasts against the real thing."""

import random
import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from recsys.cli import main
from recsys.config.compose import compose
from recsys.data.prepare import prepare
from recsys.entries.plan import run
from recsys.tuning.study import open_study, storage_at

pytestmark = pytest.mark.usefixtures("outside")

ROWS, GROUP, DAMAGED = 60_000, 1_000, 29
"""Rows of the events, of a row group, and the group that cannot be read."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop of 200 days whose events nobody can read in full: a row group in the middle is damaged."""
    folder = tmp_path_factory.mktemp("planned")
    chance = random.Random(0)
    users = [chance.randrange(700) for _ in range(ROWS)]
    pl.DataFrame(
        {
            "user_id": [f"u{u}" for u in users],
            "item_id": [int(300 * chance.random() ** 2) for _ in range(ROWS)],
            "timestamp": [datetime(2024, 1, 1) + timedelta(seconds=288 * i) for i in range(ROWS)],
            "event_type": ["view" if i % 4 == 0 else "purchase" for i in range(ROWS)],
            "store": [("north", "south")[u % 2] for u in users],
        }
    ).write_parquet(folder / "events.parquet", row_group_size=GROUP, compression="zstd")
    items = {"item_id": list(range(300)), "brand": [f"b{i % 9}" for i in range(300)]}
    pl.DataFrame(items).write_parquet(folder / "items.parquet")
    damage(folder / "events.parquet")
    return folder


def damage(path: Path) -> None:
    """Overwrite the data pages of a row group, so that whoever reads it fails."""
    import pyarrow.parquet as parquet

    group = parquet.ParquetFile(path).metadata.row_group(DAMAGED)
    columns = [group.column(number) for number in range(group.num_columns)]
    content = bytearray(path.read_bytes())
    for column in columns:
        start = column.dictionary_page_offset or column.data_page_offset
        content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(bytes(content))


@pytest.fixture
def here(shop: Path, tmp_path: Path) -> Path:
    """A folder with the shop's tables, a file where a folder should be, and search spaces with mistakes."""
    for name in ("events", "items"):
        (tmp_path / f"{name}.parquet").symlink_to(shop / f"{name}.parquet")
    (tmp_path / "taken").write_text("a file")
    spaces = tmp_path / "mine" / "search"
    spaces.mkdir(parents=True)
    for name, text in SPACES.items():
        (spaces / f"{name}.yaml").write_text(text)
    return tmp_path


SPACES = {
    "typo": "model.widht: {low: 8, high: 64}\n",
    "backwards": "model.width: {low: 128, high: 32}\n",
    "outside": "model.dropout: {low: 0.1, high: 1.5}\n",
    "fraction": "model.width: {low: 16.5, high: 64}\n",
    "words": "model.use_ids: {low: 0, high: 1}\n",
    "forbidden": "data.split.val: {low: 0.1, high: 0.2}\n",
    "away": "model.width: {low: 8, high: 32}\n",
}
TABLES = ("data=tables", "data.events=events.parquet", "data.items=items.parquet")
TUNE = ("tune", "--config-dir", "mine")
ON_CPU = pytest.mark.skipif(torch.cuda.is_available(), reason="what is missing here is there")


def mistake(key: str, value: str, remedy: str, *overrides: str, marks: tuple[pytest.MarkDecorator, ...] = ()) -> Any:
    """What must be named, and what it is found in."""
    return pytest.param(key, value, remedy, overrides, id=" ".join(overrides), marks=marks)


MISTAKES = [
    # keys and options that are not there
    mistake("data.evnts", "data.evnts", "Did you mean 'data.events'?", "data.evnts=sales.csv"),
    mistake("trainig", "trainig", "Did you mean 'training'?", "trainig.max_epochs=2"),
    mistake("model.widht", "model.widht", "Did you mean 'model.width'?", "model.widht=128"),
    mistake("sed", "sed", "Did you mean 'seed'?", "+sed=1"),
    mistake("limt", "ranker.candidates.limt", "Legal: ranker.candidates", "ranker.candidates.limt=100"),
    mistake("evaluation.boostrap", "boostrap", "Did you mean 'evaluation.bootstrap'?", "evaluation.boostrap=10"),
    mistake("data.split.vall", "vall", "Did you mean 'data.split.val'?", "data.split.vall=0.1"),
    mistake("trainer.benchmrk", "True", "Did you mean 'benchmark'?", "+trainer.benchmrk=true"),
    mistake(
        "callbacks.model_summary._target_", "ModlSummary", "Did you mean 'ModelSummary'?",
        "callbacks.model_summary._target_=pytorch_lightning.callbacks.ModlSummary",
    ),
    mistake("model", "two_towr", "Did you mean 'two_tower'?", "model=two_towr"),
    mistake("trainer", "gpuu", "Did you mean 'gpu'?", "trainer=gpuu"),
    mistake("experiment", "variant", "Did you mean 'variants'?", "experiment=variant"),
    # values of another type
    mistake("seed", "'abc'", "expected int", "seed=abc"),
    mistake("model.width", "'wide'", "expected int", "model.width=wide"),
    mistake("training.learning_rate", "'fast'", "expected float", "training.learning_rate=fast"),
    mistake("evaluation.ks", "'ten'", "expected list[int]", "evaluation.ks=[ten]"),
    mistake("model.use_ids", "'perhaps'", "expected bool", "model.use_ids=perhaps"),
    mistake("data.split.val", "'much'", "expected float", "data.split.val=much"),
    # values that are not legal
    mistake("model.dropout", "1.5", "must be a share", "model.dropout=1.5"),
    mistake("training.batch_moments", "0", "must be 1 or more", "training.batch_moments=0"),
    mistake("bundle.index", "'faiss'", "is not one of ivf, hnsw, flat", "bundle.index=faiss"),
    mistake("evaluation.baselines", "'ppular'", "Did you mean 'popular'?", "evaluation.baselines=[ppular]"),
    mistake("ranker.training.loss", "'listwize'", "Did you mean 'listwise'?", "ranker.training.loss=listwize"),
    mistake("objective.metric", "test/ndcg_at_20", "use a validation metric", "objective.metric=test/ndcg_at_20"),
    mistake("objective.metric", "val/ndcg_at_7", "must be one of evaluation.ks", "objective.metric=val/ndcg_at_7"),
    mistake("tracking.model_name", "shop/model", "must be a name without '/'", "tracking.model_name=shop/model"),
    mistake("data.timezone", "'Europe/Berln'", "Did you mean 'Europe/Berlin'?", "data.timezone=Europe/Berln"),
    mistake("trainer.precision", "bf16-mixd", "Did you mean 'bf16-mixed'", "trainer.precision=bf16-mixd"),
    mistake("trainer.devices", "[]", "asks for no device", "trainer.devices=[]"),
    mistake("trainer.accelerator", "gppu", "Did you mean 'gpu'?", "trainer.accelerator=gppu"),
    mistake("trainer.accelerator", "gpu", "take trainer=cpu", "trainer=gpu", marks=(ON_CPU,)),
    # impossible combinations
    mistake("model.use_ids", "false", "one must be true", "model.use_ids=false", "model.use_content=false"),
    mistake("data.split.val", "0.6", "must be below 1", "data.split.val=0.6", "data.split.test=0.5"),
    mistake("data.split.val_start", "test_start", "give both or neither", "data.split.val_start=2024-05-01"),
    mistake(
        "data.split.val_start", "2024-06-01", "must be before",
        "data.split.val_start=2024-06-01", "data.split.test_start=2024-05-01",
    ),
    mistake(
        "data.split.val_start", "2031-01-01", "set a time between them",
        "data.split.val_start=2031-01-01", "data.split.test_start=2031-02-01",
    ),
    mistake("ranker.use_wide", "false", "one must be true", "ranker.use_wide=false", "ranker.use_deep=false"),
    mistake(
        "ranker.candidates.group", "popular_in_group", "needs a user attribute",
        "ranker.candidates.sizes.popular_in_group=50",
    ),
    mistake(
        "ranker.candidates.group", "'stroe'", "Did you mean 'store'?",
        "ranker.candidates.group=stroe", "ranker.candidates.sizes.popular_in_group=50", "data.context=[store]",
    ),
    mistake("cross", "'brnad'", "Did you mean 'brand'?", "ranker.crosses=[[user_id,brnad]]"),
    mistake("groups", "'brnad'", "Did you mean 'brand'?", "ranker.groups=[brnad]"),
    mistake("ranker.tasks", "'vieww'", "Did you mean 'view'?", "ranker.tasks=[vieww]"),
    mistake("horizon_days", "400.0 days", "lower", "ranker.training.horizon_days=400"),
    mistake("data.relevant", "'purchse'", "Did you mean 'purchase'?", "data.relevant=[purchse]"),
    mistake("segments.features", "'demographic'", "segments.demographics", "segments.features=[demographic]"),
    # what does not fit into any memory
    mistake("training.negatives", "10000000000", "set one of them lower", "training.negatives=10000000000"),
    mistake("model.width", "2000000", "set lower widths", "model.width=2000000"),
    mistake("ranker.cross_buckets", "2147483648", "set lower ones", "ranker.cross_buckets=2147483648"),
    mistake("ranker.width", "9000000000", "set lower ones", "ranker.width=9000000000"),
    # files, columns and places that are not there
    mistake("data.events", "event.parquet", "Did you mean 'events.parquet'?", "data.events=event.parquet"),
    mistake("data.items", "nowhere/*.csv", "check the path", "data.items=nowhere/*.csv"),
    mistake("data.items", "items.xlsx", "Set data.items to the table", "data.items=items.xlsx"),
    mistake("ckpt_path", "runs/last.ckpt", "Give a checkpoint", "ckpt_path=runs/last.ckpt"),
    mistake("data.columns.user_id", "'custmer'", "Map it with data.columns.user_id", "data.columns.user_id=custmer"),
    mistake("data.context", "'stroe'", "Did you mean 'store'?", "data.context=[stroe]"),
    mistake("data.item_attributes", "'brnad'", "Did you mean 'brand'?", "data.item_attributes=[brnad]"),
    mistake("data.columns.timestmp", "timestmp", "Did you mean 'timestamp'?", "data.columns.timestmp=when"),
    mistake("data.timestamp_format", "cannot be used", "Correct the table", "data.columns.timestamp=store"),
    mistake("data.privacy.pseudonym_key", "file:nowhere", "pseudonym_key", "data.privacy.pseudonym_key=file:nowhere"),
    mistake("hydra.run.dir", "taken/run", "choose another place", "hydra.run.dir=taken/run"),
    mistake("data.cache_dir", "taken/prepared", "choose another place", "data.cache_dir=taken/prepared"),
    mistake("tracking.uri", "http://127.0.0.1:9", "Start it, correct the URI", "tracking.uri=http://127.0.0.1:9"),
    mistake("tracking.uri", "taken/mlflow.db", "choose another place", "tracking.uri=sqlite:///taken/mlflow.db"),
    # studies
    mistake("search.model.widht", "widht", "Did you mean 'model.width'?", *TUNE, "search=typo"),
    mistake("search.model.width", "low=128.0", "low below high", *TUNE, "search=backwards"),
    mistake("search.model.dropout.high", "1.5", "must be a share", *TUNE, "search=outside"),
    mistake("search.model.width", "low=16.5", "is a whole number", *TUNE, "search=fraction"),
    mistake("search.model.use_ids", "bool", "give choices", *TUNE, "search=words"),
    mistake("search.data.split.val", "data.split.val", "cannot be searched", *TUNE, "search=forbidden"),
    mistake("search.model.width", "64", "widen them", *TUNE, "search=away"),
    mistake("search", "rankr", "Did you mean 'ranker'?", *TUNE, "search=rankr"),
    mistake("sampler.name", "'tpee'", "Did you mean 'tpe'?", *TUNE, "sampler.name=tpee"),
    mistake("trials", "minutes", "give at least one", *TUNE, "trials=null"),
    mistake("storage", "mysql://me@db/x", "must be sqlite:///FILE", *TUNE, "storage=mysql://me@db/x"),
    mistake("storage", "taken/tune.db", "choose another place", *TUNE, "storage=sqlite:///taken/tune.db"),
    mistake("storage", "sqlite:///taken", "is no SQLite database", *TUNE, "storage=sqlite:///taken"),
    mistake("trainer.devices", "4", "a trial has one device", *TUNE, "trainer.devices=4"),
]  # fmt: skip


@pytest.fixture
def plan(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run ``recsys plan`` on the shop of this folder; returns exit code, output and message."""

    def planned(*overrides: str) -> tuple[int, str, str]:
        verb, rest = (overrides[:3], overrides[3:]) if overrides[:1] == ("tune",) else ((), overrides)
        own = [table for table in TABLES if not any(o.startswith(table.partition("=")[0] + "=") for o in rest)]
        code = main(["plan", *verb, *own, *rest])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return planned


def sound_events(path: Path, rows: int = 1500) -> Path:
    """Events of a week that can be read in full."""
    chance = random.Random(1)
    columns = {
        "user_id": [f"u{chance.randrange(60)}" for _ in range(rows)],
        "item_id": [f"i{int(80 * chance.random() ** 2)}" for _ in range(rows)],
        "timestamp": [datetime(2024, 1, 1) + timedelta(minutes=7 * i) for i in range(rows)],
    }
    pl.DataFrame(columns).write_parquet(path)
    return path


@pytest.mark.parametrize(
    ("rows", "granted", "said"),
    [
        (1500, "the first of May", "column 'granted': 60 times cannot be read, such as 'the first of May'"),
        (25_000, "the first of May", "column 'granted': 60 times cannot be read, such as 'the first of May'"),
        (1500, "2030-01-01", "0 usable events of 0 user(s)"),
    ],
    ids=["all rows", "a sample", "nobody"],
)
def test_what_the_consent_table_stops_is_found(
    rows: int, granted: str, said: str, here: Path, plan: Callable[..., tuple[int, str, str]]
) -> None:
    sound_events(here / "sound.parquet", rows)
    table = {"user_id": [f"u{i}" for i in range(60)], "purpose": "personalization", "granted": granted}
    pl.DataFrame(table).with_columns(withdrawn=pl.lit(None, pl.String)).write_parquet(here / "consent.parquet")
    privacy = ("data.privacy.consent=consent.parquet", "data.privacy.default=deny")
    code, _, message = plan("data.events=sound.parquet", "data.items=null", *privacy)
    assert code == 2
    assert said in message
    assert "prepared" not in message


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_there_are_fifty() -> None:
    assert len(MISTAKES) >= 50


def test_the_shop_cannot_be_read_in_full(shop: Path) -> None:
    with pytest.raises(pl.exceptions.PolarsError):
        pl.read_parquet(shop / "events.parquet")


def test_plan_of_a_sound_job_says_what_it_needs_and_leaves_nothing(
    here: Path, plan: Callable[..., tuple[int, str, str]]
) -> None:
    before = files(here)
    code, output, message = plan("data.relevant=[purchase]", "data.context=[store]", "model.history=16")
    assert (code, message) == (0, "")
    assert "ready: recsys train with the same settings" in output
    for section in ("configuration", "tables", "windows", "model", "forecast", "export", "services", "writes"):
        assert section in output
    assert "60,000 rows" in output
    assert files(here) == before


@pytest.mark.parametrize(("key", "value", "remedy", "overrides"), MISTAKES)
def test_mistake_is_found(
    key: str,
    value: str,
    remedy: str,
    overrides: tuple[str, ...],
    here: Path,
    plan: Callable[..., tuple[int, str, str]],
) -> None:
    """How long each took is printed: ``pytest -rP``."""
    before = files(here)
    start = time.perf_counter()
    code, _, message = plan(*overrides)
    print(f"{time.perf_counter() - start:.2f} s")
    assert code == 2, message
    for word in (key, value, remedy):
        assert word in message, message
    assert "Traceback" not in message
    assert files(here) == before


def test_all_that_is_wrong_is_named_at_once(here: Path, plan: Callable[..., tuple[int, str, str]]) -> None:
    """Of rules, places and columns: the first mistake hides no other."""
    code, output, message = plan(
        "model.dropout=2", "ckpt_path=gone.ckpt", "data.context=[stroe]", "hydra.run.dir=taken"
    )
    assert code == 2
    assert "not ready: 4 problems" in message
    for word in ("model.dropout=2", "ckpt_path=gone.ckpt", "'stroe'", "hydra.run.dir="):
        assert word in message
    assert "configuration" in output


def test_several_overrides_that_cannot_be_composed(here: Path, plan: Callable[..., tuple[int, str, str]]) -> None:
    code, _, message = plan("seed=abc", "model.widht=3", "training.patience=-1")
    assert code == 2
    for word in ("seed: Value 'abc'", "model.widht: no such key", "training.patience=-1: must be 0 or more"):
        assert word in message


def test_verbs_that_cannot_be_planned(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "tain", "seed=1"]) == 2
    assert "plan: 'tain' cannot be planned. Did you mean 'train'? Legal: train, tune." in capsys.readouterr().err


def test_a_study_of_other_settings_is_found(here: Path, plan: Callable[..., tuple[int, str, str]]) -> None:
    """Where the data set is prepared already, so that its fingerprint is known."""
    sound_events(Path("sound.parquet"))
    data = ("data.events=sound.parquet", "data.items=null")
    prepare(compose("train", ["data=tables", *data]).data)
    with storage_at("sqlite:///tune.db") as storage:
        open_study(storage, "tables", ["maximize"], {"seed": 1})
    before = (here / "tune.db").read_bytes()
    code, _, message = plan("tune", "--config-dir", "mine", *data)
    assert code == 2
    assert "study=tables: was made with other settings" in message
    assert (here / "tune.db").read_bytes() == before


def test_a_table_larger_than_the_sample_is_estimated(here: Path) -> None:
    """60,000 events of 700 users and 300 items, of which 20,000 are looked at."""
    cfg = compose("train", [*TABLES, "ranker=none", "model.history=8", "training.batch_moments=64"])
    rows = {(title, name): text for title, own in run(cfg).sections.items() for name, text in own}
    sizes = re.findall(r"[\d,]+(?= [eui])", rows["windows", "size"])
    events, users, items = (int(word.replace(",", "")) for word in sizes)
    assert events == pytest.approx(ROWS, rel=0.02)
    assert (users, items) == (700, 300)
    steps = int(re.search(r"([\d,]+) steps", rows["forecast", "two-tower"])[1].replace(",", ""))
    assert steps == pytest.approx(0.7 * ROWS / 64, rel=0.1)


def test_hydra_flags_are_those_of_the_verb(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["plan", "tune", "--cfg", "job", "search=ranker"]) == 0
    assert "ranker.training.learning_rate:" in capfd.readouterr().out
    assert list(tmp_path.iterdir()) == []
