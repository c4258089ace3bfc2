"""Fits that are stopped, and go on; tests/scripts/test_kill_and_resume.py does the same to the whole job."""

import logging
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial

import polars as pl
import pytest
import torch
from pytorch_lightning.callbacks import Callback

from recsys.config.schema import ModelConfig, ObjectiveConfig, RankerConfig, RankerTrainingConfig, TrainingConfig
from recsys.data.moments import moments_of
from recsys.data.snapshots import RankingSet
from recsys.errors import ConfigError
from recsys.models.wide import IdInput
from recsys.stop import SIGNALS, Stop
from recsys.training.fit import fit_retriever
from recsys.training.fit_ranker import fit_ranker
from tests.training import fits
from tests.training.fitting import Sends, equal, scripted, trainer_on

MODEL = ModelConfig(width=8, code_width=8, hidden=16, heads=2, history=12, factor_width=6)
TRAINING = TrainingConfig(batch_moments=120, epoch_batches=1, negatives=16, max_epochs=3, ledger=True)
RANKER = RankerConfig(width=4, hidden=[8], training=RankerTrainingConfig(batch_groups=7, epoch_batches=1, max_epochs=3))
OBJECTIVE = ObjectiveConfig("val/ndcg_at_20", "max")
VALUES = (0.1, 0.4, 0.3)
"""Of the epochs: the second is the best."""
STEPS = 3
"""Of an epoch, for both."""


def sending(hook, turn, *numbers):
    """Makes Trainers whose fit gets signals."""

    def make(callbacks, **arguments):
        return trainer_on("cpu")(callbacks=[Sends(hook, turn, numbers), *callbacks], **arguments)

    return make


@pytest.fixture
def fit_towers(little):
    """Fits a retriever."""
    return partial(
        fit_retriever,
        log=little.log,
        tables=little.tables,
        eligible=torch.ones(little.log.n_items, dtype=torch.bool),
        inputs=little.inputs,
        model_config=MODEL,
        training=TRAINING,
        trainer_of=trainer_on("cpu"),
        seed=0,
        objective=OBJECTIVE,
        ckpt_path="last",
    )


@pytest.fixture
def fit_pairs():
    """Fits a ranker of 25 groups."""

    def fit(**arguments):
        chance = torch.Generator().manual_seed(0)
        group = torch.arange(25).repeat_interleave(6)
        brand = torch.randint(2, 8, (len(group),), generator=chance)
        features = {"count": torch.randn(len(group), generator=chance), "brand": brand}
        train = RankingSet(group, features, (brand > 5).float()[:, None], torch.ones(len(group)))
        defaults = {"trainer_of": trainer_on("cpu"), "config": RANKER, "objective": OBJECTIVE, "ledger": True}
        ids = (IdInput("brand", 8),)
        return fit_ranker(train, id_inputs=ids, crosses=(), seed=0, ckpt_path="last", **(defaults | arguments))

    return fit


def ledger(folder):
    return pl.concat([pl.read_csv(path) for path in sorted(folder.glob("ledger.*.csv"))])


def last(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)


def validated(folder):
    """How many epochs a checkpoint has the validation of."""
    return len(last(folder)["callbacks"]["Validation"]["results"]) if (folder / "last.ckpt").exists() else 0


def stopped(fit, folder, trainer_of, **arguments):
    """Run a fit that a signal ends, and return the exit code."""
    stop = Stop()
    with stop.listening(), stop.armed(), pytest.raises(SystemExit) as end:
        fit(folder=folder, trainer_of=trainer_of, validate=scripted(VALUES[validated(folder) :]), **arguments)
    return end.value.code


MOMENTS = [
    ("on_train_batch_end", 2, signal.SIGTERM),  # inside the first epoch
    ("on_train_batch_end", STEPS, signal.SIGINT),  # its last batch: the validation is still to come
    ("on_train_epoch_end", 2, signal.SIGTERM),  # before the validation of the second
    ("on_train_epoch_start", 3, signal.SIGTERM),  # after it
]


@pytest.mark.parametrize(("hook", "turn", "number"), MOMENTS)
@pytest.mark.parametrize("kind", ["fit_towers", "fit_pairs"])
def test_a_fit_that_is_stopped_ends_as_one_that_is_not(kind, hook, turn, number, tmp_path, request):
    fit = request.getfixturevalue(kind)
    whole = fit(folder=tmp_path / "whole", validate=scripted(VALUES))
    assert last(tmp_path / "whole")["global_step"] == 3 * STEPS
    before = [signal.getsignal(number) for number in SIGNALS]
    assert stopped(fit, tmp_path / "parts", sending(hook, turn, number)) == 128 + number
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert not last(tmp_path / "parts")["resume"]["complete"]

    resumed = fit(folder=tmp_path / "parts", validate=scripted(VALUES[validated(tmp_path / "parts") :]))
    assert (resumed.history, resumed.epochs, resumed.best) == (whole.history, whole.epochs, whole.best)
    assert whole.history == VALUES
    assert equal(resumed.model, whole.model)
    one, other = last(tmp_path / "whole"), last(tmp_path / "parts")
    assert all(other["state_dict"][name].equal(value) for name, value in one["state_dict"].items())
    assert str(one["optimizer_states"]) == str(other["optimizer_states"])
    assert ledger(tmp_path / "parts").equals(ledger(tmp_path / "whole"))


def test_stopped_again_and_again(fit_towers, little, tmp_path):
    whole = fit_towers(folder=tmp_path / "whole", validate=scripted(VALUES))
    for _ in range(3 * STEPS):  # each life is a step long
        assert stopped(fit_towers, tmp_path / "parts", sending("on_train_batch_end", 1, signal.SIGTERM)) == 143
    steps = ledger(tmp_path / "parts")["step"].unique().sort().to_list()
    assert steps == list(range(1, 3 * STEPS + 1))
    resumed = fit_towers(folder=tmp_path / "parts", validate=scripted(VALUES[validated(tmp_path / "parts") :]))
    assert equal(resumed.model, whole.model)
    assert resumed.history == whole.history
    times = ledger(tmp_path / "parts").group_by("epoch", "sample").len()
    assert set(times["len"]) == {1}
    assert times.height == 3 * len(moments_of(little.log))


def test_what_came_after_the_checkpoint_is_done_again(fit_towers, tmp_path):
    """A process that dies at once leaves a checkpoint that is some steps old, and perhaps half a line of the ledger."""
    whole = fit_towers(folder=tmp_path / "whole", validate=scripted(VALUES))
    parts = tmp_path / "parts"
    assert stopped(fit_towers, parts, sending("on_train_batch_end", 2, signal.SIGTERM)) == 143
    step = last(parts)["global_step"]
    with (parts / "ledger.0.csv").open("a") as file:
        file.write(f"0,{step + 1},0,17\n0,{step + 1},0,2")
    resumed = fit_towers(folder=parts, validate=scripted(VALUES))
    assert equal(resumed.model, whole.model)
    assert ledger(parts).equals(ledger(tmp_path / "whole"))


@pytest.mark.slow
def test_a_fit_that_is_killed_ends_as_one_that_is_not(little, tmp_path, repo):
    """SIGKILL, which nobody can take: inside the second epoch, on its last batch, then in the third."""
    torch.save(little, tmp_path / "shop.pt")
    parts = tmp_path / "parts"
    fit = [sys.executable, "-m", "tests.training.fits", str(tmp_path / "shop.pt"), str(parts), "1", "towers"]
    for steps in (8, 5, 4):  # a step is saved after it, so the next life does it again
        done = subprocess.run([*fit, str(steps), str(int(signal.SIGKILL))], cwd=repo, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
    place = last(parts)["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]
    assert (place["epoch"], place["cuts"]) == (2, [[6, 2]])
    resumed = fits.fit_towers(little, parts, 1)
    whole = fits.fit_towers(little, tmp_path / "whole", 1)
    assert equal(resumed.model, whole.model)
    assert resumed.history == whole.history
    assert ledger(parts).equals(ledger(tmp_path / "whole"))


def test_checkpoints_come_with_time(fit_towers, tmp_path):
    steps = []

    class Looks(Callback):
        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            steps.append(trainer.global_step)

    def make(callbacks, **arguments):
        return trainer_on("cpu")(callbacks=[Looks(), *callbacks], **arguments)

    fit_towers(folder=tmp_path, trainer_of=make, epochs=2, objective=None)
    assert steps == [STEPS, 2 * STEPS]  # epochs that are shorter than five minutes
    steps.clear()
    training = replace(TRAINING, checkpoint_minutes=0)
    fit_towers(folder=tmp_path / "often", trainer_of=make, epochs=2, objective=None, training=training)
    assert steps == [1, 2, 3, 3, 4, 5, 6, 6]  # before the validation of an epoch, and after it


def test_a_second_ctrl_c_does_not_wait(fit_towers, tmp_path):
    arguments = sending("on_train_batch_end", 1, signal.SIGINT, signal.SIGINT)
    assert stopped(fit_towers, tmp_path, arguments) == 130
    assert not (tmp_path / "last.ckpt").exists()


def test_a_complete_fit_is_passed_over(fit_towers, tmp_path, caplog):
    whole = fit_towers(folder=tmp_path, validate=scripted(VALUES))
    written = (tmp_path / "last.ckpt").stat().st_mtime_ns
    with caplog.at_level(logging.INFO, "recsys.training.epochs"):
        again = fit_towers(folder=tmp_path, validate=scripted([]))  # measuring would fail
    assert "complete after 3 epochs, passed over" in caplog.text
    assert (again.epochs, again.best, again.history) == (whole.epochs, whole.best, whole.history)
    assert equal(again.model, whole.model)
    assert (tmp_path / "last.ckpt").stat().st_mtime_ns == written


def test_early_stopping_is_complete_too(fit_towers, tmp_path):
    arguments = {"training": replace(TRAINING, max_epochs=9), "folder": tmp_path}
    whole = fit_towers(**arguments, validate=scripted([0.4, 0.3]))
    again = fit_towers(**arguments, validate=scripted([]))
    assert again.history == whole.history == (0.4, 0.3)
    assert (again.epochs, equal(again.model, whole.model)) == (1, True)


def test_a_folder_may_move_and_a_file_be_named(fit_towers, tmp_path):
    """The best score is kept, though Lightning knows it by the path of the best checkpoint."""
    whole = fit_towers(folder=tmp_path / "whole", validate=scripted(VALUES))
    assert stopped(fit_towers, tmp_path / "parts", sending("on_train_batch_end", 2 * STEPS + 1, signal.SIGTERM)) == 143
    shutil.copytree(tmp_path / "parts", tmp_path / "elsewhere")
    moved = fit_towers(folder=tmp_path / "elsewhere", validate=scripted(VALUES[2:]))
    named = fit_towers(
        folder=tmp_path / "new", validate=scripted(VALUES[2:]), ckpt_path=str(tmp_path / "parts" / "last.ckpt")
    )
    over = fit_towers(folder=tmp_path / "newer", validate=scripted([]), ckpt_path=str(tmp_path / "whole" / "last.ckpt"))
    for fitted in (moved, named, over):
        assert (fitted.history, fitted.epochs, fitted.best) == (VALUES, 2, whole.best)
        assert equal(fitted.model, whole.model)


def test_the_best_of_another_fit_in_the_folder_is_not_taken(fit_towers, tmp_path):
    """Though it was as good; nor where the fit is stopped there, and goes on from its own checkpoint."""
    whole = fit_towers(folder=tmp_path / "whole", validate=scripted(VALUES))
    assert stopped(fit_towers, tmp_path / "parts", sending("on_train_batch_end", 2 * STEPS + 1, signal.SIGTERM)) == 143
    fit_towers(folder=tmp_path / "used", validate=scripted(VALUES), seed=1)
    shutil.copytree(tmp_path / "used", tmp_path / "again")
    parts = {"ckpt_path": str(tmp_path / "parts" / "last.ckpt")}
    named = fit_towers(folder=tmp_path / "used", validate=scripted(VALUES[2:]), **parts)
    assert stopped(fit_towers, tmp_path / "again", sending("on_train_batch_end", 1, signal.SIGTERM), **parts) == 143
    resumed = fit_towers(folder=tmp_path / "again", validate=scripted(VALUES[2:]))
    for fitted in (named, resumed):
        assert (fitted.epochs, fitted.best, equal(fitted.model, whole.model)) == (2, whole.best, True)

    (tmp_path / "parts" / "best.ckpt").unlink()
    with pytest.raises(ConfigError, match=r"parts/last.ckpt: the best epoch .* as best.ckpt, and is not there"):
        fit_towers(folder=tmp_path / "used", validate=scripted([]), **parts)


def test_without_a_checkpoint_last_begins(fit_towers, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "recsys.training.epochs"):
        fit_towers(folder=tmp_path, epochs=1, objective=None)
    assert caplog.messages == [f"{tmp_path}: no checkpoint, this fit begins"]


def test_a_checkpoint_of_something_else_is_refused(fit_towers, little, tmp_path):
    fit_towers(folder=tmp_path, epochs=1, objective=None)
    others = {
        "model.width was 8, now it is 4": {"model_config": replace(MODEL, width=4)},
        "training.learning_rate was 0.001, now it is 0.01": {"training": replace(TRAINING, learning_rate=1e-2)},
        "seed was 0, now it is 1": {"seed": 1},
        "max_epochs was 1, now it is 2": {"epochs": 2},
        "data was ": {"log": little.log.between(None, little.cut - 30 * 86_400_000_000)},
    }
    for message, changes in others.items():
        with pytest.raises(ConfigError, match=f"checkpoint is of a fit from something else: .*{message}"):
            fit_towers(folder=tmp_path, objective=None, **({"epochs": 1} | changes))
    often = replace(TRAINING, checkpoint_minutes=0, ledger=False)  # how often it is saved changes nothing
    fit_towers(folder=tmp_path, objective=None, epochs=1, training=often)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_checkpoint_of_another_version_is_refused(fit_towers, tmp_path, epochs):
    """Whether the fit was complete or not: a tensor is called otherwise, another has a further dimension."""
    fit_towers(folder=tmp_path, epochs=1, objective=None)
    path = tmp_path / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    (first, second, *_) = saved["state_dict"]
    saved["state_dict"]["model.of_old"] = saved["state_dict"].pop(first)
    saved["state_dict"][second] = saved["state_dict"][second][None]
    saved["resume"]["made_from"]["max_epochs"] = epochs
    torch.save(saved, path)
    with pytest.raises(ConfigError, match=rf"another version of recsys: tensor '{second}' was \[1, .*\(3 differ\)"):
        fit_towers(folder=tmp_path, epochs=epochs, objective=None)


def test_files_that_are_no_checkpoints_are_refused(fit_towers, tmp_path):
    with pytest.raises(ConfigError, match=r"ckpt_path=.*none.ckpt: there is no such file"):
        fit_towers(folder=tmp_path, epochs=1, ckpt_path=str(tmp_path / "none.ckpt"))
    (tmp_path / "last.ckpt").write_bytes(b"half of one")
    with pytest.raises(ConfigError, match=r"last.ckpt: this is no checkpoint to go on from"):
        fit_towers(folder=tmp_path, epochs=1)
