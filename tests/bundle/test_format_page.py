"""The page for readers in another language says what is in the folder."""

import re
from dataclasses import fields
from fnmatch import fnmatch
from pathlib import Path

from recsys.bundle.format import FORMAT_VERSION, Manifest, read_manifest
from recsys.features import CLOCK_SLOTS, FIRST_ID, OOV_ID, PAD_ID


def page(repo: Path) -> str:
    return (repo / "recsys" / "bundle" / "FORMAT.md").read_text()


def test_every_bundle_carries_it(exported: tuple[Path, Manifest], repo: Path) -> None:
    assert (exported[0] / "FORMAT.md").read_text() == page(repo)
    assert "FORMAT.md" in exported[1].parts


def test_it_names_every_part(exported: tuple[Path, Manifest], trained_onnx: Path, repo: Path) -> None:
    files = page(repo).partition("## manifest.json")[0]
    named = re.findall(r"`([^`]+)`", files)
    for folder in (exported[0], trained_onnx):
        for part in read_manifest(folder).parts:
            top = part.split("/")[0] + "/" * ("/" in part)
            assert any(fnmatch(top, name) for name in named), part


def test_it_names_every_key_of_the_manifest(repo: Path) -> None:
    section = page(repo).partition("## manifest.json")[2].partition("## Ids")[0]
    assert {field.name for field in fields(Manifest)} <= set(re.findall(r"`(\w+)`", section))


def test_its_numbers_are_ours(repo: Path) -> None:
    text = page(repo)
    assert f"Version {FORMAT_VERSION}." in text
    hours, days, _ = CLOCK_SLOTS
    week, months = FIRST_ID + hours, FIRST_ID + hours + days
    assert f"UTC: {FIRST_ID} + hour, {week} + weekday (Monday 0), {months} + month (January 0)" in text
    assert (PAD_ID, OOV_ID, FIRST_ID) == (0, 1, 2)
    assert "0 is padding or missing (PAD), 1 is a value that is not known (OOV), known values count from 2" in text
