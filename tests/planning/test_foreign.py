"""Classes of other packages, from their source alone."""

import subprocess
import sys

import pytest

from recsys.planning.foreign import foreign_problems

TRAINER = "pytorch_lightning.Trainer"


def problems(**settings: object) -> list[str]:
    return list(foreign_problems("trainer", settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"_target_": TRAINER, "devices": 1, "benchmark": True, "_convert_": "all"},
        {"_target_": "pytorch_lightning.callbacks.ModelSummary", "max_depth": 2},
        {"_target_": "pytorch_lightning.callbacks.early_stopping.EarlyStopping", "monitor": "val/loss"},
        {"_target_": "pytorch_lightning.callbacks.RichProgressBar", "refresh_rate": 2},
        {"_target_": "collections.Counter", "any": 1},  # takes whatever it gets
        {"_target_": "json.decoder.JSONDecoder", "strict": False},
        {"_target_": "numpy.linalg._umath_linalg.nothing", "any": 1},  # compiled: nobody can look into it
        {"_target_": "http.server.HTTPServer.Inner", "any": 1},  # a class within a class
        {},
        {"devices": 1},
    ],
)
def test_what_is_there_passes(settings: dict[str, object]) -> None:
    assert problems(**settings) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"_target_": TRAINER, "benchmrk": True}, "trainer.benchmrk=True: pytorch_lightning.Trainer takes no such"),
        ({"_target_": TRAINER, "benchmrk": True}, "Did you mean 'benchmark'?"),
        ({"_target_": "pytorch_lightning.Trainr"}, "'pytorch_lightning' has no 'Trainr'. Did you mean 'Trainer'?"),
        ({"_target_": "pytorch_lightnin.Trainer"}, "no module 'pytorch_lightnin' is installed"),
        ({"_target_": "pytorch_lightning.calbacks.ModelSummary"}, "no module 'pytorch_lightning.calbacks'"),
        ({"_target_": "json.decoder.JSONDecoder", "strct": False}, "Did you mean 'strict'?"),
    ],
)
def test_what_is_not_there_is_named(settings: dict[str, object], said: str) -> None:
    (problem,) = problems(**settings)
    assert said in problem


def test_nothing_is_imported() -> None:
    code = (
        "import sys; from recsys.planning.foreign import foreign_problems;"
        f"assert list(foreign_problems('trainer', {{'_target_': '{TRAINER}', 'benchmrk': 1}}));"
        "sys.exit('pytorch_lightning' in sys.modules or 'torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
