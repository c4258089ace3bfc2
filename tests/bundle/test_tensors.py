"""Tensors in a file: the bytes of the safetensors format, and nothing that is no such file."""

import json
import struct
from pathlib import Path

import pytest
import torch

from recsys.bundle.tensors import read_tensors, write_tensors
from recsys.errors import BundleError

NAN = float("nan")


def test_the_bytes_are_those_of_the_format(tmp_path: Path) -> None:
    path = tmp_path / "sample.safetensors"
    write_tensors({"b/ü": torch.tensor([[1, -2]]), "a": torch.tensor([1.5, NAN])}, path)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert length % 8 == 0
    assert json.loads(content[8 : 8 + length]) == {
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b/ü": {"dtype": "I64", "shape": [1, 2], "data_offsets": [8, 24]},
    }
    assert content[8 + length :] == struct.pack("<ff", 1.5, NAN) + struct.pack("<qq", 1, -2)


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "sample.safetensors"
    tensors = {
        "rows": torch.arange(6).view(2, 3).T,  # not in the order of its memory
        "none": torch.zeros(0, 4),
        "one": torch.tensor(3.0),
        "far": torch.tensor([-(2**63), 2**63 - 1]),
    }
    write_tensors(tensors, path)
    found = read_tensors(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"\x02" + bytes(7) + b"[]", b"\x09" + bytes(7) + b'{"a": {}}'])
def test_another_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(BundleError, match=r"part 'x\.safetensors': these are no tensors"):
        read_tensors(tmp_path / "x.safetensors")
