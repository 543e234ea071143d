"""A training step of the sample's network: its arithmetic, the time that this needs here, and what is lost.

    python benchmarks/small_step.py --threads 1

FLOP are those of products and convolutions, forward and backward, as PyTorch's `FlopCounterMode` counts them. What they
need is measured in every round with one large product; least, median and largest share of the rounds are printed. The
rest of a step is the gap: operations that only read and write memory, products that are too small, and what every step
costs whatever its batch (the step of one query). Below stand stage one's encoder, and what it would cost to compute
small inputs again in the backward pass in place of keeping them.
"""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import torch
from timing import compare, options
from torch.utils.flop_counter import FlopCounterMode

from groundnlq.config import load_config
from groundnlq.data.dataset import Batch
from groundnlq.engine.distributed import World
from groundnlq.engine.processor import memory_kept
from groundnlq.engine.step import Learner
from groundnlq.engine.task import Normaliser, Task
from groundnlq.model import layers
from groundnlq.model.grounder import Grounder
from groundnlq.model.losses import Criterion
from groundnlq.video.towers import SmallEncoder

CLIP_SEC, TOKENS = 110.0, 12
SIDE = 1536  # of the product that shows what this machine can do
STEPS = 5  # in a round


def grounding_step(batch_size: int) -> Callable[[], object]:
    """The trainer's own, of the preset that pretrains the sample's network, on random features."""
    config = load_config("sample_pretrain")
    num_steps = int(CLIP_SEC / config.data.grid.step_sec)
    batch = Batch.collate(
        clips=[torch.randn(num_steps, config.model.video_dim) for _ in range(batch_size)],
        texts=[torch.randn(TOKENS, config.model.text_dim) for _ in range(batch_size)],
        clip_index=range(batch_size),
        moments_grid=[torch.tensor([[20.0 + i, 25.0 + i]]) for i in range(batch_size)],
        query_ids=[f"q{i}" for i in range(batch_size)],
        clip_uids=[f"c{i}" for i in range(batch_size)],
        durations_sec=[CLIP_SEC] * batch_size,
    )
    loss = Criterion(config.train)
    task = Task(Grounder(config.model), loss, loss.weights, Normaliser(loss.normaliser, loss.update), own_rate=bool)
    learner = Learner(task, config.train, World())
    return lambda: learner.step([batch], 1e-6, seed=0)


def encoder_step(batch_size: int) -> Callable[[], object]:
    """Forward and backward of stage one's video encoder, without its loss, text and optimizer."""
    align = load_config("sample_align").align
    assert align is not None
    network = SmallEncoder(align.channels, align.num_frames, align.width)
    frames = torch.randn(batch_size, align.num_frames, 3, align.size, align.size)
    return lambda: network(frames).square().mean().backward()


def flop(step: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def several(step: Callable[[], object], steps: int = STEPS) -> Callable[[], None]:
    def act() -> None:
        for _ in range(steps):
            step()

    return act


def computed_again(act: Callable[[], None]) -> Callable[[], None]:
    def patched() -> None:
        with patch.object(layers, "LARGE", 0):
            act()

    return patched


def main() -> None:
    chosen = options(rounds=7, batch=16)
    left, right = torch.randn(2, SIDE, SIDE)
    whole, smallest, encoder = grounding_step(chosen.batch), grounding_step(1), encoder_step(32)
    calls = {
        "product": several(lambda: left @ right),
        "step": several(whole),
        "small inputs computed again": computed_again(several(whole)),
        "step of one query": several(smallest),
        "stage one": several(encoder),
    }
    with memory_kept():
        # processor time: other programs change it less than the wall clock
        spent = {name: seconds[:, 1] / STEPS for name, seconds in compare(calls, chosen.rounds).items()}
    rate = 2 * SIDE**3 / spent["product"]
    print(f"a product of {SIDE} x {SIDE}: {np.median(rate) / 1e9:.0f} GFLOP a second of processor time")
    for name, step in (("step", whole), ("stage one", encoder)):
        needed, times = flop(step) / rate, (1e3 * np.median(spent[name])).item()
        shares = " to ".join(f"{share:.0%}" for share in np.quantile(needed / spent[name], (0, 0.5, 1)))
        print(f"{name}: {flop(step) / 1e9:.2f} GFLOP need {1e3 * np.median(needed):.1f} of {times:.1f} ms, {shares}")
    print(f"a step of one query: {1e3 * np.median(spent['step of one query']):.1f} ms")
    ratio = np.median(spent["small inputs computed again"] / spent["step"])
    print(f"small inputs computed again in place of kept: {ratio:.3f} times the step")


if __name__ == "__main__":
    main()
