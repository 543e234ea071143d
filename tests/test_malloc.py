"""What a batch frees is there for the next one, and for others when the work is done; so are its kernels."""

import ctypes
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from groundnlq.engine.processor import memory_kept
from groundnlq.model.layers import FUSED_DTYPES

NUM_BLOCKS, MB = 96, 2**20

of_glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library is left alone"
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


@of_glibc
def test_what_is_freed_is_kept_while_work_lasts_and_given_back_then():
    with memory_kept():
        use_memory()
        again = page_faults()
        held = resident_mb()
    assert again < 2_000  # of the 24,576 pages that the blocks have
    assert resident_mb() < held - NUM_BLOCKS / 2


@of_glibc
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


@pytest.mark.skipif(not FUSED_DTYPES, reason="this build of PyTorch has no oneDNN, or not its linear map")
def test_kernels_of_many_lengths_are_made_once():
    program = """
import torch
from groundnlq.model.layers import Linear
linear = Linear(8, 8)
with torch.inference_mode():
    for _ in range(2):
        print("pass", flush=True)
        for length in range(1, 1101):
            linear(torch.zeros(1, length, 8))
"""
    found = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"ONEDNN_VERBOSE": "profile_create"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    _, first, second = found.stdout.split("pass\n")
    assert first.count("create:cache_miss") == 1100
    assert (second.count("create:cache_miss"), second.count("create:cache_hit")) == (0, 1100)
