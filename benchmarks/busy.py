"""Speed beside other programs: steps a second of the sample's preset, alone and beside a busy process.

    python benchmarks/busy.py
    python benchmarks/busy.py --first kit 300000 10000 1000 0 1x    # as root, on a machine that others use

``kit`` waits at OpenMP's barriers as the kit does; a number is how often a thread of libgomp looks before it sleeps
(GOMP_SPINCOUNT; 300,000 is libgomp's own), whatever the load; ``1x`` is one thread. There is a process for each, in a
session of its own, as is the busy one. They take turns; the ratio to the first is taken in every round.

With ``--first`` other programs hardly run within a measurement: alone, it has real-time priority for half a second;
beside the busy process, both of them have the highest priority of sessions.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PREDICTED_STEPS = 900


def training(folder: Path) -> Iterator[None]:
    """One step after the other of the sample's preset, as `groundnlq train` makes them."""
    from groundnlq.config import load_config
    from groundnlq.engine import grounding
    from groundnlq.engine.distributed import World
    from groundnlq.engine.reporter import Reporter
    from groundnlq.engine.run_dir import RunDirectory
    from groundnlq.engine.trainer import Trainer

    config = load_config("sample_scratch", [f"data.folder={folder}"])
    world, run = World(), RunDirectory(tempfile.mkdtemp(dir=folder))
    trainer = Trainer(grounding.task(config, world), config, run, world, Reporter())
    for epoch in count():
        for micro_batches, _ in trainer.batches_of(epoch):
            trainer.train_step(micro_batches)
            yield


def prediction(folder: Path) -> Iterator[None]:
    """One query after the other over a clip of 900 steps with the champion, in bfloat16."""
    import torch
    from timing import champion, make_batch

    model, batch = champion().eval(), make_batch(PREDICTED_STEPS, 1)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        while True:
            model(batch)
            yield


def work(steps: Iterator[None]) -> None:
    """Work for as many seconds as each line of the input says; print the steps a second."""
    from groundnlq.engine.processor import memory_kept, short_waits_when_busy

    with memory_kept(), short_waits_when_busy():
        for line in sys.stdin:
            began = time.perf_counter()
            for number in count(1):
                next(steps)
                if (took := time.perf_counter() - began) > float(line):
                    print(number / took, flush=True)
                    break


class Child:
    """A process that works when it is asked to, and waits at barriers in its own way."""

    def __init__(self, way: str, kind: str, folder: str):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        if way.endswith("x"):
            environment["OMP_NUM_THREADS"] = way[:-1]
        elif way != "kit":
            environment["GOMP_SPINCOUNT"] = way
        command, pipe = [sys.executable, __file__, "--work", kind, "--child", folder], subprocess.PIPE
        options = {"text": True, "bufsize": 1, "stdin": pipe, "stdout": pipe, "start_new_session": True}
        self.process = subprocess.Popen(command, env=environment, **options)

    def steps_per_second(self, seconds: float) -> float:
        self.process.stdin.write(f"{seconds}\n")
        return float(self.process.stdout.readline())


@contextmanager
def real_time(pid: int) -> Iterator[None]:
    for policy, priority in ((os.SCHED_FIFO, 1), (os.SCHED_OTHER, 0)):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(ProcessLookupError):  # it has ended
                os.sched_setscheduler(int(thread), policy, os.sched_param(priority))
        if policy == os.SCHED_FIFO:
            yield


@contextmanager
def first_sessions(*pids: int) -> Iterator[None]:
    for nice in (-20, 0):
        for pid in pids:
            Path(f"/proc/{pid}/autogroup").write_text(str(nice))
        if nice:
            yield


@contextmanager
def running(process: subprocess.Popen) -> Iterator[None]:
    process.send_signal(signal.SIGCONT)
    try:
        yield
    finally:
        process.send_signal(signal.SIGSTOP)


def measure(children: Sequence[Child], busy: subprocess.Popen, is_first: bool, rounds: int) -> dict[str, list]:
    """(rounds, children) steps a second, alone and beside the busy process."""
    found: dict[str, list[list[float]]] = {"alone": [], "beside": []}
    for place, rows in found.items():
        time.sleep(12)  # until the kit takes the machine for calm again
        for _ in range(rounds):
            rows.append([])
            for child in children:
                pid = child.process.pid
                with ExitStack() as held:
                    if place == "beside":
                        held.enter_context(running(busy))
                    if is_first and place == "beside":
                        held.enter_context(first_sessions(pid, busy.pid))
                    elif is_first:
                        held.enter_context(real_time(pid))
                    # the kit looks once a second how busy the machine is
                    rows[-1].append(child.steps_per_second(4.0 if place == "beside" else 0.5 if is_first else 2.0))
                time.sleep(0.3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("ways", nargs="*", default=["300000", "kit"])
    parser.add_argument("--work", choices=("train", "predict"), default="train")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--first", action="store_true", help="ahead of all other programs; needs root")
    parser.add_argument("--child", type=Path)
    chosen = parser.parse_args()
    if chosen.child:
        return work({"train": training, "predict": prediction}[chosen.work](chosen.child))
    from groundnlq.sample.make import make_sample, prepare_sample

    with tempfile.TemporaryDirectory() as folder, ExitStack() as held:
        make_sample(folder, scale="tiny", progress=False)
        prepare_sample(folder, progress=False)
        children = [Child(way, chosen.work, folder) for way in chosen.ways]
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
        busy.send_signal(signal.SIGSTOP)
        for process in (busy, *(child.process for child in children)):
            held.callback(process.kill)
        for child in children:
            child.steps_per_second(1.0)
        found = measure(children, busy, chosen.first, chosen.rounds)
    print(f"{chosen.work}, {os.cpu_count()} cores, one busy process, load {os.getloadavg()[0]:.1f}")
    for number, way in enumerate(chosen.ways):
        line = f"{way:>8}:"
        for place, rows in found.items():
            ratio = statistics.median(row[number] / row[0] for row in rows)
            line += (
                f" {place} {statistics.median(row[number] for row in rows):5.2f} a second, {ratio:5.2f} x the first;"
            )
        print(line)


if __name__ == "__main__":
    main()
