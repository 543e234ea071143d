"""A CUDA graph that is not one: the operations of a function, recorded once and done again on the same memory.

As with a CUDA graph, Python runs only while it is recorded; nothing may be read back; a replay reads and writes the
tensors that were there, and draws new random numbers. Recording itself leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from groundnlq.engine.graphs import Capture

READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "item", "unique"}


class ReadsBack(RuntimeError):
    """An operation that would wait for the GPU while a graph is recorded."""


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if name in READS or (name.startswith("index") and any(x.dtype == torch.bool for x in given[1:])):
            raise ReadsBack(name)
        found = func(*args, **kwargs)
        self.operations.append((func, *(_plain(x) for x in (args, kwargs, found))))
        return found


def _plain(tree: Any) -> Any:
    """The same memory without autograd."""
    return tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, tree)


def recording(changed: Callable[[], Iterable[Tensor]]) -> Capture:
    """What `StepGraphs` takes for `capture`; `changed` gives the tensors that recording has to leave as they were."""

    def capture(act: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        before, random = [(x, x.clone()) for x in changed()], torch.get_rng_state()
        with _Recorder() as recorder:
            result = act()
        torch.set_rng_state(random)
        for tensor, value in before:
            tensor.detach().copy_(value)
        result.fill_(torch.nan)  # a graph has computed nothing yet

        @torch.no_grad()
        def replay() -> None:
            for func, args, kwargs, found in recorder.operations:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(found), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)

        return replay, result

    return capture
