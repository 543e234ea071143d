"""Predict, evaluate and resume in a loop: memory and file handles stay flat, results stay the same.

Half a minute by default; ``SOAK_SECONDS=3600 pytest -m soak -s`` is the hour.
"""

import gc
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from groundnlq.cli import main
from groundnlq.config import load_config
from groundnlq.engine import launch as engine
from groundnlq.engine.trainer import Trainer
from groundnlq.errors import Preempted
from groundnlq.files import sha256_of
from tests.bad_input_makers import make_world

SECONDS = float(os.environ.get("SOAK_SECONDS", "30"))
WARM_UP_ROUNDS = 4  # caches of the libraries fill
PREDICT = "predict whole --records val.jsonl --features features.h5 --text text.h5 --output p.json"
LOST_KB = 16 * 1024  # less than one more network, or one more world, would hold


class StopsAfterTwoSteps(Trainer):
    def _after_step(self, stop):
        stop.signal_number = signal.SIGTERM if self.step == 2 else 0
        super()._after_step(stop)


@pytest.fixture
def runs(tmp_path, monkeypatch, capsys):
    """A finished run `whole`, and `half`, the same one stopped behind its second step."""
    make_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "run.yaml", "--run", "whole"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(engine, "Trainer", StopsAfterTwoSteps)
        with pytest.raises(Preempted):
            engine.train(load_config("run.yaml"), "half")
    return tmp_path


def one_round() -> dict[str, str]:
    """Resume, predict, evaluate; hashes of what came out."""
    shutil.copytree("half", "resumed")
    assert main(["train", "run.yaml", "--run", "resumed"]) == 0
    assert main(PREDICT.split()) == 0
    assert main(["evaluate", "p.json", "nlq.json", "--output", "m.json"]) == 0
    hashes = {name: sha256_of(name) for name in ("resumed/last.pt", "resumed/best.pt", "p.json", "m.json")}
    shutil.rmtree("resumed")
    return hashes


def resident_kb() -> int:
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS")))


@pytest.mark.soak
def test_an_endless_loop_loses_nothing_and_changes_nothing(runs, capsys):
    began, rounds, memory, handles, threads, seen = time.monotonic(), 0, [], [], [], set()
    while rounds < 2 * WARM_UP_ROUNDS or time.monotonic() < began + SECONDS:
        hashes = one_round()
        seen.add(tuple(sorted(hashes.items())))
        rounds += 1
        if rounds >= WARM_UP_ROUNDS:
            memory.append(resident_kb())
            handles.append(len(os.listdir("/proc/self/fd")))
            threads.append(threading.active_count())
        capsys.readouterr()
    with capsys.disabled():
        print(
            f"\n{rounds} rounds in {time.monotonic() - began:.0f} s, resident {memory[0] // 1024} -> "
            f"{memory[-1] // 1024} MB (at most {max(memory) // 1024}), "
            f"file handles {handles[0]} -> {handles[-1]}, threads {threads[0]} -> {threads[-1]}"
        )
    assert len(seen) == 1
    assert max(handles) - min(handles) <= 1
    assert max(threads) == min(threads)
    assert max(memory[len(memory) // 2 :]) < memory[0] + LOST_KB
