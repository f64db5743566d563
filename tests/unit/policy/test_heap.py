"""Memory that was freed is soon not new any more."""

from __future__ import annotations

import subprocess
import sys

import pytest

TENSOR = 64 << 20
PAGES = TENSOR // 4096

SCRIPT = f"""
import resource
import torch
from llmrl.policy.heap import keep_freed_memory

{{call}}

def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(50):  # until the heap has room for one beside the gaps that alignment leaves
    torch.ones({TENSOR}, dtype=torch.uint8)
before = faults()
for _ in range(10):
    torch.ones({TENSOR}, dtype=torch.uint8)
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_tensors_take_the_pages_of_those_before() -> None:
    kept, given_back = (
        int(subprocess.check_output([sys.executable, "-c", SCRIPT.format(call=call)], timeout=120))
        for call in ("keep_freed_memory()", "")
    )

    assert kept < 10 * PAGES / 100
    assert given_back > 2 * kept  # huge pages are few, but they are cleared all the same
