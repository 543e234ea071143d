"""A GPU that is not there: tensors know the device that they would have, operations that mix devices are refused.

Two modes are needed. An operation that reaches PyTorch's dispatcher no longer tells ``arange(n)`` from ``arange(n,
device=x.device)`` (this build has no other device), but the function that was called still has the argument. Below it,
every operation is seen, those of the backward pass, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU, GPU = torch.device("cpu"), torch.device("cuda", 7)  # a number that no machine of the tests has
MOVES = {Tensor.to, Tensor.cpu, Tensor.cuda}
READS = {Tensor.tolist: "tolist", Tensor.numpy: "numpy"}  # that no operator tells of
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique", "bincount")


class WrongDevice(RuntimeError):
    """Tensors of two devices in one operation."""


class FakeGPU:
    """Where each tensor lies, and all that made this process wait for the device, by name."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[StorageWeakRef, torch.device]] = {}  # a weak reference keeps its address taken
        self.waits: list[str] = []
        self.uploads = 0  # tensors that were copied to the GPU
        self.asked: torch.device | None = None  # for what the running function creates

    def place_of(self, tensor: Tensor) -> torch.device:
        return self._places.get(tensor.untyped_storage()._cdata, (None, CPU))[1]

    def put(self, tensor: Tensor, place: torch.device) -> None:
        storage = tensor.untyped_storage()
        self._places[storage._cdata] = StorageWeakRef(storage), place

    def moved(self, tensor: Tensor, place: torch.device, **options: Any) -> Tensor:
        """A copy on a device; the tensor itself if it lies there and keeps its type."""
        if self.place_of(tensor) == GPU and place == CPU:
            self.waits.append("copy to the CPU")
        is_there = place == self.place_of(tensor)
        self.uploads += place == GPU and not is_there
        found = tensor.to(**options, copy=not is_there or options.get("copy", False))
        self.put(found, place)
        return found


class _Functions(TorchFunctionMode):
    """Sees which device was asked for."""

    def __init__(self, gpu: FakeGPU):
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gpu, kwargs = self.gpu, dict(kwargs or {})
        if func == Tensor.device.__get__:
            return gpu.place_of(args[0])
        if func == Tensor.is_cuda.__get__:
            return gpu.place_of(args[0]) == GPU
        if func is Tensor.pin_memory:
            return args[0]
        if func in MOVES:
            return self._move(func, *args, **kwargs)
        if func in READS and gpu.place_of(args[0]) == GPU:
            gpu.waits.append(READS[func])
            if func is Tensor.numpy:
                raise WrongDevice("numpy() of a tensor on the GPU")
        if func is Tensor.__deepcopy__:
            found = func(*args, **kwargs)
            gpu.put(found, gpu.place_of(args[0]))
            return found
        asked = kwargs.pop("device", None)
        gpu.asked = asked and torch.device(asked)
        try:
            return func(*args, **kwargs)
        finally:
            gpu.asked = None

    def _move(self, func: Any, tensor: Tensor, *args: Any, **options: Any) -> Tensor:
        place = {Tensor.cpu: CPU, Tensor.cuda: GPU}.get(func, self.gpu.place_of(tensor))
        for value in (*args, *options.values()):
            if isinstance(value, str | torch.device):
                place = torch.device(value)
            elif isinstance(value, Tensor):
                place, options["dtype"] = self.gpu.place_of(value), value.dtype
            elif isinstance(value, torch.dtype):
                options["dtype"] = value
        kept = {key: options[key] for key in ("dtype", "copy", "memory_format") if options.get(key) is not None}
        return self.gpu.moved(tensor, place, **kept)


class _Operations(TorchDispatchMode):
    """Sees every operation and where its tensors lie."""

    def __init__(self, gpu: FakeGPU):
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gpu, name = self.gpu, func.overloadpacket.__name__
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        places = {gpu.place_of(x) for x in given if x.dim()}  # a number on the CPU may join anything
        if len(places) > 1 and name not in ("copy_", "_to_copy"):
            shapes = ", ".join(f"{gpu.place_of(x).type} {tuple(x.shape)}" for x in given)
            raise WrongDevice(f"{name} of {shapes}")
        place = GPU if any(gpu.place_of(x) == GPU for x in given) else CPU
        if gpu.asked and (not given or name.startswith("new_") or name.endswith("_like")):
            place = gpu.asked
        picks = name.startswith("index") and any(x.dtype == torch.bool for x in given[1:])
        if place == GPU and (name in WAITS or picks):
            gpu.waits.append(name)
        found = func(*args, **(kwargs or {}))
        known = {x.untyped_storage()._cdata for x in given}
        for made in tree_leaves(found):
            if isinstance(made, Tensor) and made.untyped_storage()._cdata not in known:
                gpu.put(made, place)
        return found


@contextmanager
def fake_gpu() -> Iterator[FakeGPU]:
    """Within ``with``, tensors can be put on `GPU`; what is computed is what a CPU computes."""
    from groundnlq.model.heads import _layout
    from groundnlq.model.points import make_points

    gpu = FakeGPU()
    try:
        with _Functions(gpu), _Operations(gpu):
            yield gpu
    finally:
        for cached in (_layout, make_points):  # their tensors are no GPU's
            cached.cache_clear()
