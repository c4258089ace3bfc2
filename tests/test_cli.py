"""The console: exit codes, messages, and each verb as a Hydra application."""

import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from polars.exceptions import ComputeError

from recsys.cli import VERBS, main, module_of
from recsys.config.add_items import AddItemsConfig
from recsys.config.privacy import EraseConfig
from recsys.config.schema import (
    AuditConfig,
    Config,
    EvaluateConfig,
    ExplainConfig,
    PrepareConfig,
    RecommendConfig,
    SyncConfig,
    TrackingConfig,
)
from recsys.config.tune import TuneConfig
from recsys.errors import DataError, RecsysError, TrackingError
from recsys.tracking.run import start_run

pytestmark = pytest.mark.usefixtures("outside")


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[object]]:
    """Put a stand-in for the entry of a verb and return the list of configurations it is called with."""

    def install(verb: str, action: Callable[[object], object] = lambda cfg: None) -> list[object]:
        calls: list[object] = []

        def run(cfg: object) -> None:
            calls.append(cfg)
            action(cfg)

        monkeypatch.setitem(sys.modules, f"recsys.entries.{verb}", SimpleNamespace(run=run))
        return calls

    return install


def throw(error: BaseException) -> Callable[[object], object]:
    """An entry that fails."""

    def action(cfg: object) -> None:
        raise error

    return action


def test_help_teaches_within_a_second(repo: Path) -> None:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "recsys", "--help"], cwd=repo, capture_output=True, text=True)
    assert time.perf_counter() - start < 1
    assert (done.returncode, done.stderr) == (0, "")
    assert all(verb in done.stdout for verb in VERBS)
    assert "recsys train data=tables" in done.stdout
    assert "runs/" in done.stdout


def test_help_imports_nothing_heavy(repo: Path) -> None:
    code = (
        "import sys; from recsys.cli import main; main(['--help']);"
        "heavy = {'torch', 'polars', 'mlflow', 'hydra', 'omegaconf', 'optuna', 'rich'} & set(sys.modules);"
        "sys.exit(len(heavy))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("verb", "overrides", "schema"),
    [
        ("prepare", [], PrepareConfig),
        ("segment", [], Config),
        ("train", [], Config),
        ("tune", ["search=ranker"], TuneConfig),
        ("evaluate", ["bundle_uri=b"], EvaluateConfig),
        ("recommend", ["bundle=b"], RecommendConfig),
        ("explain", ["bundle=b", "user=u", "item=i"], ExplainConfig),
        ("audit", ["item_times.price=updated"], AuditConfig),
        ("erase", ["users=people.csv"], EraseConfig),
        ("sync", ["runs=[a,b]"], SyncConfig),
        ("add-items", ["bundle=b", "items=new.csv"], AddItemsConfig),
    ],
)
def test_verb_calls_its_entry_with_a_typed_object(
    verb: str, overrides: list[str], schema: type, entry: Callable[..., list[object]], tmp_path: Path
) -> None:
    calls = entry(module_of(verb))
    assert main([verb, *overrides]) == 0
    assert [type(cfg) for cfg in calls] == [schema]
    (run_dir,) = (tmp_path / "runs" / module_of(verb)).iterdir()
    if isinstance(calls[0], Config):
        assert calls[0].run_dir == str(run_dir)
    assert Path.cwd() == tmp_path


def test_erase_leaves_no_copy_of_the_command_line(entry: Callable[..., list[object]], tmp_path: Path) -> None:
    calls = entry("erase")
    assert main(["erase", "users='customer-17,customer-18'"]) == 0
    assert calls[0].users == "customer-17,customer-18"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"customer-17" in path.read_bytes()]


@pytest.mark.parametrize(
    ("arguments", "schema"),
    [(["plan", "seed=7"], Config), (["plan", "train", "seed=7"], Config), (["plan", "tune", "seed=7"], TuneConfig)],
)
def test_plan_gets_the_configuration_of_the_verb_and_makes_no_folder(
    arguments: list[str], schema: type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[tuple[object, list[str]]] = []
    monkeypatch.setattr("recsys.entries.plan.run", lambda cfg, problems=(): seen.append((cfg, list(problems))))
    assert main(arguments) == 0
    ((cfg, problems),) = seen
    assert (type(cfg), cfg.seed, problems) == (schema, 7, [])
    assert list(tmp_path.iterdir()) == []


def test_overrides_and_config_dir(entry: Callable[..., list[Config]], tmp_path: Path) -> None:
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "myshop.yaml").write_text("defaults: [tables]\nname: myshop\nevents: e.csv\n")
    calls = entry("train")
    assert main(["train", "--config-dir", "mine", "data=myshop", "seed=0", "hydra.run.dir=out"]) == 0
    assert (calls[0].data.name, calls[0].data.source, calls[0].seed) == ("myshop", "tables", 0)
    assert calls[0].run_dir == str(tmp_path / "out")


def test_multirun(entry: Callable[..., list[Config]], tmp_path: Path) -> None:
    calls = entry("train")
    assert main(["train", "-m", "seed=0,1", "model=id_only", "hydra.sweep.dir=sweep"]) == 0
    assert [cfg.seed for cfg in calls] == [0, 1]
    assert [cfg.run_dir for cfg in calls] == [str(tmp_path / "sweep" / job) for job in ("0", "1")]


def test_multirun_goes_on_after_a_failed_job(
    entry: Callable[..., list[Config]], capsys: pytest.CaptureFixture[str]
) -> None:
    def fails_on_seed_0(cfg: Config) -> None:
        if cfg.seed == 0:
            raise DataError("no events")

    calls = entry("train", fails_on_seed_0)
    assert main(["train", "-m", "seed=0,1"]) == 2
    assert [cfg.seed for cfg in calls] == [0, 1]
    assert "error: no events" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        (["--cfg", "job", "seed=7"], "seed: 7"),
        (["--cfg", "job", "--package", "tracking"], "experiment: recsys"),
        (["--cfg", "hydra"], "runs/${hydra.job.config_name}"),
        (["--info", "defaults"], "data/completejourney"),
        (["--help"], "model: content_only, id_only, [two_tower]"),
        (["--help", "model=id_only", "--multirun"], "model: content_only, [id_only], two_tower"),
    ],
)
def test_hydra_flags(flags: list[str], shown: str, entry: Callable[..., list[object]], tmp_path: Path, capfd) -> None:
    calls = entry("train")
    assert main(["train", *flags]) == 0
    captured = capfd.readouterr()
    assert shown in captured.out + captured.err  # --info writes through the log
    assert calls == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["add-items", "plan", "recommend"])
def test_help_of_a_verb_begins_with_its_command(verb: str, capfd) -> None:
    assert main([verb, "--help"]) == 0
    assert capfd.readouterr().out.startswith(f"recsys {verb} ")


def test_a_reader_that_has_seen_enough_is_no_error(repo: Path) -> None:
    """As ``recsys train --help | head -1`` is."""
    command = [sys.executable, "-m", "recsys", "train", "--help"]
    with subprocess.Popen(command, cwd=repo, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_command_line_is_whole_inside_the_job(
    entry: Callable[..., list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning starts the other processes of a distributed run with ``sys.argv``, which has to name the verb."""
    monkeypatch.setattr(sys, "argv", ["recsys", "train", "seed=3"])
    seen: list[list[str]] = []
    entry("train", lambda cfg: seen.append(list(sys.argv)))
    assert main() == 0
    assert seen == [["recsys", "train", "seed=3"]]
    assert sys.argv == ["recsys", "train", "seed=3"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "unknown verb 'trian'. Did you mean 'train'?"),
        (["train", "data.evnts=x"], "Did you mean 'data.events'?"),
        (["train", "model=two_towr"], "Did you mean 'two_tower'?"),
        (["train", "seed=abc"], "expected int"),
        (["train", "+sed=1"], "Did you mean 'seed'?"),
        (["train", "seed"], "write KEY=VALUE"),
        (["plan", "tain"], "plan: 'tain' cannot be planned. Did you mean 'train'?"),
        (["plan", "seed=abc"], "expected int"),
        (["plan", "model=two_towr"], "Did you mean 'two_tower'?"),
        (["train", "objective.metric=test/ndcg_at_20"], "choices made on the test window"),
        (["train", "data=tables"], "data.events=PATH"),
        (["train", "experiment=none"], "experiment"),
        (["train", "--config-dir", "nowhere"], "'nowhere' does not exist"),
        (["train", "--cfg", "job", "data.evnts=x"], "Did you mean 'data.events'?"),
        (["recommend"], "bundle has no value"),
        (["sync", "runs=[]"], "runs=[]: name run folders"),
        (["recommend", "bundle=b", "k=0"], "k=0: must be 1 or more"),
    ],
)
def test_bad_configuration_leaves_one_message_and_nothing_else(
    arguments: list[str],
    expected: str,
    entry: Callable[..., list[object]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls = entry("train") + entry("recommend")
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert expected in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert calls == []
    assert list(tmp_path.iterdir()) == []


def test_broken_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "myshop.yaml").write_text("events: [unclosed\n")
    assert main(["train", "--config-dir", ".", "data=myshop"]) == 2
    assert "not valid YAML" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DataError("events.csv: column 'user_id' is missing."), "events.csv: column 'user_id' is missing."),
        (TrackingError("tracking.uri=[x]: unreachable."), "tracking.uri=[x]: unreachable."),
        (RecsysError("plain"), "plain"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "prepared/x"), "'prepared/x': Read-only file system"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "out"), "'out': Permission denied"),
        (ComputeError("parquet: underlying IO error: no room (os error 28)"), "error: No space left on device. Free"),
    ],
)
def test_what_the_user_can_put_right_has_no_traceback(
    error: Exception, expected: str, entry: Callable[..., list[object]], capsys: pytest.CaptureFixture[str]
) -> None:
    entry("train", throw(error))
    assert main(["train"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert expected in message
    assert "Traceback" not in message


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full to stand for a full disk")
def test_full_disk(entry: Callable[..., list[object]], capsys: pytest.CaptureFixture[str]) -> None:
    def fill(cfg: object) -> None:
        target = os.open("/dev/full", os.O_WRONLY)
        try:
            os.write(target, b"x")
        finally:
            os.close(target)

    entry("train", fill)
    assert main(["train"]) == 2
    assert "error: No space left on device. Free space or choose other folders" in capsys.readouterr().err


def test_unknown_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--flag"]) == 2
    assert "unrecognized arguments: --flag" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["-m", "seed=1,2", "--cfg", "job"], "Only one of --run, --multirun, --cfg, --info"),
        (["--resolve", "seed=1"], "The --resolve flag can only be used in conjunction with --cfg or --help."),
    ],
)
def test_flags_that_exclude_each_other(flags: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *flags]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {expected}")
    assert "Traceback" not in message
    assert not list(Path().iterdir())


def test_run_folder_below_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("")
    assert main(["train", "hydra.run.dir=taken/run"]) == 2
    assert "'taken/run': Not a directory" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(entry: Callable[..., list[object]]) -> None:
    entry("train", throw(ZeroDivisionError("ours")))
    with pytest.raises(ZeroDivisionError, match="ours"):
        main(["train"])


def test_missing_input_file_is_not_mistaken_for_a_full_disk(entry: Callable[..., list[object]]) -> None:
    entry("train", throw(FileNotFoundError(errno.ENOENT, "gone", "x")))
    with pytest.raises(FileNotFoundError):
        main(["train"])


def test_interrupt(entry: Callable[..., list[object]], capsys: pytest.CaptureFixture[str]) -> None:
    entry("train", throw(KeyboardInterrupt()))
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_prepare_from_a_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"u{day % 7},i{day * day % 11},2024-01-{day:02d}T10:00:00Z" for day in range(1, 31)]
    (tmp_path / "sales.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    arguments = ["prepare", "data=tables", "data.name=shop", "data.events=sales.csv", "hydra.run.dir=out"]
    assert main(arguments) == 0
    assert "30 of 30 rows kept" in capsys.readouterr().out
    assert "shop" in (tmp_path / "out" / "data_report.html").read_text()
    (prepared,) = (tmp_path / "prepared").iterdir()
    written = prepared.stat().st_mtime_ns
    assert main(arguments) == 0
    assert list((tmp_path / "prepared").iterdir()) == [prepared]
    assert prepared.stat().st_mtime_ns == written


def test_sync_says_what_still_waits_and_fails(
    tmp_path: Path, new_store: Callable[[Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tracking = TrackingConfig(uri=f"http://127.0.0.1:{port}", allow_offline=True)
    with start_run(tracking, tmp_path / "runs" / "night") as run:
        run.log_metrics({"val/ndcg_at_20": 0.25})
    assert main(["sync", "hydra.run.dir=out"]) == 2
    shown = capsys.readouterr()
    assert "error: 3 entries of 1 runs still wait" in shown.err
    assert "Connection refused" in shown.err
    assert "runs/night" in shown.out
    assert main(["sync", f"tracking_uri={new_store(tmp_path / 'm.db')}", "hydra.run.dir=out"]) == 0
    assert "FINISHED" in capsys.readouterr().out
    assert main(["sync", "hydra.run.dir=out"]) == 0
    assert capsys.readouterr().out == "nothing waits below runs\n"


def test_prepare_of_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "data=tables", "data.events=nowhere.csv"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "nowhere.csv" in message
    assert not (tmp_path / "prepared").exists()
