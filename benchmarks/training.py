"""A training step of the champion model against the stand-in: time, gradients, and the share of reading.

    python benchmarks/training.py --batch 2
    python benchmarks/training.py --batch 4

A step: forward, losses, backward, clipping, AdamW, the running average of the weights; clips of 900 steps.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from standin import StandIn, update_average
from timing import PUBLISHED_SEC, champion, compare, make_batch, options, show
from torch import nn

from groundnlq.config import TrainConfig
from groundnlq.data.dataset import Batch
from groundnlq.data.features import FeatureStore, write_features
from groundnlq.engine.distributed import World
from groundnlq.engine.processor import memory_kept
from groundnlq.engine.step import Learner, _make_optimizer
from groundnlq.engine.task import Normaliser, Task
from groundnlq.model.grounder import Grounder, Outputs
from groundnlq.model.losses import Criterion

RATE = 1e-6
STEPS = 5  # of the kit beside one of the stand-in


def our_step(model: Grounder, batch: Batch, precision: str) -> Callable[[], None]:
    """The trainer's own."""
    config = TrainConfig(precision=precision)
    loss = Criterion(config)
    task = Task(model, loss, loss.weights, Normaliser(loss.normaliser, loss.update), own_rate=bool)
    learner = Learner(task, config, World())

    def step() -> None:
        learner.step([batch], RATE, seed=0)

    return step


def published_step(model: StandIn, batch: Batch) -> Callable[[], None]:
    criterion, average = Criterion(TrainConfig()), copy.deepcopy(model)
    ours = _make_optimizer(model, 0.05, own_rate=bool).param_groups
    groups = [{name: group[name] for name in ("params", "weight_decay")} for group in ours]
    optimizer = torch.optim.AdamW(groups, lr=RATE)

    def step() -> None:
        optimizer.zero_grad()
        backward(criterion, model(batch), batch)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        update_average(average, model)

    return step


def backward(criterion: Criterion, outputs: Outputs, batch: Batch) -> None:
    """Gradients of the loss, divided by the running count of positives."""
    terms, num_positives = criterion(outputs, batch)
    criterion.update(num_positives)
    (sum(terms.values()) / criterion.normaliser).backward()


def gradient_difference(batch: Batch) -> float:
    """Largest difference of a parameter's gradient, relative to the largest entry of that gradient."""
    gradients = []
    for wrap in (nn.Identity(), StandIn):
        torch.manual_seed(1)
        model = champion(drop_path=0.0).train()
        backward(Criterion(TrainConfig()), wrap(model)(batch), batch)
        gradients.append([p.grad for p in model.parameters()])
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)) for a, b in zip(*gradients, strict=True))


def seconds_to_read(batch: Batch) -> float:
    """Least time from the file to a batch."""
    clips = [x[m].contiguous() for x, m in zip(batch.video, batch.video_mask, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        write_features(Path(folder, "f.h5"), zip(batch.clip_uids, clips, strict=True))
        store, times = FeatureStore(Path(folder, "f.h5")), []
        for _ in range(9):
            began = time.perf_counter()
            read = [store.read(uid) for uid in batch.clip_uids]
            texts = [x[m] for x, m in zip(batch.text, batch.text_mask, strict=True)]
            Batch.collate(
                read,
                texts,
                range(len(texts)),
                batch.moments_grid,
                batch.query_ids,
                batch.clip_uids,
                batch.durations_sec,
            )
            times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    chosen = options(batch=2, rounds=5)
    batch = make_batch(900, chosen.batch, chosen.batch)
    calls = {"stand-in": published_step(StandIn(champion().train()), batch)}
    calls |= {p: several(our_step(champion().train(), batch, p)) for p in ("float32", "bfloat16")}
    seconds = compare(calls, chosen.rounds)
    base = {"stand-in": seconds.pop("stand-in")}
    show(f"stand-in, step of batch {chosen.batch}", base["stand-in"])
    for precision, taken in seconds.items():
        show(f"kit, {precision}", taken / STEPS, base)
    if chosen.batch == 2:
        print(f"known of the published program on such a machine: {PUBLISHED_SEC['step of batch 2']} s")
    print(f"largest relative difference of a gradient (float32): {gradient_difference(batch):.1e}")
    reading = seconds_to_read(batch)
    share = reading / (np.median(seconds["bfloat16"][:, 1]) / STEPS)
    print(f"a batch is read in {1e3 * reading:.1f} ms, {share:.2%} of a bfloat16 step's processor time")
    print("(training reads the next batch during a step)")


def several(step: Callable[[], None]) -> Callable[[], None]:
    """A few steps with their memory kept, as `train` does; the first of them has to get it."""

    def steps() -> None:
        with memory_kept():
            for _ in range(STEPS):
                step()

    return steps


if __name__ == "__main__":
    main()
