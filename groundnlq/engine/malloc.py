"""What becomes of the memory that a batch has given back."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # numbers of malloc.h
NEVER = -1
LARGEST = 32 * 2**20  # bytes up to which a block may lie on the heap; glibc takes no more


@contextmanager
def memory_kept() -> Iterator[None]:
    """Have glibc keep what a batch frees for the next one; in the end all is given back.

    It would otherwise return the end of its heap to the system after every batch and get it again page by
    page, which took a seventh of a bfloat16 step on a CPU. The peak is the same. With another C library
    (macOS, Windows, musl) nothing happens.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(M_MMAP_THRESHOLD, LARGEST)
    libc.mallopt(M_TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        libc.mallopt(M_TRIM_THRESHOLD, 2 * LARGEST)  # where glibc's own adaptation ends
        libc.malloc_trim(0)
