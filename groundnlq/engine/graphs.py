"""CUDA graphs of a training step: all its kernels are launched by one call.

A step of few clips has thousands of short kernels, and a GPU waits for their launches most of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

MOST_GRAPHS = 32
Act = Callable[[], Tensor]


class StepGraphs:
    """A function of a batch, captured once for each shape of batch and then replayed.

    It may read and change tensors that stay where they are (weights, gradients, the batch) and draw random numbers
    from the default generator, which `torch.manual_seed` sets for a replay, too; it may read nothing back. Its result
    lasts until the next call. The first batch of a shape is computed as usual, which makes all tables and chooses the
    kernels. After `MOST_GRAPHS` shapes, batches of others are computed as usual. All graphs share their memory.

    Args:
        act: forward, loss and backward pass; of a dataclass whose tensors are its input.
        capture: makes a callable that does again what its argument does; a CUDA graph by default.
    """

    def __init__(self, act: Callable[[Any], Tensor], device: torch.device, capture: Callable[[Act], Act] | None = None):
        self._act, self._device, self._capture = act, device, capture or _cuda_capture()
        self._seen: set[Any] = set()
        self._graphs: dict[Any, tuple[dict[str, Tensor], Act]] = {}

    def __call__(self, batch: Any) -> Tensor:
        tensors = _tensors(batch)
        shapes = tuple((x.shape, x.dtype) for x in tensors.values())
        if shapes not in self._graphs:
            if shapes not in self._seen or len(self._graphs) == MOST_GRAPHS:
                self._seen.add(shapes)
                return self._act(batch)
            fixed = replace(batch, **{name: x.to(self._device, copy=True) for name, x in tensors.items()})
            self._graphs[shapes] = _tensors(fixed), self._capture(partial(self._act, fixed))
        inputs, replay = self._graphs[shapes]
        for name, value in tensors.items():
            inputs[name].copy_(value, non_blocking=True)
        return replay()


def _tensors(batch: Any) -> dict[str, Tensor]:
    return {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}


def _cuda_capture() -> Callable[[Act], Act]:
    pool = torch.cuda.graph_pool_handle()

    def capture(act: Act) -> Act:
        graph = torch.cuda.CUDAGraph()
        # other threads pin memory meanwhile, which only this mode allows them
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            result = act()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay

    return capture
