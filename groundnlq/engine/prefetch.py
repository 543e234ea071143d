"""Batches that threads read ahead while the network computes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from threading import Barrier
from typing import TypeVar

import torch

Item = TypeVar("Item")
Value = TypeVar("Value")


def read_ahead(
    read: Callable[[Item], Value], items: Iterable[Item], device: torch.device
) -> Iterator[tuple[Value, float]]:
    """`read` of every item, in order, and the seconds waited for it; one thread reads ahead, two for a GPU."""
    left, num_readers, threads = iter(items), 2 if device.type == "cuda" else 1, torch.get_num_threads()
    begun = Barrier(num_readers)
    with ThreadPoolExecutor(num_readers) as readers:
        for is_ready in [readers.submit(_begin, begun, device) for _ in range(num_readers)]:
            is_ready.result()
        torch.set_num_threads(threads)  # what a reader sets is also what other threads begin with
        pending = deque(readers.submit(read, item) for item in islice(left, num_readers))
        while pending:
            began = time.perf_counter()
            value = pending.popleft().result()
            waited = time.perf_counter() - began
            pending.extend(readers.submit(read, item) for item in islice(left, 1))
            yield value, waited


def _begin(begun: Barrier, device: torch.device) -> None:
    # OpenMP would give a reader threads of its own, whose idle ones spin where the network computes
    torch.set_num_threads(1)
    torch.get_num_threads()  # a thread takes up its number when it first asks for it
    if device.type == "cuda":
        torch.cuda.set_device(device)  # a thread begins with the first GPU, where pinning would take memory
    begun.wait()
