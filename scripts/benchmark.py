"""Measures recsys. Every number that is printed was measured by this run, on the device it names.

python scripts/benchmark.py train [--positives 200000] [--rate 0.01] [--device cuda] [model.hidden=64 ...]
    Training speed in one process beside a plain Lightning module (scripts/plain_lightning.py), both at width 64 and
    history 50: positive examples per second, NDCG@20 on the validation window after equally many of them, and where
    the time of our step goes. Overrides are those of `recsys train`.

python scripts/benchmark.py prepare [--events 100000000] [--partitions 16] [--shop FOLDER]
    Wall time and peak memory of `recsys prepare` in partitions on a shop of scripts/make_events.py (made where it is
    not there, in --shop), beside those of polars that only reads, sorts by user and time and writes the same events.

python scripts/benchmark.py mapped [--events 20000000] [--partitions 16] [--shop FOLDER]
    Memory that a process has for itself up to its first training batches, and the time of a batch, with the log of
    such a shop in memory and mapped from files (`data.log=mapped`).

python scripts/benchmark.py warm [--days 7] [model.hidden=64 ...]
    Steps, seconds and NDCG@20 on the validation window of a retriever that is fitted anew as of its start, and of one
    that starts from a fit of some days before (`init_from`). Overrides are those of `recsys train`.

python scripts/benchmark.py add_items [--share 0.05] [--window test] [training.max_epochs=2 ...]
    Recall of the newest products in a window: held out of training, then added to the bundle by `recsys add-items`,
    beside the content baseline and popularity, and the seconds that it took. Overrides are those of `recsys train`.

python scripts/benchmark.py serve BUNDLE [--requests 10000] [--items 1000000] [--index ivf]
    Milliseconds of an answer and of its parts, by percentile, one request after the other on one core; retrieval among
    more items than the bundle has stands beside exact search.
"""

import argparse
import json
import logging
import platform
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from recsys.errors import RecsysError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="training speed beside a plain Lightning module")
    train.set_defaults(run=run_train)
    train.add_argument("--positives", type=int, default=200_000, help="examples before the NDCG is compared")
    train.add_argument("--rate", type=float, action="append", help="that the plain one tries; may be repeated")
    train.add_argument("--seconds", type=float, default=10.0, help="of each timed run")
    train.add_argument("--repetitions", type=int, default=5, help="timed runs of each, in turns")
    train.add_argument("--steps", type=int, default=10, help="of ours that are taken apart, in each repetition")
    train.add_argument("--matmul-size", type=int, default=None, help="side of the product that sets the pace")
    train.add_argument("--threads", type=int, default=2)
    train.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    train.add_argument("--output", type=Path, default=Path("runs/benchmark"), help="folder of the JSON report")
    train.add_argument("overrides", nargs="*", help="as of `recsys train`, for example training.batch_moments=256")
    for name, run, text in (
        ("prepare", run_prepare, "time and memory of preparing, beside plain polars"),
        ("mapped", run_mapped, "memory of training from a log in files"),
    ):
        large = commands.add_parser(name, help=text)
        large.set_defaults(run=run, device="cpu")
        large.add_argument("--events", type=int, default=1_000_000, help="of the shop, which is made with as many")
        large.add_argument("--users", type=int, help="a tenth of the events by default")
        large.add_argument("--items", type=int, help="a hundredth of the events by default")
        large.add_argument("--partitions", type=int, default=16)
        large.add_argument("--shop", type=Path, help="folder of the shop; runs/benchmark/shop-EVENTS by default")
        large.add_argument("--output", type=Path, default=Path("runs/benchmark"), help="folder of the JSON report")
    warm = commands.add_parser("warm", help="cold start beside warm start")
    warm.set_defaults(run=run_warm, device="cpu")
    warm.add_argument("--days", type=float, default=7.0, help="between the two fits")
    warm.add_argument("--output", type=Path, default=Path("runs/benchmark"), help="folder of the JSON report")
    warm.add_argument("overrides", nargs="*", help="as of `recsys train`, for example training.warm_rate=0.3")
    added = commands.add_parser("add_items", help="the newest products, held out and added")
    added.set_defaults(run=run_add_items, device="cpu")
    added.add_argument("--share", type=float, default=0.05, help="of the products sold before the window")
    added.add_argument("--window", choices=("val", "test"), default="test", help="that users are asked about")
    added.add_argument("--keep", type=Path, help="folder for the bundles before and after; they are not kept without")
    added.add_argument("--output", type=Path, default=Path("runs/benchmark"), help="folder of the JSON report")
    added.add_argument("overrides", nargs="*", help="as of `recsys train`, for example training.max_epochs=1")
    serve = commands.add_parser("serve", help="latency of a bundle's answers")
    serve.set_defaults(run=run_serve, device="cpu")
    serve.add_argument("bundle", help="folder, models:/NAME/VERSION or runs:/ID/bundle")
    serve.add_argument("--requests", type=int, default=10_000, help="of each part")
    serve.add_argument("--items", type=int, default=1_000_000, help="of the larger catalogue")
    serve.add_argument("--index", choices=("ivf", "hnsw", "flat"), default="ivf", help="of the larger catalogue")
    serve.add_argument("--min-recall", type=float, default=0.99, help="recall@100 of that index")
    serve.add_argument("--seed", type=int, default=0)
    serve.add_argument("--output", type=Path, default=Path("runs/benchmark"), help="folder of the JSON report")
    asked = parser.parse_args(arguments)
    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device here; leave it out to measure the CPU.")
    try:
        asked.run(asked)
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run_train(asked: argparse.Namespace) -> None:
    """Measure training, print the tables and save the numbers."""
    from benchmark_step import anatomy
    from benchmark_train import PLAIN_RATES, SETTING, open_bench, quality, speed

    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    torch.set_num_threads(asked.threads)
    console, device = Console(), torch.device(asked.device)
    bench = open_bench(asked.overrides, device)
    console.print(f"{bench.cfg.data.name}: {len(bench.data.log):,} events to train on, {device_name(device)}")
    reached = quality(bench, asked.positives, asked.rate or PLAIN_RATES)
    console.print(f"trained on {reached['ours']['positives']:,} positives each; now the clock, in turns")
    report: dict[str, Any] = {
        "benchmark": "train",
        "device": device_name(device),
        "threads": asked.threads,
        "torch": torch.__version__,
        "overrides": [*SETTING, *asked.overrides],
        "quality": reached,
        "speed": speed(bench, reached["plain"]["learning_rate"], asked.seconds, asked.repetitions),
        "step": anatomy(
            bench, asked.steps, asked.repetitions, asked.matmul_size or (8192 if device.type == "cuda" else 2048)
        ),
    }
    show(report, train_tables(report), asked.output)


def run_prepare(asked: argparse.Namespace) -> None:
    """Measure preparing, print the table and save the numbers."""
    from benchmark_prepare import beside_polars, open_shop, prepare_table

    shop = open_shop(asked.shop or asked.output / f"shop-{asked.events}", asked.events, asked.users, asked.items)
    report = {
        "benchmark": "prepare",
        "device": device_name(torch.device("cpu")),
        **beside_polars(shop, asked.partitions, asked.output / "prepare"),
    }
    show(report, [prepare_table(report)], asked.output)


def run_mapped(asked: argparse.Namespace) -> None:
    """Measure a log in memory and in files, print the table and save the numbers."""
    from benchmark_mapped import both_logs, mapped_table
    from benchmark_prepare import open_shop

    shop = open_shop(asked.shop or asked.output / f"shop-{asked.events}", asked.events, asked.users, asked.items)
    report = {
        "benchmark": "mapped",
        "device": device_name(torch.device("cpu")),
        **both_logs(shop, asked.partitions, asked.output / "prepared"),
    }
    show(report, [mapped_table(report)], asked.output)


def run_serve(asked: argparse.Namespace) -> None:
    """Measure the latency of a bundle, print the table and save the numbers."""
    import faiss
    from benchmark_serve import measure, serve_table

    from recsys.bundle.reader import Bundle

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    bundle = Bundle.load(asked.bundle)
    report = {
        "benchmark": "serve",
        "device": device_name(torch.device("cpu")),
        "bundle": bundle.manifest.fingerprint,
        **measure(bundle, asked.requests, asked.items, asked.index, asked.min_recall, asked.seed),
    }
    show(report, [serve_table(report, bundle.folder)], asked.output)


def run_add_items(asked: argparse.Namespace) -> None:
    """Measure held-out products that were added, print the table and save the numbers."""
    from benchmark_add_items import add_items_table, with_and_without

    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    report = {
        "benchmark": "add_items",
        "device": device_name(torch.device("cpu")),
        "overrides": asked.overrides,
        **with_and_without(asked.overrides, asked.share, asked.window, asked.keep),
    }
    show(report, [add_items_table(report)], asked.output)


def run_warm(asked: argparse.Namespace) -> None:
    """Measure cold and warm start, print the table and save the numbers."""
    from benchmark_warm import cold_and_warm, warm_table

    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    report = {
        "benchmark": "warm",
        "device": device_name(torch.device("cpu")),
        "overrides": asked.overrides,
        **cold_and_warm(asked.overrides, asked.days),
    }
    show(report, [warm_table(report)], asked.output)


def train_tables(report: dict[str, Any]) -> list[Table]:
    """Return the comparison and the anatomy of a step as tables."""
    reached, speed, step = report["quality"], report["speed"], report["step"]
    both = Table(title=f"training on {report['device']}")
    for column in ("", "positives/s", "min to max", "seen", "val NDCG@20"):
        both.add_column(column, justify="right" if column else "left")
    for name, title in (("ours", "recsys"), ("plain", f"plain, Adam {reached['plain']['learning_rate']:g}")):
        rate, seen = speed[name], reached[name]
        span = f"{rate['min']:,.0f} to {rate['max']:,.0f}"
        both.add_row(title, f"{rate['median']:,.0f}", span, f"{seen['positives']:,}", f"{seen['ndcg_at_20']:.4f}")
    ratio, gap = speed["ratio"], reached["difference"]
    span = f"{ratio['min']:.1f} to {ratio['max']:.1f}"
    both.add_row("ratio; difference", f"{ratio['median']:.1f} x", span, "", f"{gap['mean']:+.4f}", style="bold")
    both.caption = (
        f"{len(ratio['all'])} timed runs of each, in turns: medians and range; difference of NDCG: 95 % interval"
        f" [{gap['low']:+.4f}, {gap['high']:+.4f}] over {reached['users']:,} users"
    )

    whole = step["step_milliseconds"]["median"]
    parts = Table(title="a step of recsys")
    for column in ("part", "ms", "%"):
        parts.add_column(column, justify="left" if column == "part" else "right")
    for part, milliseconds in step["milliseconds"].items():
        parts.add_row(part, f"{milliseconds:.1f}", f"{100 * milliseconds / whole:.1f}", end_section=part == "loop")
    parts.add_row("all, by Trainer.fit", f"{whole:.1f}", "100.0", end_section=True)
    parts.add_row("bare matrix products", f"{step['matmul_milliseconds']:.1f}", f"{100 * step['matmul_share']:.1f}")
    parts.caption = (
        "loop: the whole less the parts, which were timed without a Trainer (below 0: noise);"
        f" products: {step['matmul_flops'] / 1e9:.2f} GFLOP"
        f" at the {step['matmul_flops_per_second'] / 1e9:,.0f} GFLOP/s of one large product"
    )
    return [both, parts]


def device_name(device: torch.device) -> str:
    """Return what is measured: the GPU's name, or the processor's with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        models = [row.partition(":")[2].strip() for row in info.read_text().splitlines() if "model name" in row]
        name = models[0] if models else name
    return f"{name}, threads: {torch.get_num_threads()}"


def show(report: dict[str, Any], tables: Iterable[Table], folder: Path) -> None:
    """Print the tables of a report and save it as ``folder/BENCHMARK-TIME.json``, whole or not at all."""
    console = Console()
    for table in tables:
        console.print(table)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{report['benchmark']}-{datetime.now():%Y-%m-%d_%H-%M-%S}.json"
    half = path.with_suffix(".part")
    half.write_text(json.dumps(report, indent=1))
    console.print(f"saved {half.replace(path)}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
