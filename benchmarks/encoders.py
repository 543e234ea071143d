"""Seconds per minute of video of each video encoder's arithmetic alone, with the real shapes and random weights.

    python benchmarks/encoders.py --threads 2 --batch 4

From frames of a short side of 256 pixels in memory to features: transform and network, without decoding. A minute has
112 steps. The least of three rounds counts: other programs only ever lengthen one.
"""

from __future__ import annotations

import sys
import tempfile
import time
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
    "videomae, of verbs or of nouns": lambda: encoders._videomae("videomae", random(videomae_shapes(1024, 24)), False),
    "CLIP ViT-B/32": clip_b32,
    LITE: lambda: load_encoder(LITE),
}


def main() -> None:
    chosen = options(batch=4, rounds=3)
    print(f"{'encoder':32s} {'parameters':>10s} {'precision':>9s} {'s per minute':>12s} {'of them transform':>17s}")
    for name, make in ENCODERS.items():
        encoder = make()
        size = sum(parameter.numel() for parameter in encoder.model.parameters()) / 1e6
        frames = torch.from_numpy(
            np.random.default_rng(0).integers(0, 256, (chosen.batch, encoder.num_frames, 256, 341, 3), dtype=np.uint8)
        )
        for precision in (torch.float32, torch.bfloat16):
            encoder.model.to(precision).eval()
            encoder.encode(frames[:1])
            whole, part = [], []
            for _ in range(chosen.rounds):
                begin = time.perf_counter()
                encoder.encode(frames)
                whole.append(time.perf_counter() - begin)
                begin = time.perf_counter()
                encoder.transform(frames.flatten(0, 1))
                part.append(time.perf_counter() - begin)
            minute = 60 / STEP_SEC / chosen.batch
            kind = str(precision).removeprefix("torch.")
            print(
                f"{name:32s} {size:8.1f} M {kind:>9s} {min(whole) * minute:12.1f} {min(part) * minute:17.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
