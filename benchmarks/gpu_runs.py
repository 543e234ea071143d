"""Whole runs on this device: resume, a checkpoint across devices, NCCL, a process that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gpu_site
import torch
import torch.distributed as dist
from gpu_report import apart
from gpu_setting import Setting, learner_of
from torch import Tensor, nn

from groundnlq.config import RunConfig
from groundnlq.engine import launch
from groundnlq.engine.distributed import StopRequest, World, die_with_parent
from groundnlq.engine.predictor import Predictor
from groundnlq.engine.reporter import Reporter
from groundnlq.engine.run_dir import read_status
from groundnlq.errors import Preempted
from tests.golden_inputs import golden_batch, golden_model
from tests.tiny_run import make_tiny_data, tiny_config, weights_of

CPU = torch.device("cpu")


def check_runs(setting: Setting) -> None:
    """All checks; the one with processes of its own comes last, since their start takes longest."""
    report, device, folder = setting.report, setting.device, setting.folder
    report.check("collectives with one process", lambda: collectives(device))
    report.check("one step twice, batch 4", lambda: repeated(setting))
    report.check("resume, deterministic kernels", lambda: resume(folder / "strict", device, True))
    if not setting.is_quick:
        report.check("resume, default kernels", lambda: resume(folder / "default", device, False))
    report.check("a run with graphs", lambda: with_graphs(folder / "graphs", device), 5)
    report.check("checkpoint CPU -> device -> CPU", lambda: across(folder / "across", device))
    report.check("torchrun, one process, killed and restarted", lambda: torchrun(folder / "torchrun", device), 10)


class StopAfter(StopRequest):
    """Asks the run to stop, as SIGTERM does, when it has looked for the `number`-th time, behind that step."""

    def __init__(self, number: int):
        self.looks_left = number

    @property
    def signal_number(self) -> int:
        self.looks_left -= 1
        return signal.SIGTERM if self.looks_left == 0 else 0

    @signal_number.setter
    def signal_number(self, number: int) -> None:  # a real signal
        self.looks_left = 1


class ProcessGroup(World):
    """One process that speaks through its process group although it is alone."""

    def _as_two(self) -> World:
        return World(self.rank, 2, self.device, self.store)

    def sum(self, value: Tensor) -> Tensor:
        return self._as_two().sum(value)

    def gather(self, value: Any) -> list[Any]:
        return self._as_two().gather(value)[:1]

    def from_main(self, act: Callable[[], Any]) -> Any:
        return self._as_two().from_main(act)

    def wrap(self, model: nn.Module) -> nn.Module:
        return self._as_two().wrap(model)


def collectives(device: torch.device) -> dict[str, Any]:
    """A process group of one (NCCL on a GPU): sums, gathering, broadcast and DDP give what none gives."""
    batch, backend = golden_batch("tiny"), "nccl" if device.type == "cuda" else "gloo"
    store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True, timeout=timedelta(seconds=30))
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        group, results = ProcessGroup(device=device, store=store), []
        for world in (World(device=device), group):
            learner = learner_of(golden_model("tiny"), device, world)
            values = [learner.step([batch, batch], 1e-3, seed) for seed in range(3)]
            results.append((values, [p.detach().cpu() for p in learner.model.parameters()]))
        spoken = (group.gather({"a": 1}), group.from_main(lambda: "b"))
    finally:
        dist.destroy_process_group()
    off = max(float((a - b).abs().max()) for a, b in zip(results[0][1], results[1][1], strict=True))
    is_right = spoken == ([{"a": 1}], "b") and off < 1e-6
    return {"passed": is_right, "backend": backend, "largest difference of a weight": off}


def train(config: RunConfig, folder: Path, device: torch.device, steps: int = 0) -> Path:
    """Train in this process, or go on, for so many steps (0: to the end); returns the exported weights."""
    hidden = patch("torch.cuda.is_available", return_value=device.type == "cuda")
    stop = patch.object(launch, "StopRequest", lambda: StopAfter(steps))
    try:
        with hidden, stop, suppress(Preempted):
            launch.train(config, folder, reporter=Reporter())
    finally:
        torch.use_deterministic_algorithms(False)
    return folder / "last.pt"


def same(one: Path, other: Path) -> float:
    """Largest difference of a weight of two exported models; 0 is bitwise equality."""
    left, right = weights_of(one), weights_of(other)
    return max(float((left[name].double() - right[name].double()).abs().max()) for name in left)


def resume(home: Path, device: torch.device, deterministic: bool) -> dict[str, Any]:
    """Stopped behind steps 6 and 11 and continued, and run again, against an uninterrupted run."""
    config = tiny_config(make_tiny_data(home), deterministic=deterministic)
    calm = train(config, home / "calm", device)
    off = {"again": same(calm, train(config, home / "again", device))}
    for step in (6, 11):
        train(config, home / f"{step}", device, step)
        is_stopped = read_status(home / f"{step}")["step"] == step
        off[f"stopped at {step}"] = same(calm, train(config, home / f"{step}", device)) if is_stopped else 9.0
    return {"passed": not (deterministic and any(off.values())), "largest difference of a weight": off}


def with_graphs(home: Path, device: torch.device) -> dict[str, Any]:
    """A run with graphs, deterministic kernels: against one without, again, and stopped and continued."""
    config = tiny_config(make_tiny_data(home), deterministic=True, cuda_graphs=True)
    plain = config.model_copy(update={"train": config.train.model_copy(update={"cuda_graphs": False})})
    calm = train(config, home / "calm", device)
    off = {"without": same(calm, train(plain, home / "plain", device))}
    off["again"] = same(calm, train(config, home / "again", device))
    train(config, home / "11", device, 11)
    off["stopped at 11"] = same(calm, train(config, home / "11", device))
    is_right = off["without"] < 0.05 and not off["again"]
    return {"passed": is_right, "largest difference of a weight": off}


def across(home: Path, device: torch.device) -> dict[str, Any]:
    """Six steps on the CPU, six on the device, six on the CPU, beside eighteen on the CPU; then prediction."""
    data, mixed = make_tiny_data(home), home / "mixed"
    config = tiny_config(data)
    calm = train(config, home / "calm", CPU)
    for place, steps in ((CPU, 6), (device, 6), (CPU, 0)):
        train(config, mixed, place, steps)
    ranked = []
    for place in (CPU, device):
        with patch("torch.cuda.is_available", return_value=place.type == "cuda"):
            ranked.append(Predictor.load(mixed).predict(data / "val.jsonl"))
    off = {"weight": same(calm, mixed / "last.pt")}
    off["moment, s"] = max(float(abs(ranked[0][q][:, :2] - ranked[1][q][:, :2]).max()) for q in ranked[0])
    is_finished = read_status(mixed)["state"] == "finished"
    return {"passed": is_finished and off["weight"] < 0.05 and off["moment, s"] < 1e-3, "largest difference": off}


def torchrun(home: Path, device: torch.device) -> dict[str, Any]:
    """The kit's command under torchrun, killed once and started again by it; the end equals a calm run's, bitwise."""
    data, run, log = make_tiny_data(home), home / "run", home / "log.txt"
    options = {"epochs": 12, "validate_every_epochs": 12, "checkpoint_every_steps": 5, "deterministic": True}
    config = tiny_config(data, **options)
    config.save(home / "c.yaml")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    command += ["--max-restarts=1", "-m", "groundnlq", "train", str(home / "c.yaml"), "--run-dir", str(run)]
    with open(log, "wb") as file:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        pipes = {"stdout": file, "stderr": file, "env": environment, "cwd": gpu_site.ROOT}
        ends = partial(die_with_parent, signal.SIGKILL)
        process = subprocess.Popen(command, start_new_session=True, preexec_fn=ends, **pipes)
    try:
        while read_status(run).get("step", 0) <= 5:
            if process.poll() is not None:
                raise RuntimeError(log.read_text(encoding="utf-8")[-1200:])
            time.sleep(0.01)
        os.kill(read_status(run)["pid"], signal.SIGKILL)
        code = process.wait()
    finally:  # also where the time is over
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    status = read_status(run)
    if code or status["state"] != "finished":
        raise RuntimeError(log.read_text(encoding="utf-8")[-1200:])
    off, resumed = same(run / "last.pt", train(config, home / "calm", device)), status["resumed_from_step"]
    return {"passed": off == 0 and resumed > 0, "resumed from step": resumed, "largest difference of a weight": off}


def repeated(setting: Setting) -> dict[str, Any]:
    """Two steps of the same seed from the same weights: are they bitwise equal?"""
    batch, found = setting.batch(4), {}

    def two_steps() -> list[Tensor]:
        learner = setting.learner()
        for seed in (1, 2):
            learner.step([batch], 1e-4, seed)
        return [p.detach().clone() for p in learner.model.parameters()]

    plain = two_steps()
    found["by default"] = all(_equal(plain, two_steps()) for _ in range(2))
    torch.use_deterministic_algorithms(True)  # raises where an operation has no such kernel
    try:
        strict = two_steps()
        found["deterministic"] = _equal(strict, two_steps())
    finally:
        torch.use_deterministic_algorithms(False)
    return {"passed": found["deterministic"], "bitwise": found, "apart": apart(strict, plain)}


def _equal(one: Iterable[Tensor], other: Iterable[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
