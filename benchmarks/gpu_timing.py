"""Times on a device: wall time of a call, time of its kernels, operations."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

ANNOTATIONS = ("Optimizer.", "autograd::", "aten::", "Distributed")  # not kernels, but spans around them
PRODUCTS = ("gemm", "xmma", "cutlass", "nvjet", "wgrad", "dgrad", "fprop")  # in the names of their kernels


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(act: Callable[[], Any], device: torch.device, rounds: int = 10, warmup: int = 3) -> float:
    """Median wall time of a call until the device has done all its work."""
    for _ in range(warmup):
        act()
    times = []
    for _ in range(rounds):
        synchronize(device)
        began = time.perf_counter()
        act()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def first_use(device: torch.device) -> dict[str, float]:
    """Seconds of a product and a convolution, the first and the second time: what the libraries' start costs."""
    found = {}
    x, weight = torch.ones(64, 64, 64, device=device), torch.ones(64, 64, 3, device=device)
    for turn in ("first", "second"):
        for name, act in (("product", lambda: x @ x), ("convolution", lambda: torch.conv1d(x, weight))):
            began = time.perf_counter()
            act().sum().item()
            found[f"{turn} {name}"] = time.perf_counter() - began
    return found


def peak_gib(act: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """What a call returns, and the most memory of the device meanwhile (0 on a CPU)."""
    if device.type != "cuda":
        return act(), 0.0
    torch.cuda.reset_peak_memory_stats(device)
    return act(), torch.cuda.max_memory_allocated(device) / 2**30


def kernel_times(act: Callable[[], Any], device: torch.device, rounds: int = 2) -> dict[str, Any]:
    """Kernel time, number of launches and the ten longest kernels of one call; nothing on a CPU."""
    if device.type != "cuda":
        return {}
    act()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True) as profile:
        for _ in range(rounds):
            act()
        torch.cuda.synchronize(device)
    rows = [
        (row.key, row.self_device_time_total / 1e3 / rounds, row.count // rounds)
        for row in profile.key_averages()
        if row.self_device_time_total > 0 and not row.key.startswith(ANNOTATIONS)
    ]
    rows.sort(key=lambda row: -row[1])
    return {
        "kernels_ms": sum(ms for _, ms, _ in rows),
        "copies_ms": sum(ms for name, ms, _ in rows if name.startswith("Mem")),
        "products_ms": sum(ms for name, ms, _ in rows if any(word in name.lower() for word in PRODUCTS)),
        "launches": sum(count for _, _, count in rows),
        "longest": [f"{ms:.3f} ms ({count} x) {name[:90]}" for name, ms, count in rows[:10]],
    }


def brief_kernels(act: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    """Kernel time and launches of one call."""
    found = kernel_times(act, device, 1)
    return {key: found[key] for key in ("kernels_ms", "launches") if key in found}


def count_tflop(act: Callable[[], Any]) -> float:
    """Operations of all products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        act()
    return counter.get_total_flops() / 1e12


def rates(taken_ms: float, kernels: dict[str, Any], tflop: float, peak: float) -> dict[str, Any]:
    """Rates of a call, and how its wall time compares with its kernels' time."""
    found: dict[str, Any] = {"wall ms": taken_ms, "TFLOP": tflop, "TFLOP/s": tflop / taken_ms * 1e3}
    found["share of the peak"] = found["TFLOP/s"] / peak if peak else 0.0
    if kernels:
        found |= {key: value for key, value in kernels.items() if key != "longest"}
        found["wall / kernels"] = taken_ms / kernels["kernels_ms"]
        found["TFLOP/s within products"] = tflop / max(1e-9, kernels["products_ms"]) * 1e3
    return found


def longest(kernels: dict[str, Any]) -> dict[str, str]:
    """The longest kernels as rows of a table."""
    return {f"kernel {i}": text for i, text in enumerate(kernels.get("longest", []), 1)}
