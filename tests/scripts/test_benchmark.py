"""The benchmarks: what they print was measured, and what is compared is fed the same data."""

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from torch.utils.data import default_collate

from recsys.bundle.reader import Bundle
from recsys.config.compose import compose
from recsys.data.batches import MomentBatches
from recsys.data.prepare import prepare
from recsys.training.task import retrieval_loss


@pytest.fixture
def script(repo: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The script's modules by name, as Python finds them when the script is run."""
    monkeypatch.syspath_prepend(repo / "scripts")
    threads = torch.get_num_threads()
    yield import_module
    torch.set_num_threads(threads)


@pytest.fixture
def shop(shop_tables: Path, tmp_path: Path) -> list[str]:
    """Overrides of a shop with 60 users and 80 items, in small batches."""
    data = ["data=tables", *(f"data.{key}={shop_tables}/{key}.parquet" for key in ("events", "items", "users"))]
    return [*data, f"data.cache_dir={tmp_path}/prepared", "training.batch_moments=64", "training.negatives=32"]


def test_train_measures_both_and_saves_what_it_prints(
    script: Any, shop: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--positives=700", "--seconds=0.05", "--repetitions=2", "--steps=2", "--matmul-size=256", "--threads=1"]
    assert script("benchmark").main(["train", *few, f"--output={tmp_path}/out", *shop]) == 0
    (path,) = (tmp_path / "out").iterdir()
    report = json.loads(path.read_text())

    shown = " ".join(capsys.readouterr().out.split())
    speed, reached, step = report["speed"], report["quality"], report["step"]
    for part in ("gather", "towers", "loss", "backward", "optimizer", "loop", "bare matrix products"):
        assert f"│ {part} │" in shown
    assert f"{speed['ratio']['median']:.1f} x" in shown
    for name in ("ours", "plain"):
        assert f"{speed[name]['median']:,.0f}" in shown
        assert f"{reached[name]['ndcg_at_20']:.4f}" in shown
        assert 0 < reached[name]["ndcg_at_20"] < 1
    assert report["device"] in shown

    pairs = zip(speed["ours"]["all"], speed["plain"]["all"], strict=True)
    assert speed["ratio"]["all"] == pytest.approx([ours / plain for ours, plain in pairs])
    assert speed["ratio"]["min"] <= speed["ratio"]["median"] <= speed["ratio"]["max"]
    assert 700 <= reached["ours"]["positives"] <= reached["plain"]["positives"] < 700 + 512 + 64
    tried = reached["plain_by_learning_rate"]
    assert set(tried) == {"0.001", "0.003", "0.01"}
    assert reached["plain"]["ndcg_at_20"] == max(tried.values())
    gap = reached["ours"]["ndcg_at_20"] - reached["plain"]["ndcg_at_20"]
    assert reached["difference"]["mean"] == pytest.approx(gap, abs=1e-6)
    assert sum(step["milliseconds"].values()) == pytest.approx(step["step_milliseconds"]["median"])
    assert all(step["milliseconds"][part] > 0 for part in step["milliseconds"] if part != "loop")
    assert step["matmul_share"] == pytest.approx(step["matmul_milliseconds"] / step["step_milliseconds"]["median"])


def test_warm_starts_from_the_earlier_fit(
    script: Any, shop: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["model.width=8", "model.code_width=8", "model.hidden=16", "model.factor_width=4", "training.max_epochs=1"]
    assert script("benchmark").main(["warm", "--days=1", f"--output={tmp_path}/out", *shop, *small]) == 0
    (path,) = (tmp_path / "out").iterdir()
    report = json.loads(path.read_text())
    shown = " ".join(capsys.readouterr().out.split())
    steps, ndcg = report["steps"], report["ndcg_at_20"]
    assert 0 < steps["warm"] < steps["cold"]
    assert f"│ {steps['warm'] / steps['cold']:.2f} │" in shown
    assert report["difference"]["mean"] == pytest.approx(ndcg["warm"] - ndcg["cold"], abs=1e-6)
    assert ndcg["unmoved"] != ndcg["warm"]


def test_add_items_holds_the_newest_products_out_and_adds_them(
    script: Any, shop: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["model.width=8", "model.code_width=8", "model.hidden=16", "model.factor_width=4", "training.max_epochs=1"]
    asked = ["add_items", "--share=0.2", f"--keep={tmp_path}/kept", f"--output={tmp_path}/out", *shop, *small]
    assert script("benchmark").main(asked) == 0
    (path,) = (tmp_path / "out").iterdir()
    report = json.loads(path.read_text())
    shown = " ".join(capsys.readouterr().out.split())
    assert f"add-items took {report['add_seconds']:.1f} seconds" in shown

    cfg = compose("train", [*shop, f"run_dir={tmp_path}"])
    events, start = prepare(cfg.data).events, prepare(cfg.data).windows.test_start
    past = events.filter(pl.col("timestamp") < start)
    first = past.group_by("item_id").agg(pl.col("timestamp").min()).sort("timestamp", "item_id")
    newest = set(first["item_id"].tail(round(0.2 * len(first))))
    before, after = (Bundle.load(tmp_path / "kept" / name) for name in ("before", "after"))
    assert set(after.item_ids) - set(before.item_ids) == newest
    assert not newest & set(pl.read_parquet(before.folder / "vocabularies" / "item_id.parquet")["value"])
    taken = events.filter((pl.col("timestamp") >= start) & pl.col("item_id").is_in(sorted(newest)))
    taken = taken.select("user_id", "item_id").unique()
    assert (report["users"], report["taken"]) == (taken["user_id"].n_unique(), len(taken))

    best = after.recommend(taken["user_id"].unique(), 20, allow=sorted(newest))  # by hand, through the reader
    hits = (
        taken.join(best, on=["user_id", "item_id"], how="left")
        .group_by("user_id")
        .agg(pl.col("rank").count(), n=pl.len())
    )
    recall = report["recall"]["new products"]
    assert recall["add-items"]["20"]["mean"] == pytest.approx((hits["rank"] / hits["n"]).mean())
    gap = recall["add-items"]["20"]["mean"] - recall["content_knn"]["20"]["mean"]
    assert report["less_content"]["new products"]["add-items"]["20"]["mean"] == pytest.approx(gap, abs=1e-6)
    answer = after.recommend(taken["user_id"].unique(), 20, explore=0.1, explore_among=sorted(newest))
    hits = taken.join(answer, on=["user_id", "item_id"], how="left").group_by("user_id")
    share = hits.agg(found=pl.col("rank").count() / pl.len())["found"].mean()
    assert report["recall"]["whole catalogue"]["add-items, explore=0.1"]["20"]["mean"] == pytest.approx(share)
    assert f"{recall['add-items']['20']['mean']:.4f}" in shown


@pytest.mark.slow
def test_mapped_makes_the_same_batches_from_files(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--events=20000", "--users=400", "--items=100", "--partitions=2"]
    assert script("benchmark").main(["mapped", *sizes, f"--output={tmp_path}"]) == 0
    (path,) = tmp_path.glob("*.json")
    report = json.loads(path.read_text())
    memory, mapped = report["memory"], report["mapped"]
    assert memory["events"] == mapped["events"] > 10_000
    assert memory["sum"] == mapped["sum"] > 0
    shown = capsys.readouterr().out
    assert "the same batches" in shown
    assert f"{mapped['own_gib']:.2f}" in shown


def test_both_read_the_same_history(script: Any, shop: list[str]) -> None:
    bench = script("benchmark_train").open_bench([*shop, "model.history=5"], torch.device("cpu"))
    log, events, tables = bench.data.log, bench.events, bench.tables
    plain = {}
    for row in map(events.__getitem__, range(len(events))):
        features = row["features"]
        real = features["history/item_id"] != 0
        assert len(real) == 5
        columns = {name.removeprefix("history/"): features[name][real] for name in features if "history/" in name}
        plain[int(features["user_id"]), int(row["time"]), int(row["item"])] = (columns, features)

    compared = 0
    for batch in bench.batches:
        slots = batch.visible.shape[1]
        for query, candidate in zip(batch.positive_query, batch.positive_candidate, strict=True):
            block, slot = divmod(int(batch.slot[query]), slots)
            visible = batch.visible[block, slot]
            user, time = batch.user[query], log.time[batch.event[query]]
            item = batch.items[batch.candidates[candidate]]
            columns, features = plain.pop((int(tables.user["user_id"][user]), int(time), int(item)))
            expected = tables.items(batch.items[batch.window[block]][visible])
            expected |= {"age": batch.age[block, slot][visible], "repeats": batch.repeats[block][visible]}
            torch.testing.assert_close(columns, expected, rtol=0, atol=0, equal_nan=True)
            requests = tables.moments(user[None], batch.event[query][None])
            for name, values in requests.items():
                torch.testing.assert_close(features[name], values[0], rtol=0, atol=0, equal_nan=True)
            compared += int(visible.sum()) == 5
    assert not plain
    assert compared > 100


def test_both_have_the_same_loss_where_every_moment_has_one_positive(
    script: Any, shop: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (import_module("recsys.training.task"), script("plain_lightning")):
        # each corrects for its own way of sampling; here the samples are the same
        monkeypatch.setattr(module, "inclusion_log_probability", lambda share, *_: torch.zeros_like(share))
    bench = script("benchmark_train").open_bench(shop, torch.device("cpu"))
    log, history = bench.data.log, bench.cfg.model.history
    ours = MomentBatches(log, history=history, batch_moments=64, negatives=0, moments_per_block=4)
    task = script("plain_lightning").PlainTask(bench.ours().task.model.eval(), ours, bench.tables, lr=0.1)
    task.log = lambda *arguments, **settings: None  # there is no Trainer to log to
    assert (ours.moments.offsets.diff() == 1).all()
    row_of = {int(event): row for row, event in enumerate(ours.moments.event)}
    for batch in ours:
        rows = [bench.events[row_of[int(event)]] for event in batch.event]
        plain = task.training_step(default_collate(rows), 0)
        torch.testing.assert_close(plain, retrieval_loss(task.model, batch, bench.tables, ours))


def test_plain_batches_are_each_row_once_and_near_in_time(script: Any) -> None:
    month = 28 * 86_400_000_000
    time = torch.arange(1000).flip(0) * month // 100
    batches = list(script("plain_lightning").TimeLocal(time, 30, seed=1))
    assert sorted(i for batch in batches for i in batch) == list(range(1000))
    assert [len(b) for b in batches].count(30) == 33
    assert all(len({int(time[i]) // month for i in b}) <= 2 for b in batches)
    assert batches[0] != sorted(batches[0])


def test_stopwatch_charges_inner_parts_once(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    step = script("benchmark_step")
    ticks = iter([0.0, 1.0, 3.0, 7.0, 15.0])
    monkeypatch.setattr(step, "now", lambda device: next(ticks))
    watch = step.Stopwatch(torch.device("cpu"))
    with watch.part("towers"):
        assert watch.around(lambda x: x + 1, "loss")(1) == 2
    assert dict(watch.seconds) == {"other": 1.0, "towers": 2.0 + 8.0, "loss": 4.0}


def test_matrix_products_are_counted_forward_and_backward(script: Any, shop: list[str]) -> None:
    bench = script("benchmark_train").open_bench(shop, torch.device("cpu"))
    counted = script("benchmark_step").step_flops(bench, steps=1)
    batch = next(iter(bench.batches))
    scores = 2 * len(batch.user) * len(batch.candidates) * (64 + 64 + 1)
    assert counted > 3 * scores  # the products of queries and candidates alone, with the gradients of both


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "training.batch_moment=1"], "batch_moment"),
        (["train", "data=nothing"], "nothing"),
    ],
)
def test_wrong_overrides_are_one_message(
    script: Any, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("benchmark").main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_not_claimed_without_a_device(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script("benchmark").main(["train", "--device=cuda"])
    assert "no CUDA device" in capsys.readouterr().err


def test_prepare_measures_both_on_one_shop_and_cleans_up(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--events=3000", "--users=300", "--items=120", "--partitions=3"]
    assert script("benchmark").main(["prepare", *sizes, f"--output={tmp_path}/out"]) == 0
    (path,) = (tmp_path / "out").glob("prepare-*.json")
    report = json.loads(path.read_text())
    assert report["events"] > 2500
    assert report["partitions"] == 3
    assert report["ratio"] == report["prepare"]["seconds"] / report["sort"]["seconds"]
    assert 0.05 < report["sort"]["peak_gib"] < 4
    assert 0.05 < report["prepare"]["peak_gib"] < 4
    assert "recsys prepare, 3 partitions" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [path.name, "shop-3000"]


def test_serve_measures_every_part_of_an_answer(
    script: Any, trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--requests=5", "--items=500", "--min-recall=0.9", f"--output={tmp_path}/out"]
    assert script("benchmark").main(["serve", str(trained.bundle), *few]) == 0
    (path,) = (tmp_path / "out").iterdir()
    report = json.loads(path.read_text())
    shown = " ".join(capsys.readouterr().out.split())
    assert list(report["milliseconds"]) == [
        "user tower from raw history", "retrieval, 500 items", "retrieval, 500 items, exact",
        "past and features of the user", "candidates and their features", "ranker over the candidates", "whole answer",
        "sixteen products of 256 x 256 numbers",
    ]  # fmt: skip
    for name, spent in report["milliseconds"].items():
        assert name in shown
        assert 0 < spent["p50"] <= spent["p95"] <= spent["p99"]
        assert f"{spent['p99']:.2f}" in shown
    assert report["large"]["recall_at_20"] >= 0.9
