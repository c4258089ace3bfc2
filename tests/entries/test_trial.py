"""A trial knows nothing of the test window, and does only what its own settings ask for."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from recsys.columns import ITEM_ID, TIMESTAMP, USER_ID
from recsys.config.schema import Config
from recsys.config.search import with_values
from recsys.data import batches
from recsys.data.dataset import interaction_log, microseconds
from recsys.data.prepared import Prepared
from recsys.entries import lesson, retriever
from recsys.entries.folds import SPREAD, holdout, make_folds
from recsys.entries.retriever import choose_epochs, fit_fold
from recsys.entries.trial import Bench, asked_of, make_bench, run_trial, taught, without_test
from recsys.tracking.run import Run

KEY = "val/ndcg_at_20"
Trial = Callable[[Bench, Config], dict[str, float]]


@pytest.fixture
def towers_alone(first_stage: Any) -> Config:
    return with_values(first_stage.cfg, {"ranker.enabled": False, "training.batch_moments": 256})


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    """Run a trial on a bench, in a folder of its own, and return its metrics."""
    number = count()
    return lambda bench, cfg: run_trial(bench, cfg, Run(), tmp_path / str(next(number)), lambda metrics: None)


def poisoned(prepared: Prepared) -> Prepared:
    """The data set with other events in the test window: one new user takes one new item, again and again."""
    inside = pl.col(TIMESTAMP) >= prepared.windows.test_start
    events = prepared.events.with_columns(
        pl.when(inside).then(pl.lit("poison")).otherwise(USER_ID).alias(USER_ID),
        pl.when(inside).then(pl.lit(10**6)).otherwise(ITEM_ID).alias(ITEM_ID),
    )
    users = pl.concat([prepared.users, pl.DataFrame({USER_ID: ["poison"]})], how="diagonal").sort(USER_ID)
    items = pl.concat([prepared.items, pl.DataFrame({ITEM_ID: [10**6]})], how="diagonal").sort(ITEM_ID)
    return replace(prepared.with_events(events.sort(USER_ID, TIMESTAMP, ITEM_ID)), users=users, items=items)


def test_a_poisoned_test_window_changes_nothing(first_stage: Any, towers_alone: Config, trial: Trial) -> None:
    shop = replace(first_stage.prepared, has_item_table=False)
    clean, other = trial(make_bench(shop), towers_alone), trial(make_bench(poisoned(shop)), towers_alone)
    clocks = {"milliseconds_a_user"}
    assert {k: v for k, v in clean.items() if k not in clocks} == {k: v for k, v in other.items() if k not in clocks}
    assert clean[KEY] > 0


def test_the_first_trial_is_worth_what_the_main_job_finds(
    first_stage: Any, towers_alone: Config, trial: Trial, tmp_path: Path
) -> None:
    """The main job has all data; up to the validation window it does the same with them."""
    prepared, log = first_stage.prepared, first_stage.log
    main = holdout(prepared, log)
    _, fitted = choose_epochs(towers_alone, main, [main], towers_alone.model, Run(), tmp_path / "main")
    assert trial(make_bench(prepared), towers_alone)[KEY] == fitted.metrics[KEY]


def test_no_batches_of_the_test_window_are_made(
    first_stage: Any, towers_alone: Config, trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    latest: list[int] = []
    make = batches.MomentBatches.__init__

    def noted(self: Any, log: Any, *arguments: Any, **named: Any) -> None:
        latest.append(int(log.time.max()))
        make(self, log, *arguments, **named)

    monkeypatch.setattr(batches.MomentBatches, "__init__", noted)
    bench, windows = make_bench(first_stage.prepared), first_stage.prepared.windows
    found = trial(bench, towers_alone)
    assert 0 < found["milliseconds_a_user"] < 1000
    assert len(latest) == 1
    assert latest[0] < microseconds(windows.val_start)
    assert int(bench.log.time.max()) < microseconds(windows.test_start)
    assert bench.prepared.windows.end == windows.test_start


def test_what_only_the_test_window_knows_is_gone(first_stage: Any) -> None:
    known = without_test(poisoned(first_stage.prepared))
    assert known.events[TIMESTAMP].max() < first_stage.prepared.windows.test_start
    assert "poison" not in known.users[USER_ID]
    assert 10**6 in known.items[ITEM_ID]  # the table says that the shop has it
    assert 10**6 not in without_test(replace(poisoned(first_stage.prepared), has_item_table=False)).items[ITEM_ID]
    assert len(interaction_log(known)) == len(known.events)


def test_rankers_share_retriever_and_snapshots(first_stage: Any, trial: Trial) -> None:
    bench = make_bench(first_stage.prepared)
    first = trial(bench, first_stage.cfg)
    made = {part: thing for part, (_, thing) in bench.kept.items()}
    other = trial(bench, with_values(first_stage.cfg, {"ranker.training.learning_rate": 0.1}))
    assert {part: thing for part, (_, thing) in bench.kept.items()} == made
    assert first[KEY] != other[KEY]
    assert trial(bench, first_stage.cfg)[KEY] == first[KEY]  # nothing of the trial between them is left
    assert 0 < first["milliseconds_a_user"] < 1000


def test_they_are_made_again_for_other_settings_of_theirs(
    first_stage: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[str] = []

    def noted(name: str, result: Any) -> Any:
        return lambda *arguments: made.append(name) or result

    chosen = SimpleNamespace(model=None, epochs=1)
    monkeypatch.setattr(retriever, "choose_epochs", noted("towers", (first_stage.data, chosen)))
    monkeypatch.setattr(retriever, "refit", noted("early", None))
    monkeypatch.setattr(lesson, "make_lesson", noted("lesson", None))
    bench = make_bench(first_stage.prepared)
    for key, value in (
        ("ranker.dropout", 0.1),
        ("ranker.hidden", [8]),
        ("ranker.training.loss", "bce"),
        ("ranker.history", 9),  # of attention, and there is none
    ):
        taught(bench, with_values(first_stage.cfg, {key: value}), *asked_of(bench, first_stage.cfg), tmp_path)
    assert made == ["towers", "early", "lesson"]
    for key, value in (
        ("ranker.candidates.limit", 20),
        ("ranker.candidates.sizes.history", 7),
        ("ranker.training.negatives", 0.5),
        ("ranker.attention", 4),
        ("ranker.start_from_towers", True),
        ("ranker.trees", False),
    ):
        taught(bench, first_stage.cfg, *asked_of(bench, first_stage.cfg), tmp_path)
        made.clear()
        taught(bench, with_values(first_stage.cfg, {key: value}), *asked_of(bench, first_stage.cfg), tmp_path)
        assert made == ["early", "lesson"], key
    for key, value in (("model.width", 16), ("training.learning_rate", 0.1), ("trainer.precision", "bf16-mixed")):
        taught(bench, first_stage.cfg, *asked_of(bench, first_stage.cfg), tmp_path)
        made.clear()
        taught(bench, with_values(first_stage.cfg, {key: value}), *asked_of(bench, first_stage.cfg), tmp_path)
        assert made == ["towers", "early", "lesson"], key


def test_what_is_shared_is_made_once() -> None:
    made: list[int] = []
    bench = Bench(None, None)  # type: ignore[arg-type]

    def make() -> int:
        made.append(len(made))
        return made[-1]

    assert [bench.once("part", settings, make) for settings in ([1], [1], [2], [1])] == [0, 0, 1, 2]


@pytest.mark.parametrize("validation", ["expanding", "rolling", "kfold"])
def test_folds_are_those_of_the_main_job(
    first_stage: Any, towers_alone: Config, trial: Trial, tmp_path: Path, validation: str
) -> None:
    cfg = replace(towers_alone, validation=validation, folds=2)
    prepared, log = replace(first_stage.prepared, has_item_table=False), first_stage.log
    main, folds = make_folds(cfg, prepared, prepared, log)
    data, fitted = choose_epochs(cfg, main, folds, cfg.model, Run(), tmp_path / "main")
    assert data.cut == microseconds(prepared.windows.val_start)
    told: list[dict[str, float]] = []
    found = run_trial(make_bench(poisoned(prepared)), cfg, Run(), tmp_path / "trial", told.append)
    assert found[KEY] == fitted.best == fitted.metrics[KEY]
    assert found[KEY + SPREAD] == fitted.metrics[KEY + SPREAD] > 0
    assert len(told) == 2  # once a fold
    assert told[-1][KEY] == found[KEY]
    alone = [fit_fold(cfg, fold, cfg.model, Run(), tmp_path / str(n))[1].best for n, fold in enumerate(folds)]
    assert fitted.best == pytest.approx(sum(alone) / 2)  # there is one epoch


@pytest.mark.parametrize(("path", "of_folds"), [("a.ckpt", ["a.ckpt", None, None]), ("last", ["last"] * 3)])
def test_a_file_to_go_on_from_is_of_the_first_fold(
    first_stage: Any, monkeypatch: pytest.MonkeyPatch, path: str, of_folds: list[str | None]
) -> None:
    given: list[str | None] = []

    def noted(cfg: Config, *_: Any, **__: Any) -> Any:
        given.append(cfg.ckpt_path)
        return None, SimpleNamespace(results=[{KEY: 0.5}])

    monkeypatch.setattr(retriever, "fit_fold", noted)
    monkeypatch.setattr(retriever, "refit", lambda *_: None)
    main, cfg = holdout(first_stage.prepared, first_stage.log), replace(first_stage.cfg, ckpt_path=path)
    choose_epochs(cfg, main, [replace(main) for _ in range(3)], cfg.model, Run(), Path("nowhere"))
    assert given == of_folds


def test_rankers_are_judged_by_all_folds(first_stage: Any, trial: Trial) -> None:
    cfg = replace(first_stage.cfg, validation="expanding", folds=2)
    bench = make_bench(first_stage.prepared)
    found = trial(bench, cfg)
    main, folds = asked_of(bench, cfg)
    (_, data, lesson), (_, _, last) = taught(bench, cfg, main, folds, Path("nowhere"))  # as the trial has made them
    assert data.cut == microseconds(folds[0].learned.windows.val_start)
    assert lesson.window.cut == data.cut < last.window.cut == microseconds(first_stage.prepared.windows.val_start)
    assert found[KEY + SPREAD] > 0
