"""What an epoch leaves in the log, and how long its steps waited for data."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import torch

LOSS_NAMES = ("classification", "regression", "total")
Order, Item = TypeVar("Order"), TypeVar("Item")


@dataclass
class EpochSums:
    """Sums over the steps of the epoch that is under way; saved, so that its log line survives a stop."""

    losses: list[float] = field(default_factory=lambda: [0.0] * len(LOSS_NAMES))
    grad_norm: float = 0.0
    seconds: float = 0.0
    wait_seconds: float = 0.0
    steps: int = 0

    def add(self, losses: list[float], grad_norm: float) -> None:
        """Count one step."""
        self.losses = [a + b for a, b in zip(self.losses, losses, strict=True)]
        self.grad_norm += grad_norm
        self.steps += 1

    def row(self) -> dict[str, Any]:
        """Means of losses and gradient norm; speed; the share of time in which the network had to wait."""
        steps, seconds = max(1, self.steps), max(1e-9, self.seconds)
        losses = {f"loss {name}": x / steps for name, x in zip(LOSS_NAMES, self.losses, strict=True)}
        return losses | {
            "grad_norm": self.grad_norm / steps,
            "seconds": round(self.seconds, 3),
            "steps_per_second": round(steps / seconds, 3),
            "data_wait_share": round(self.wait_seconds / seconds, 4),
        }


def read_ahead(orders: Iterable[Order], read: Callable[[Order], Item]) -> Iterator[tuple[Item, float]]:
    """What `read` makes of each order and the seconds waited for it; the next is read while one is in use.

    >>> [item for item, waited in read_ahead([1, 2, 3], lambda order: 10 * order)]
    [10, 20, 30]
    """
    orders, threads = iter(orders), torch.get_num_threads()
    with ThreadPoolExecutor(1) as reader:
        # OpenMP would give the reader a team of its own, whose idle threads spin where the network computes
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


def peak_memory_mb(device: torch.device) -> float:
    """The most memory that this process has held: on the GPU if it has one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
