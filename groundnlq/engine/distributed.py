"""Several processes that train as one; alone, every call is a no-op."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Value = TypeVar("Value")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """This process among all processes of a run."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The tensor added up over all processes."""
        if self.size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all processes get the same answer."""
        return bool(self.sum(torch.tensor(int(flag), device=self.device)) > 0)

    def gather(self, value: Value) -> list[Value]:
        """The value of every process, in order of rank, on every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Value) -> Value:
        """The main process's value, on every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over all processes; to be called once per run."""
        if self.size == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids)


def join_world(timeout_sec: float = 300.0) -> World:
    """The world that torchrun's environment describes; a world of one without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    has_cuda = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if has_cuda else torch.device("cpu")
    if has_cuda:
        torch.cuda.set_device(device)
    if size == 1:
        return World(device=device)
    backend = "nccl" if has_cuda else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_sec))
    return World(dist.get_rank(), dist.get_world_size(), device)


def leave_world(world: World) -> None:
    """Take leave of the other processes."""
    if world.size > 1 and dist.is_initialized():
        dist.destroy_process_group()
