"""CUDA graphs of a training step, whose thousands of short kernels are then launched by one call."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

MOST_GRAPHS = 16
Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], object], Tensor]]


class StepGraphs:
    """A function of a batch, captured once for each shape of batch and then replayed.

    So that shapes are few, the second dimension of every tensor is padded with zeros (see `_few`). The first batch of a
    shape is computed as usual, which makes tables and gradients and chooses the kernels; so are all others after
    `MOST_GRAPHS` shapes. The function may change tensors that stay where they are (gradients) and draw random numbers
    (also for replays, `torch.manual_seed` decides), but read nothing back. Its result lasts until the next call.
    `capture` makes of a call how to do it again and the tensor with its result; a CUDA graph by default.
    """

    def __init__(self, act: Callable[[Any], Tensor], device: torch.device, capture: Capture | None = None):
        self._act, self._device, self._capture = act, device, capture or self._capture_cuda
        self._pool: Any = None
        if capture is None:  # autograd may remember the stream of an earlier step; the default one cannot be captured
            torch.cuda.synchronize(device)
            torch.cuda.set_stream(torch.cuda.Stream(device))
        self._seen: set[Any] = set()
        self._graphs: dict[Any, tuple[Any, Callable[[], object], Tensor]] = {}

    def __call__(self, batch: Any) -> Tensor:
        shapes = tuple(_few(x.shape) for x in batch.tensors().values())
        if is_new := shapes not in self._graphs:
            inputs = {name: x.new_zeros(_few(x.shape), device=self._device) for name, x in batch.tensors().items()}
            fixed = replace(batch, **inputs)
        else:
            fixed, replay, result = self._graphs[shapes]
        for name, value in batch.tensors().items():
            target = getattr(fixed, name).zero_()
            target[tuple(map(slice, value.shape))].copy_(value, non_blocking=True)
        if is_new and (shapes not in self._seen or len(self._graphs) == MOST_GRAPHS):
            self._seen.add(shapes)
            return self._act(fixed)
        if is_new:
            replay, result = self._capture(partial(self._act, fixed))
            self._graphs[shapes] = fixed, replay, result
        replay()
        return result

    def _capture_cuda(self, act: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        # other threads pin memory meanwhile, which only this mode allows them
        with torch.cuda.graph(graph, self._pool, stream, capture_error_mode="thread_local"):
            result = act()
        self._pool = graph.pool()
        return graph.replay, result


def _few(shape: torch.Size) -> tuple[int, ...]:
    """A shape with one of few lengths: 16, 32 ... 240, 256, 288 ... 480, 512, 576 ..."""
    if len(shape) < 2:
        return tuple(shape)
    unit = max(16, 2 ** (shape[1].bit_length() - 4))
    return shape[0], unit * -(-shape[1] // unit), *shape[2:]
