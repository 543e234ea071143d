"""Which way, for single parts: window attention, depthwise convolution, copies to the device, reading."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import gpu_site  # noqa: F401  (first: the import path)
import torch
import torch.nn.functional as F
from gpu_fast import write_split
from gpu_report import caught
from gpu_setting import Setting
from gpu_timing import milliseconds, peak_gib
from gpu_variants import depthwise_by_shifts, window_by_flash, window_by_sdpa, window_by_shifts, window_dense
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from groundnlq.data.dataset import Batch, QueryDataset, clip_batches, read_ahead
from groundnlq.model.attention import attend_window
from groundnlq.model.layers import Conv

HEADS, WINDOW, WIDTH = 4, 9, 384
Ways = dict[str, Callable[..., Tensor]]


def check_ways(setting: Setting) -> None:
    """All comparisons."""
    report = setting.report
    sizes = (2,) if setting.is_quick else (2, 32)
    for size in sizes:
        for dtype in (torch.bfloat16, torch.float32):
            name = f"window attention, {size} clips, {str(dtype).removeprefix('torch.')}"
            report.check(name, lambda s=size, d=dtype: windows(setting, s, d), 6)
    report.check("depthwise convolution, 32 clips, bfloat16", lambda: depthwise(setting), 3)
    report.check("dense convolution 2304 -> 384, 32 clips", lambda: dense(setting), 3)
    report.check("copies of a batch of 32 to the device", lambda: copies(setting), 4)
    if setting.device.type == "cuda":
        compiled: Ways = {
            "blocks of 24, compiled": torch.compile(attend_window, dynamic=False),
            "shifts, compiled": torch.compile(window_by_shifts, dynamic=False),
        }
        for name, way in compiled.items():
            report.check(name, lambda w=way: both_passes(setting, w, 32, torch.bfloat16), 15)
        report.check("flex attention, bfloat16", lambda: flex(setting, 32, torch.bfloat16), 15)
        report.check("shifted depthwise, compiled", lambda: depthwise(setting, is_compiled=True), 10)
    report.check("reading a batch", lambda: reading(setting), 12)


def windows(setting: Setting, size: int, dtype: torch.dtype) -> dict[str, Any]:
    """Milliseconds forward and of both passes by kind, and the difference from blocks of 24."""
    ways: Ways = {
        f"blocks of {block}": lambda *parts, b=block: attend_window(*parts, block=b)
        for block in (24, 8, 16, 32, 56, 120)
    }
    ways |= {f"SDPA on blocks of {b}": lambda *parts, b=b: window_by_sdpa(*parts, block=b) for b in (24, 56, 120)}
    ways |= {"SDPA, dense band": window_dense, "shifts": window_by_shifts}
    if dtype == torch.bfloat16 and setting.device.type == "cuda":
        ways["flash with a window"] = window_by_flash
    found = {}
    for name, way in ways.items():
        try:
            found[name] = both_passes(setting, way, size, dtype)
        except Exception as error:
            found[name] = caught(error)
    return found


def _inputs(setting: Setting, size: int, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    rows, device = setting.num_steps + 12, setting.device
    torch.manual_seed(0)
    tensors = [torch.randn(size, rows, WIDTH, device=device, dtype=dtype) for _ in range(3)]
    mask = torch.arange(rows, device=device) < setting.num_steps
    return tensors, mask.expand(size, -1).contiguous()


def both_passes(setting: Setting, way: Callable[..., Tensor], size: int, dtype: torch.dtype) -> dict[str, float]:
    """Milliseconds without and with gradients, memory, and the largest difference on valid rows."""
    tensors, mask = _inputs(setting, size, dtype)
    rounds, device = setting.rounds, setting.device
    with torch.no_grad():
        exact = attend_window(*(x.float() for x in tensors), mask, HEADS, WINDOW)
        off = (way(*tensors, mask, HEADS, WINDOW).float() - exact)[mask].abs().max()
        forward = milliseconds(lambda: way(*tensors, mask, HEADS, WINDOW), device, rounds)
    learned = [x.requires_grad_() for x in tensors]
    grad = torch.ones_like(tensors[0])

    def train() -> None:
        torch.autograd.grad(way(*learned, mask, HEADS, WINDOW), learned, grad)

    both, gib = peak_gib(lambda: milliseconds(train, device, rounds), device)
    return {"forward ms": forward, "both ms": both, "GiB": gib, "off": float(off)}


def flex(setting: Setting, size: int, dtype: torch.dtype) -> dict[str, Any]:
    """Flex attention, compiled, its block mask made beforehand (and timed)."""
    (_, mask), compiled = _inputs(setting, size, dtype), torch.compile(flex_attention, dynamic=False)
    rows = mask.shape[1]

    def is_seen(b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return ((q - k).abs() <= WINDOW // 2) & (mask[b, k] | (q == k))

    def make() -> Any:
        return create_block_mask(is_seen, size, None, rows, rows, device=setting.device)

    block_mask = make()

    def way(query: Tensor, key: Tensor, value: Tensor, _mask: Tensor, heads: int, _window: int) -> Tensor:
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
        return compiled(q, k, v, block_mask=block_mask).transpose(1, 2).flatten(2)

    made = milliseconds(make, setting.device, 3, 1)
    return both_passes(setting, way, size, dtype) | {"mask ms": made}


def depthwise(setting: Setting, is_compiled: bool = False) -> dict[str, Any]:
    """The kit's (an image, channels last), a plain Conv1d, and three shifted products."""
    device, found = setting.device, {}
    for stride in (1, 2):
        layer = Conv(WIDTH, WIDTH, stride, groups=WIDTH).to(device).bfloat16()
        ways = {
            "the kit's": layer.forward,
            "conv1d": lambda x, m=layer: F.conv1d(
                x.transpose(1, 2), m.weight, None, m.stride, 1, groups=WIDTH
            ).transpose(1, 2),
            "shifts": lambda x, m=layer: depthwise_by_shifts(m, x),
        }
        if is_compiled:
            ways = {"shifts, compiled": torch.compile(ways["shifts"], dynamic=False)}
        for name, way in ways.items():
            found[f"{name}, stride {stride}"] = _passes(setting, way, (32, 912, WIDTH), list(layer.parameters()))
    return found


def _passes(setting: Setting, way: Any, shape: tuple[int, ...], weights: list[Tensor]) -> dict[str, float]:
    if setting.is_quick:
        shape = (2, 64, shape[2])
    x = torch.randn(shape, device=setting.device, dtype=torch.bfloat16, requires_grad=True)
    with torch.no_grad():
        forward = milliseconds(lambda: way(x), setting.device, setting.rounds)
        grad = torch.ones_like(way(x))
    both = milliseconds(lambda: torch.autograd.grad(way(x), [x, *weights], grad), setting.device, setting.rounds)
    return {"forward ms": forward, "both ms": both}


def dense(setting: Setting) -> dict[str, Any]:
    """The first convolution: the kit's, and as three products of shifted rows."""
    layer = Conv(2304, WIDTH).to(setting.device).bfloat16()

    def kit(x: Tensor) -> Tensor:
        return layer(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))

    def products(x: Tensor) -> Tensor:
        padded = F.pad(x, (0, 0, 1, 1))
        return sum(padded[:, i : i + x.shape[1]] @ layer.weight[..., i].T for i in range(3))

    def unfolded(x: Tensor) -> Tensor:
        padded = F.pad(x, (0, 0, 1, 1))
        rows = torch.cat([padded[:, i : i + x.shape[1]] for i in range(3)], dim=-1)
        return rows @ layer.weight.permute(2, 1, 0).flatten(0, 1)

    ways = {"the kit's": kit, "three products": products, "one product of unfolded rows": unfolded}
    weights = list(layer.parameters())
    return {name: _passes(setting, way, (32, 912, 2304), weights) for name, way in ways.items()}


def copies(setting: Setting) -> dict[str, float]:
    """Milliseconds until a batch of 32 clips lies on the device, by where it came from."""
    batch, device = setting.batch(4 if setting.is_quick else 32), setting.device
    given = setting.given(len(batch.query_ids))
    found = {
        "the kit's (on a GPU pinned float16, widened there)": milliseconds(lambda: given.to(device, True), device, 5)
    }
    found["pageable"] = milliseconds(lambda: batch.to(device, True), device, 3, 1)
    half = batch.video.half()
    found["pageable float16, widened there"] = milliseconds(lambda: half.to(device).float(), device, 3, 1)
    if device.type == "cuda":
        began = time.perf_counter()
        pinned, pinned_half = batch.video.pin_memory(), half.pin_memory()
        found["pinning both, once"] = 1e3 * (time.perf_counter() - began)
        found["pinned"] = milliseconds(lambda: pinned.to(device, non_blocking=True), device, 5)
        acts = {"pinned float16, not widened": lambda: pinned_half.to(device, non_blocking=True)}
        acts["into a pinned buffer, then"] = lambda: pinned.copy_(batch.video).to(device, non_blocking=True)
        found |= {name: milliseconds(act, device, 3, 1) for name, act in acts.items()}
    return found | {"megabytes": batch.video.nbytes / 2**20}


class Batches(torch.utils.data.Dataset):
    """Batches of a dataset by number, for worker processes."""

    def __init__(self, dataset: QueryDataset, orders: list[list[int]]):
        self.dataset, self.orders = dataset, orders

    def __len__(self) -> int:
        return len(self.orders)

    def __getitem__(self, i: int) -> Batch:
        return self.dataset.batch(self.orders[i])


def reading(setting: Setting) -> dict[str, Any]:
    """Milliseconds to have a batch of 16 clips, without anything else to do: thread, threads, processes."""
    if not (setting.folder / "split").exists():
        write_split(setting)
    dataset = setting.open_split()
    firsts = [indices[0] for indices in clip_batches(dataset.records)]
    orders = [firsts[i : i + 16] for i in range(0, len(firsts) - 15, 16)] * 3
    read = partial(dataset.batch, for_gpu=setting.device.type == "cuda")
    found: dict[str, Any] = {"the kit's": _each(read_ahead(read, orders, setting.device), len(orders))}
    for threads in (1, 2, 4):
        with ThreadPoolExecutor(threads) as pool:
            found[f"{threads} threads"] = _each(pool.map(read, orders), len(orders))
    number = 1 if setting.is_quick else 4
    for context in ("fork",) if setting.is_quick else ("fork", "spawn"):
        options = {"batch_size": None, "num_workers": number, "multiprocessing_context": context, "timeout": 40}
        loader = torch.utils.data.DataLoader(Batches(dataset, orders), **options)
        began = time.perf_counter()
        first = iter(loader)
        next(first)
        start = time.perf_counter() - began
        taken = _each(first, len(orders) - 1)
        found[f"{number} processes, {context}"] = {"ms": taken, "until the first, s": start}
    return found


def _each(batches: Any, number: int) -> float:
    began = time.perf_counter()
    for _ in batches:
        pass
    return 1e3 * (time.perf_counter() - began) / number
