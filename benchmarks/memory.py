"""Peak memory of prediction and of a training step, each in a process of its own, against the stand-in.

    python benchmarks/memory.py

Prediction: a clip of 900 steps with its eleven queries, or the published sixteen queries at once. "Beyond the
model" leaves out what Python, PyTorch and the weights take before the first batch.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys

import torch
from standin import StandIn
from timing import QUERIES_PER_CLIP, champion, make_batch
from training import our_step, published_step

from groundnlq.config import RunConfig
from groundnlq.engine.predictor import Predictor
from groundnlq.engine.processor import memory_kept

CASES = {
    "prediction": ["published 1", "published 16", "float32 11", "bfloat16 11"],
    "training": ["published 4", "float32 4", "bfloat16 4"],
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", nargs=3)
    chosen = parser.parse_args()
    if chosen.case:
        work, who, size = chosen.case
        with memory_kept():
            before, after = measure(work, who, int(size))
        print(before, after)
        return
    for work, cases in CASES.items():
        for case in cases:
            command = [sys.executable, __file__, "--case", work, *case.split()]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            before, after = map(int, out.split())
            print(f"{work:11s}{case:14s} {after:6d} MB peak, {after - before:6d} MB beyond the model", flush=True)


def measure(work: str, who: str, size: int) -> tuple[int, int]:
    torch.set_num_threads(1)
    if work == "training":
        model, batch = champion().train(), make_batch(900, size, size)
        before = peak_mb()
        step = published_step(StandIn(model), batch) if who == "published" else our_step(model, batch, who)
        step()
        step()
        return before, peak_mb()
    model = champion().eval()
    before = peak_mb()
    if who == "published":
        with torch.inference_mode():
            StandIn(model)(make_batch(900, size))
    else:
        predictor = Predictor(model, RunConfig(name="champion"), who)
        del model  # bfloat16 has a copy of its own
        predictor.answer(make_batch(900, QUERIES_PER_CLIP))
    return before, peak_mb()


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
