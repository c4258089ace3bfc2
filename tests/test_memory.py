"""Freed memory is used again."""

import os
import subprocess
import sys

import pytest

BLOCKS = """
import resource
import torch
first = torch.ones(16 * 2**20)  # 64 MiB
del first
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for n in range(20):
    kept = torch.ones(16 * 2**20)
    assert kept.sum() == 16 * 2**20
    del kept
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
CALL = "from recsys.memory import keep_freed_memory; keep_freed_memory()"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_a_large_tensor_gets_the_pages_of_the_last_one() -> None:
    # Commands that ran in this process have set it for their children.
    unset = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    plain, kept = (
        int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=unset).stdout)
        for code in (BLOCKS, CALL + BLOCKS)
    )
    pages = 64 * 2**20 // 4096
    assert plain > 19 * pages  # else there would be nothing to gain
    assert kept < pages / 2
