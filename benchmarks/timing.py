"""What the benchmarks share: inputs of Ego4D's sizes, and times whose ratios hold on a busy machine.

What is compared takes turns within one run. The ratio is taken in every round and the median of the rounds
counts: a busy while, which meets both sides of a round, neither helps nor hurts. Beside the wall clock stands
the processor time of all threads. With ``--threads 1`` other programs stretch it far less than the wall
clock; with several it says little, since a thread that waits for the others counts as working.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

from groundnlq.config import ModelConfig
from groundnlq.data.dataset import Batch
from groundnlq.model.grounder import Grounder

# Steps of a clip -> share of clips, as in Ego4D NLQ val: 216 - 1200 s, 80 % of them 480 s, mean 935 steps.
CLIP_STEPS = {900: 0.80, 405: 0.05, 650: 0.05, 1000: 0.05, 2250: 0.05}
QUERIES_PER_CLIP = 11  # 4,552 queries on 415 clips
STEP_SEC = 16.043 / 30
PUBLISHED_SEC = {"query, batch 1": 0.35, "query, batch 16": 0.83, "step of batch 2": 2.6, "reading": 0.056}


def options(**defaults: int) -> argparse.Namespace:
    """Command line of a benchmark: ``--threads`` and the given whole numbers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {chosen.threads} threads, load {os.getloadavg()[0]:.1f}")
    return chosen


def compare(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """(rounds, 2) wall and processor seconds of every call.

    The calls take turns, after a round that does not count.
    """
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            if turn > 0:
                seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: np.array(times) for name, times in seconds.items()}


def show(name: str, ours: np.ndarray, bases: Mapping[str, np.ndarray] | None = None) -> None:
    """One line: median seconds, and the median of the rounds' ratios to each base with its range."""
    wall, cpu = np.median(ours, axis=0)
    line = f"{name:36s} {wall:8.4f} s wall {cpu:8.4f} s cpu"
    for base, theirs in (bases or {}).items():
        ratios = theirs / ours
        middle, (low, _), (high, _) = (f(ratios, axis=0) for f in (np.median, np.min, np.max))
        line += f" | {middle[0]:5.1f} x ({low:.1f} - {high:.1f}) of {base}, {middle[1]:.1f} x cpu"
    print(line, flush=True)


def champion(**changes: object) -> Grounder:
    """The champion's network with random weights and scales at which every path counts."""
    return Grounder(ModelConfig(**({"scale_init": 0.5} | changes)))


def make_batch(
    num_steps: int, num_queries: int, num_clips: int = 1, video_dim: int = 2304, text_dim: int = 512
) -> Batch:
    """Random features: `num_clips` clips of `num_steps` steps, queries dealt to them in turn."""
    queries = range(num_queries)
    center = num_steps / 2
    return Batch.collate(
        clips=[torch.randn(num_steps, video_dim) for _ in range(num_clips)],
        texts=[torch.randn(8 + i % 9, text_dim) for i in queries],
        clip_index=[i % num_clips for i in queries],
        moments_grid=[torch.tensor([[center - 4.0 * 2 ** (i % 5), center + 9.0]]) for i in queries],
        query_ids=[f"q{i}" for i in queries],
        clip_uids=[f"c{i}" for i in range(num_clips)],
        durations_sec=[num_steps * STEP_SEC] * num_queries,
    )
