"""How a run treats the processor: what becomes of freed memory, and how threads wait for each other."""

import ctypes
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # numbers of malloc.h
NEVER = -1
LARGEST = 32 * 2**20  # bytes up to which a block may lie on the heap; glibc takes no more
OWN_CHOICE = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # variables with which a user decides
LOOK_EVERY_SEC, CALM_LOOKS = 1.0, 10
MAX_TASKS = 4  # at once: each needs memory of its own
BUSY_SHARE = 0.4  # of the time; below it a short wait costs more than it gives


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


@contextmanager
def sharing_cores(num_tasks: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that share the cores. Small encoders gain more from a clip beside another than from two cores each."""
    num_threads = torch.get_num_threads()
    num_workers = max(1, min(MAX_TASKS, num_threads, num_tasks))
    try:
        with ThreadPoolExecutor(num_workers, "task", torch.set_num_threads, (num_threads // num_workers,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(num_threads)  # what a worker sets is also what other threads begin with


@contextmanager
def short_waits_when_busy() -> Iterator[None]:
    """Let threads sleep at once at a barrier while other programs want their cores (Linux, GNU's OpenMP).

    A thread otherwise looks for milliseconds whether the others have come, maybe on the core that one of them waits
    for. libgomp looks only briefly while it has more threads than there are cores, so an idle team is kept as long as
    threads queue for cores. The team that computes stays as it is, and with it every bit of the results.
    """
    if torch.get_num_threads() == 1 or any(name in os.environ for name in OWN_CHOICE) or (gomp := _libgomp()) is None:
        yield
        return
    ended = Event()
    with ThreadPoolExecutor(1) as watcher:
        watcher.submit(_watch, gomp, ended)
        try:
            yield
        finally:
            ended.set()


def _watch(gomp: Any, ended: Event) -> None:
    queued_sec, calm_looks = _queued_sec(), CALM_LOOKS
    with ExitStack() as team:
        while not ended.wait(LOOK_EVERY_SEC):
            before, queued_sec = queued_sec, _queued_sec()
            if queued_sec - before < BUSY_SHARE * LOOK_EVERY_SEC:
                calm_looks += 1
                if calm_looks == CALM_LOOKS:
                    team.close()
            else:
                if calm_looks >= CALM_LOOKS:
                    team.enter_context(_idle_team(gomp))
                calm_looks = 0


@contextmanager
def _idle_team(gomp: Any) -> Iterator[None]:
    """As many further threads as there are cores; they end with the thread that they belong to."""
    with ThreadPoolExecutor(1) as first:
        no_work = gomp.omp_get_num_threads
        first.submit(gomp.GOMP_parallel, no_work, None, gomp.omp_get_num_procs(), 0).result()
        yield


def _queued_sec() -> float:
    """How long threads of this process have waited for a core so far, in sum."""
    total = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError):  # the thread has ended
            total += int(path.read_text().split()[1])
    return total / 1e9


def _libgomp() -> Any:
    """The library of OpenMP that PyTorch has loaded; None where it is another one."""
    with suppress(OSError):
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
        return next((ctypes.CDLL(line.split(maxsplit=5)[5]) for line in lines if "/libgomp" in line), None)
    return None
