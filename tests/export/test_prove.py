"""A bundle is registered only with a certificate that speaks for each of its models."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recsys.bundle.format import Manifest, read_manifest
from recsys.errors import BundleError
from recsys.export.prove import refuse_unproven


@pytest.fixture
def copy(exported: tuple[Path, Manifest], tmp_path: Path) -> Path:
    """A copy whose certificate is changed; that the manifest notices is not what is tested."""
    return Path(shutil.copytree(exported[0], tmp_path / "copy"))


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / "parity.json").read_text())
    edit(content)
    (folder / "parity.json").write_text(json.dumps(content))


def of(content: dict[str, Any], tower: str, form: str) -> list[dict[str, Any]]:
    return [case for case in content["cases"] if (case["tower"], case["form"]) == (tower, form)]


def test_a_proven_bundle_passes(copy: Path) -> None:
    refuse_unproven(copy, read_manifest(copy))


@pytest.mark.parametrize(
    "change_of", [{"passed": False}, {"max_difference": 1.0}, {"overlap": 0.95}, {"max_difference": float("nan")}]
)
def test_a_case_that_is_off(copy: Path, change_of: dict[str, Any]) -> None:
    """Whether it says so itself or its numbers do."""
    change(copy, lambda content: of(content, "item", "torch.export")[2].update(change_of))
    with pytest.raises(
        BundleError, match=r"'parity\.json': the item tower as torch\.export .*case 'odd'.* is not registered; export"
    ):
        refuse_unproven(copy, read_manifest(copy))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cases": [{}]}', '{"cases": [1]}'])
def test_no_certificate(copy: Path, content: str) -> None:
    (copy / "parity.json").write_text(content)
    with pytest.raises(BundleError, match=r"part 'parity\.json' is no certificate"):
        refuse_unproven(copy, read_manifest(copy))
    (copy / "parity.json").unlink()
    with pytest.raises(BundleError, match=r"part 'parity\.json' is no certificate"):
        refuse_unproven(copy, read_manifest(copy))


@pytest.mark.parametrize(("form", "name"), [("torchscript", "user_tower.pt"), ("torch.export", "user_tower.pt2")])
def test_a_model_that_no_case_is_about(copy: Path, form: str, name: str) -> None:
    def drop(content: dict[str, Any]) -> None:
        content["cases"] = [c for c in content["cases"] if (c["tower"], c["form"]) != ("user", form)]

    change(copy, drop)
    with pytest.raises(BundleError, match=rf"no case of 'parity\.json' is about '{name}'"):
        refuse_unproven(copy, read_manifest(copy))


def test_certificates_of_earlier_versions_count(copy: Path) -> None:
    """Their cases have neither a tolerance of their own nor an overlap."""

    def older(content: dict[str, Any]) -> None:
        content["tolerance"] = 1e-5
        for case in content["cases"]:
            del case["tolerance"], case["overlap"]

    change(copy, older)
    refuse_unproven(copy, read_manifest(copy))
    change(copy, lambda content: of(content, "user", "torchscript")[0].update({"max_difference": 0.1}))
    with pytest.raises(BundleError, match="the user tower as torchscript"):
        refuse_unproven(copy, read_manifest(copy))
