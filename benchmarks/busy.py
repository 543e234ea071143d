"""A machine that is shared: speed alone and beside a busy process, for several ways to wait at OpenMP's barriers.

    python benchmarks/busy.py
    python benchmarks/busy.py --work predict 300000 10000 1000 0

Each number is how often a thread of libgomp looks before it sleeps (GOMP_SPINCOUNT; 300,000 is libgomp's own, "kit"
what the kit sets). For each number there is a process that trains the sample's preset, or predicts with the champion in
bfloat16. They take turns, alone and beside a process that does nothing but compute, each time when the machine is calm.
Windows in which yet other programs took more than a tenth of a core are taken again; ratios are those of a round.
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
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OWN = "300000"  # libgomp's
TICKS = os.sysconf("SC_CLK_TCK")


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
    """One query after the other over a clip of 900 steps, in bfloat16."""
    import groundnlq  # noqa: F401 -- sets what is measured, before torch
    import torch
    from timing import champion, make_batch

    model, batch = champion().eval(), make_batch(900, 1)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        while True:
            model(batch)
            yield


def work(steps: Iterator[None]) -> None:
    """Work for as many seconds as each line of the input says; print the steps a second."""
    from groundnlq.engine.malloc import memory_kept

    with memory_kept():
        for line in sys.stdin:
            began = time.perf_counter()
            for number in count(1):
                next(steps)
                if (took := time.perf_counter() - began) > float(line):
                    break
            print(number / took, flush=True)


class Child:
    """A process that works when it is asked to, and waits in its own way."""

    def __init__(self, spins: str, chosen: argparse.Namespace, folder: str):
        command = [sys.executable, __file__, "--work", chosen.work, "--child", folder]
        spins, _, threads = spins.partition("x")
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | ({"OMP_NUM_THREADS": threads} if threads else {})
        environment |= {} if spins == "kit" else {"GOMP_SPINCOUNT": spins}
        self.process = subprocess.Popen(
            command, env=environment, text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def steps_per_second(self, seconds: float) -> float:
        self.process.stdin.write(f"{seconds}\n")
        return float(self.process.stdout.readline())


def calmly(call: Callable[[], float], own: list[int], cores: float) -> float:
    """What a call gives while programs other than `own` use fewer cores than that."""
    while True:
        for act in (lambda: time.sleep(0.3), call):
            began, before = time.perf_counter(), _ticks_of_others(own)
            value = act()
            if (_ticks_of_others(own) - before) / TICKS > cores * (time.perf_counter() - began):
                break
        else:
            return value


def _ticks_of_others(own: list[int]) -> int:
    user, nice, system, _idle, _wait, *interrupts = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    ours = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13] for pid in own)
    return user + nice + system + sum(interrupts) - sum(int(ticks) for both in ours for ticks in both)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("spins", nargs="*", default=[OWN, "kit"])
    parser.add_argument("--work", choices=("train", "predict"), default="train")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--busy", type=int, default=1, help="busy processes")
    parser.add_argument("--calm", type=float, default=0.1, help="cores that other programs may take")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--child", type=Path)
    chosen = parser.parse_args()
    if chosen.child:
        return work({"train": training, "predict": prediction}[chosen.work](chosen.child))
    from groundnlq.sample.make import make_sample, prepare_sample

    with tempfile.TemporaryDirectory() as folder, ExitStack() as held:
        make_sample(folder, scale="tiny", progress=False)
        prepare_sample(folder, progress=False)
        children = {spins: Child(spins, chosen, folder) for spins in chosen.spins}
        busy = [
            subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
            for _ in range(chosen.busy)
        ]
        every = [*busy, *(child.process for child in children.values())]
        for process in every:
            held.callback(process.kill)
        compare(children, busy, [process.pid for process in every], chosen)


def compare(
    children: dict[str, Child], busy: list[subprocess.Popen], own: list[int], chosen: argparse.Namespace
) -> None:
    found: dict[tuple[str, str], list[float]] = {(s, place): [] for s in children for place in ("alone", "beside")}
    print(f"{os.cpu_count()} cores, {chosen.busy} busy, {chosen.work}, {chosen.rounds} rounds", flush=True)
    for child in children.values():
        child.steps_per_second(1.0)
    for number in range(1, chosen.rounds + 1):
        for (spins, place), values in found.items():
            for process in busy:
                process.send_signal(signal.SIGSTOP)

            def call(child=children[spins], place=place):
                for process in busy if place == "beside" else ():
                    process.send_signal(signal.SIGCONT)
                try:
                    return child.steps_per_second(chosen.seconds)
                finally:
                    for process in busy:
                        process.send_signal(signal.SIGSTOP)

            values.append(calmly(call, own, chosen.calm))
            print(number, spins, place, round(values[-1], 2), file=sys.stderr, flush=True)
        if number == chosen.rounds or chosen.verbose:
            report(found, children)


def report(found, children):
    first = next(iter(children))
    for spins in children:
        line = f"{spins:>8}:"
        for place in ("alone", "beside"):
            values, base = found[spins, place], found[first, place]
            ratios = [a / b for a, b in zip(values, base, strict=True)]
            line += f" {place} {statistics.median(values):5.2f}, {statistics.median(ratios):4.2f} of the first;"
        kept = [b / a for a, b in zip(found[spins, "alone"], found[spins, "beside"], strict=True)]
        print(f"{line} beside / alone {statistics.median(kept):.2f}", flush=True)


if __name__ == "__main__":
    main()
