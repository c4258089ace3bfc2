"""Workers of a machine keep out of each other's way."""

import os
import tempfile
from pathlib import Path

import pytest

from recsys.tuning.device import own_device


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_each_worker_holds_a_device_of_its_own() -> None:
    with own_device(2) as first:
        with own_device(2) as second, own_device(2) as third:
            assert (first, second) == (0, 1)
            assert third == os.getpid() % 2  # there are no more
        with own_device(2) as again:
            assert again == 1


def test_devices_have_the_names_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with own_device(1) as first:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3,7")
        with own_device(3) as second, own_device(3) as third:
            assert (first, second, third) == (0, 0, 2)
