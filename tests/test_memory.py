"""What a batch frees is there for the next one, and for others when the work is done."""

import ctypes
import resource
import sys
from pathlib import Path

import pytest
import torch

from groundnlq.engine.memory import memory_kept

NUM_BLOCKS, MB = 96, 2**20

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"),
    reason="another C library is left alone",
)


def use_memory():
    return sum(len(block) for block in [torch.ones(MB // 4) for _ in range(NUM_BLOCKS)])


def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    use_memory()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_mb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MB


def test_what_is_freed_is_kept_while_work_lasts_and_given_back_then():
    with memory_kept():
        use_memory()
        again = page_faults()
        held = resident_mb()
    assert again < 2_000  # of the 24,576 pages that the blocks have
    assert resident_mb() < held - NUM_BLOCKS / 2


def test_it_is_given_back_after_an_error_as_well():
    held = []

    def fail():
        with memory_kept():
            use_memory()
            held.append(resident_mb())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert resident_mb() < held[0] - NUM_BLOCKS / 2
