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
from timing import compare, make_batch, options
from torch.utils.flop_counter import FlopCounterMode
from training import STEPS, our_step, several

from groundnlq.config import load_config
from groundnlq.model import layers
from groundnlq.model.grounder import Grounder
from groundnlq.video.towers import SmallEncoder

CLIP_SEC = 75.0
SIDE = 1536  # of the product that shows what this machine can do


def grounding_step(batch_size: int) -> Callable[[], None]:
    """The trainer's own, with the network that the sample's narrations train, on random features."""
    config = load_config("sample_pretrain")
    num_steps, widths = int(CLIP_SEC / config.data.grid.step_sec), (config.model.video_dim, config.model.text_dim)
    return our_step(Grounder(config.model).train(), make_batch(num_steps, batch_size, batch_size, *widths), "float32")


def encoder_step(batch_size: int) -> Callable[[], None]:
    """Forward and backward of stage one's video encoder, without its loss, text and optimizer."""
    align = load_config("sample_align").align
    assert align is not None
    network = SmallEncoder(align.channels, align.num_frames, align.width)
    frames = torch.randn(batch_size, align.num_frames, 3, align.size, align.size)
    return lambda: network(frames).square().mean().backward()


def flop(step: Callable[[], None]) -> float:
    """Of products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def computed_again(act: Callable[[], None]) -> Callable[[], None]:
    def patched() -> None:
        with patch.object(layers, "LARGE", 0):
            act()

    return patched


def main() -> None:
    chosen = options(rounds=7, batch=16)
    left, right, product = torch.randn(3, SIDE, SIDE)
    whole, smallest, encoder = grounding_step(chosen.batch), grounding_step(1), encoder_step(32)
    calls = {
        "product": several(lambda: torch.mm(left, right, out=product)),
        "step": several(whole),
        "small inputs computed again": computed_again(several(whole)),
        "step of one query": several(smallest),
        "stage one": several(encoder),
    }
    # processor time: other programs change it less than the wall clock
    spent = {name: seconds[:, 1] / STEPS for name, seconds in compare(calls, chosen.rounds).items()}
    rate = 2 * SIDE**3 / spent["product"]
    print(f"a product of {SIDE} x {SIDE}: {np.median(rate) / 1e9:.0f} GFLOP a second of processor time")
    for name, step in (("step", whole), ("stage one", encoder)):
        count, times = flop(step), 1e3 * float(np.median(spent[name]))
        needed = count / rate
        shares = " to ".join(f"{share:.0%}" for share in np.quantile(needed / spent[name], (0, 0.5, 1)))
        print(f"{name}: {count / 1e9:.2f} GFLOP need {1e3 * np.median(needed):.1f} of {times:.1f} ms, {shares}")
    print(f"a step of one query: {1e3 * np.median(spent['step of one query']):.1f} ms")
    ratio = np.median(spent["small inputs computed again"] / spent["step"])
    print(f"small inputs computed again in place of kept: {ratio:.3f} times the step")


if __name__ == "__main__":
    main()
