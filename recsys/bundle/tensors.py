"""Named tensors in one file that any language reads: the safetensors format, as far as a bundle uses it.

::

    8 bytes   length H of the header, unsigned, little-endian
    H bytes   JSON: {"NAME": {"dtype": "F32" | "I64", "shape": [...], "data_offsets": [from, to]}, ...}
    the rest  the numbers, little-endian, rows first (C order); offsets count from here
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.errors import BundleError

DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8")}


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write float32 and int64 tensors.

    Raises:
        OSError: The place cannot be written to, or is full.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    header, pieces, end = {}, [], 0
    for name, tensor in sorted(tensors.items()):
        array = tensor.contiguous().numpy()
        piece = array.astype(array.dtype.newbyteorder("<")).tobytes()
        place = [end, end := end + len(piece)]
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": place}
        pieces.append(piece)
    head = json.dumps(header, ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)  # the numbers begin at a multiple of 8, where a reader may map them
    path.write_bytes(b"".join([len(head).to_bytes(8, "little"), head, *pieces]))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read what :func:`write_tensors` wrote.

    Raises:
        BundleError: It is no such file.
    """
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    out = {}
    try:
        for name, entry in json.loads(content[8:start]).items():
            first, end = entry["data_offsets"]
            numbers = np.frombuffer(content[start + first : start + end], DTYPES[entry["dtype"]])
            out[name] = torch.from_numpy(numbers.reshape(entry["shape"]).astype(numbers.dtype.newbyteorder("=")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"part '{path.name}': these are no tensors ({error}); export the bundle again.") from error
    return out
