"""CUDA graphs of a training step, whose thousands of short kernels are then launched by one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

MOST_GRAPHS = 32
Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], object], Tensor]]


class StepGraphs:
    """A function of a batch, captured once for each shape of batch and then replayed.

    It may read and change tensors that stay where they are (weights, gradients, the batch) and draw random numbers
    from the default generator, which `torch.manual_seed` sets for replays, too; it may read nothing back. Its result
    lasts until the next call.

    The first batch of a shape is computed as usual, which makes tables and gradients and chooses the kernels. So are
    all batches of other shapes once there are `MOST_GRAPHS`. All graphs share their memory.

    Args:
        act: forward, loss and backward pass.
        capture: from a call, how to do it again and the tensor that its result is written to; a CUDA graph by default.
    """

    def __init__(self, act: Callable[[Any], Tensor], device: torch.device, capture: Capture | None = None):
        self._act, self._device, self._capture = act, device, capture or _cuda_capture()
        self._seen: set[Any] = set()
        self._graphs: dict[Any, tuple[dict[str, Tensor], Callable[[], object], Tensor]] = {}

    def __call__(self, batch: Any) -> Tensor:
        tensors = batch.tensors()
        shapes = tuple((x.shape, x.dtype) for x in tensors.values())
        if shapes not in self._graphs:
            if shapes not in self._seen or len(self._graphs) == MOST_GRAPHS:
                self._seen.add(shapes)
                return self._act(batch)
            inputs = {name: x.to(self._device, copy=True) for name, x in tensors.items()}
            self._graphs[shapes] = inputs, *self._capture(partial(self._act, replace(batch, **inputs)))
        inputs, replay, result = self._graphs[shapes]
        for name, value in tensors.items():
            inputs[name].copy_(value, non_blocking=True)
        replay()
        return result


def _cuda_capture() -> Capture:
    pool = torch.cuda.graph_pool_handle()

    def capture(act: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        graph = torch.cuda.CUDAGraph()
        # other threads pin memory meanwhile, which only this mode allows them
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            result = act()
        return graph.replay, result

    return capture
