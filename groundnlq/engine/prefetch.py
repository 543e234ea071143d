"""Batches that threads read ahead while the network computes."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from threading import Barrier
from typing import Any

import torch


def read_ahead(read: Callable[[Any], Any], items: Iterable[Any], device: torch.device) -> Iterator[tuple[Any, float]]:
    """`read` of every item, in order, and the seconds waited for it; one thread reads ahead, two for a GPU."""
    left, num_readers, threads = iter(items), 2 if device.type == "cuda" else 1, torch.get_num_threads()
    together = Barrier(num_readers)

    def begin() -> None:
        together.wait()  # each reader does this once
        # OpenMP would give a reader threads of its own, whose idle ones spin where the network computes
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread takes up its number when it first asks for it
        if device.type == "cuda":
            torch.cuda.set_device(device)  # else it would take memory of the first GPU to pin batches

    with ThreadPoolExecutor(num_readers) as readers:
        for begun in [readers.submit(begin) for _ in range(num_readers)]:
            begun.result()
        torch.set_num_threads(threads)  # what a reader sets is also what other threads begin with
        pending = deque(readers.submit(read, item) for item in islice(left, num_readers))
        while pending:
            began = time.perf_counter()
            value = pending.popleft().result()
            waited = time.perf_counter() - began
            pending.extend(readers.submit(read, item) for item in islice(left, 1))
            yield value, waited
