"""Reads the next batch while the network computes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

Order = TypeVar("Order")
Item = TypeVar("Item")


def read_ahead(orders: Iterable[Order], read: Callable[[Order], Item]) -> Iterator[tuple[Item, float]]:
    """What `read` makes of each order and the seconds waited for it; the next is read while one is in use.

    >>> [item for item, waited in read_ahead([1, 2, 3], lambda order: 10 * order)]
    [10, 20, 30]
    """
    orders, threads = iter(orders), torch.get_num_threads()
    with ThreadPoolExecutor(1) as reader:
        # OpenMP would give the reader threads of its own, whose idle ones spin where the network computes
        reader.submit(_use_one_thread).result()
        torch.set_num_threads(threads)  # that also set what other threads begin with
        pending = [reader.submit(read, order) for order in islice(orders, 1)]
        while pending:
            began = time.perf_counter()
            item = pending.pop().result()
            waited = time.perf_counter() - began
            pending = [reader.submit(read, order) for order in islice(orders, 1)]
            yield item, waited


def _use_one_thread() -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # a thread takes up its number when it first asks for it
