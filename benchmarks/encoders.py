"""Seconds per minute of video of each video encoder alone, with the real shapes and random weights.

    python benchmarks/encoders.py --threads 1

From frames of a short side of 256 pixels in memory to features: transform and network, without decoding. A minute has
112 steps. The least of the rounds counts: other programs only ever lengthen one.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from timing import STEP_SEC, options

sys.path.insert(0, str(Path(__file__).parents[1]))
from groundnlq.video import encoders
from groundnlq.video.encoders import LITE, VideoEncoder, load_encoder
from tests.published_encoders import egovlp_shapes, videomae_shapes


def random(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    return {name: torch.randn(shape) * 0.02 for name, shape in shapes.items()}


def clip_b32() -> VideoEncoder:
    """A random network of CLIP ViT-B/32's size, through `transformers` and its own processor."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    with tempfile.TemporaryDirectory() as folder:
        for made in (CLIPVisionModelWithProjection(CLIPVisionConfig()), CLIPImageProcessor()):
            made.save_pretrained(folder)
        return load_encoder(folder)


ENCODERS = {
    "egovlp": lambda: encoders._egovlp("egovlp", random(egovlp_shapes(224, 768, 12, 16, 256))),
    "videomae": lambda: encoders._videomae("videomae", random(videomae_shapes(1024, 24)), False),
    "CLIP ViT-B/32": clip_b32,
    LITE: lambda: load_encoder(LITE),
}


def least(call: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Wall and processor seconds."""
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter(), time.process_time()
        call()
        seconds.append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
    return min(wall for wall, _ in seconds), min(cpu for _, cpu in seconds)


def main() -> None:
    chosen = options(batch=2, rounds=3)
    print("encoder             parameters  precision  s wall  s cpu  of them transform, s cpu")
    for name, make in ENCODERS.items():
        encoder = make()
        size = sum(parameter.numel() for parameter in encoder.model.parameters()) / 1e6
        shape = (chosen.batch, encoder.num_frames, 256, 341, 3)
        frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
        minute = 60 / STEP_SEC / chosen.batch
        for precision in (torch.float32, torch.bfloat16):
            encoder.model.to(precision).eval()
            encoder.encode(frames[:1])
            wall, cpu = least(lambda made=encoder, film=frames: made.encode(film), chosen.rounds)
            _, part = least(lambda made=encoder, film=frames: made.transform(film.flatten(0, 1)), chosen.rounds)
            kind = str(precision).removeprefix("torch.")
            numbers = f"{wall * minute:7.1f} {cpu * minute:6.1f} {part * minute:7.1f}"
            print(f"{name:19s} {size:8.1f} M {kind:>10s} {numbers}", flush=True)


if __name__ == "__main__":
    main()
