"""Which way, for whole steps and predictions: launches, graphs, clips at once, memory, compiler."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any
from unittest.mock import patch

import gpu_site  # noqa: F401  (first: the import path)
import torch
from gpu_report import caught
from gpu_setting import CHAMPION, Setting
from gpu_timing import brief_kernels, milliseconds, peak_gib
from gpu_variants import (
    convolutions_tried,
    depthwise_shifted,
    halving_by_maximum,
    results_kept,
    window_by_flash,
    window_dense,
    window_replaced,
)
from timing import QUERIES_PER_CLIP
from torch import Tensor

from groundnlq.data.dataset import Batch
from groundnlq.engine import predictor
from groundnlq.model.decode import soft_nms, to_segments

Change = Callable[[], AbstractContextManager[Any]]
DECODE = CHAMPION.decode


def check_steps(setting: Setting) -> None:
    """All comparisons; the compiler comes last, since it takes longest."""
    report = setting.report
    for size in (2,) if setting.is_quick else (2, 4, 32):
        report.check(f"step of {size}, bfloat16, the kit's", lambda s=size: graphed_by_the_kit(setting, s), 5)
        report.check(f"graph of all of a step of {size}, bfloat16", lambda s=size: graphed(setting, s), 5)
    report.check("graph of a prediction, bfloat16", lambda: graphed_prediction(setting), 5)
    report.check("clips at once, prediction", lambda: clips_at_once(setting), 8)
    report.check("optimizer and average", lambda: optimizers(setting), 2)
    report.check("one change, step of 4, bfloat16", lambda: changes(setting, 4), 20)
    if setting.device.type == "cuda":
        report.check("one change, step of 32, bfloat16", lambda: changes(setting, 32), 20)
        report.check("compiled step of 4", lambda: graphed(setting, 4, is_compiled=True), 40)
        report.check("compiled prediction", lambda: graphed_prediction(setting, is_compiled=True), 30)


# ---- a part replaced


def flash() -> AbstractContextManager[None]:
    return window_replaced(window_by_flash)


def variants(device: torch.device) -> dict[str, Change]:
    """Changes of the package by name, as contexts."""
    found: dict[str, Change] = {
        "as it is": nullcontext,
        "LayerNorm and GELU kept": results_kept,
        "depthwise by shifts": depthwise_shifted,
        "halving by maximum": halving_by_maximum,
        "dense window attention": lambda: window_replaced(window_dense),
        "cuDNN benchmark": convolutions_tried,
    }
    return found | ({"flash window attention": flash} if device.type == "cuda" else {})


def changes(setting: Setting, size: int) -> dict[str, Any]:
    """Milliseconds and memory of the trainer's step in bfloat16 with one part replaced, and with all that help."""
    found, batch, every = {}, setting.given(size), variants(setting.device)
    for name, change in every.items():
        try:
            found[name] = _measured(setting, batch, [change])
        except Exception as error:
            found[name] = caught(error)
    base = found["as it is"]["ms"]
    faster = [name for name, row in found.items() if row.get("ms", base) < 0.99 * base]
    if "flash window attention" in faster:
        faster = [name for name in faster if name != "dense window attention"]
    found["all that are faster"] = _measured(setting, batch, [every[name] for name in faster])
    return found


def _measured(setting: Setting, batch: Batch, contexts: list[Change]) -> dict[str, float]:
    device, learner = setting.device, setting.learner("bfloat16")

    def once() -> float:
        return learner.step([batch], 1e-6, 0)[0]["loss total"]

    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context())
        taken, gib = peak_gib(lambda: milliseconds(once, device, max(2, setting.rounds // 2), 2), device)
        kernels = brief_kernels(once, device)
        return {"ms": taken, "GiB": gib, "loss": once(), **kernels}


def optimizers(setting: Setting) -> dict[str, float]:
    """Milliseconds of AdamW's step over all parameters by implementation, and of the average's update."""
    learner, found, device = setting.learner(), {}, setting.device
    model, kit = learner.model, learner.optimizer
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    ways = {"fused": {"fused": True}, "foreach": {"foreach": True}, "one by one": {"foreach": False}}
    if device.type == "cuda":
        ways["fused, capturable"] = {"fused": True, "capturable": True}
    for name, options in ways.items():
        optimizer = torch.optim.AdamW(_groups(kit), lr=1e-9, **options)
        found[name] = milliseconds(optimizer.step, device, 5, 2)
    found["average"] = milliseconds(learner.average, device, 5, 2)
    return found | {"the kit's": milliseconds(kit.step, device, 5, 2)}


def _groups(kit: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [{key: group[key] for key in ("params", "weight_decay")} for group in kit.param_groups]


# ---- graphs


class StaticStep:
    """A step of the kit's that reads nothing back, so that one graph can hold all of it, optimizer and average, too."""

    def __init__(self, setting: Setting, size: int, is_compiled: bool):
        self.device, self.kit = setting.device, setting.learner("bfloat16")
        self.batch, self.model = setting.batch(size).to(self.device), self.kit.model.train()
        capturable = self.device.type == "cuda"
        groups = _groups(self.kit.optimizer)
        self.optimizer = torch.optim.AdamW(groups, lr=1e-6, fused=True, capturable=capturable)
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16):
            self.model(self.batch)  # tables of points are made before the compiler looks
        if is_compiled:
            self.kit.network = torch.compile(self.model, dynamic=False)

    def __call__(self) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        sums = self.kit._backward(self.batch)
        self.kit._divide_and_clip(self.kit._divisor(sums[-1], 1))
        self.optimizer.step()
        self.kit.average()
        return sums


class StaticAnswer:
    """Network and soft-NMS for clips of one length, without reading anything back."""

    def __init__(self, setting: Setting, clips: int, is_compiled: bool):
        model = setting.predictor("bfloat16").model
        self.model = torch.compile(model, dynamic=False) if is_compiled else model
        batch = setting.batch(QUERIES_PER_CLIP * clips, clips)
        self.batch = batch.to(setting.device, dtype=torch.bfloat16)
        model(self.batch)

    def __call__(self) -> tuple[Tensor, Tensor]:
        outputs = self.model(self.batch)
        scores, segments = outputs.logits.float().sigmoid() * outputs.mask, to_segments(outputs)
        is_long = (segments[..., 1] - segments[..., 0]) > DECODE.min_duration_grid
        return soft_nms(segments, scores * is_long, DECODE.top_k, DECODE.sigma, DECODE.min_score)


def captured(act: Callable[[], Any], device: torch.device) -> Callable[[], object]:
    """The call as a CUDA graph; on a CPU the call itself."""
    if device.type != "cuda":
        return act
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            act()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        act()
    return graph.replay


def _launched_and_replayed(setting: Setting, make: Callable[[], Any], changes: list[Change]) -> dict[str, Any]:
    """Milliseconds of a call launched kernel by kernel, and replayed as a graph."""
    device, rounds = setting.device, max(2, setting.rounds // 2)
    with ExitStack() as stack:
        for change in changes:
            stack.enter_context(change())
        try:
            act = make()
            row = {"launched ms": milliseconds(act, device, rounds, 3)} | brief_kernels(act, device)
            return row | {"graph ms": milliseconds(captured(act, device), device, rounds, 2)}
        except Exception as error:
            return caught(error)


def graphed(setting: Setting, size: int, is_compiled: bool = False) -> dict[str, Any]:
    """A step of fixed length on the device: launched, and as a graph."""

    def make() -> StaticStep:
        return StaticStep(setting, size, is_compiled)

    changed = [results_kept, depthwise_shifted] + [flash] * (setting.device.type == "cuda")
    kinds: dict[str, list[Change]] = {"as it is": [], "changed": changed}
    return {name: _launched_and_replayed(setting, make, extra) for name, extra in list(kinds.items())[is_compiled:]}


def graphed_by_the_kit(setting: Setting, size: int) -> dict[str, Any]:
    """`Learner.step` with `train.cuda_graphs` and without, of batches as training gives them."""
    found, batch, device = {}, setting.given(size), setting.device
    for name, is_used in (("launched", False), ("graphs", True)):
        learner = setting.learner("bfloat16", cuda_graphs=is_used)
        act = lambda learner=learner: learner.step([batch], 1e-6, 0)  # noqa: E731
        taken, gib = peak_gib(lambda act=act: milliseconds(act, device, setting.rounds, 3), device)
        found[name] = {"ms": taken, "GiB": gib, **brief_kernels(act, device)}
    return found | {"ratio": found["launched"]["ms"] / found["graphs"]["ms"]}


def graphed_prediction(setting: Setting, is_compiled: bool = False) -> dict[str, Any]:
    """Clips on the device with eleven queries each: launched, and as a graph with its queries a second."""
    found: dict[str, Any] = {}
    changed = [depthwise_shifted] + [flash] * (setting.device.type == "cuda")
    kinds: dict[str, list[Change]] = {"as it is": [], "changed": changed}
    counts = (1, 2) if setting.is_quick else (1, 4, 8)
    for clips in (4,) if is_compiled else counts:
        for name, extra in list(kinds.items())[is_compiled:]:
            with torch.no_grad():
                row = _launched_and_replayed(setting, lambda n=clips: StaticAnswer(setting, n, is_compiled), extra)
            if "graph ms" in row:
                row["queries/s"] = 1e3 * QUERIES_PER_CLIP * clips / row["graph ms"]
            found[f"{clips} clips, {name}"] = row
    return found


def clips_at_once(setting: Setting) -> dict[str, Any]:
    """Queries a second of the kit's `answer`, several clips of 900 steps with eleven queries each."""
    found = {}
    for precision in ("float32", "bfloat16"):
        kit = setting.predictor(precision)
        for clips in (1, 2) if setting.is_quick else (1, 2, 4, 8):
            batch = setting.batch(QUERIES_PER_CLIP * clips, clips)
            with patch.object(predictor, "BYTES_AT_ONCE", (2**30, 2**30)):
                taken = milliseconds(lambda b=batch, k=kit: k.answer(b), setting.device, 3, 1)
            found[f"{precision}, {clips}"] = {"ms": taken, "queries/s": 1e3 * QUERIES_PER_CLIP * clips / taken}
    return found
