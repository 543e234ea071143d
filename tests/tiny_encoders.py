"""Video encoders for tests: one without weights, and the weights of a small one."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from groundnlq.video.towers import SpaceTimeTransformer


@dataclass
class Colours:
    """Of every frame of a step, the mean colours of `fields` x `fields` parts; `calls` has the shapes of batches."""

    fields: int = 2
    num_frames: int = 2
    short_side: int = 16
    window_frames: float = 16.0
    stride_frames: float = 16.043
    tag: str = ""
    batch_size: int = 8
    calls: list = field(default_factory=list)

    @property
    def name(self):
        return f"colours{self.fields}x{self.num_frames}{self.tag}"

    @property
    def width(self):
        return 3 * self.fields**2 * self.num_frames

    @property
    def settings(self):
        return {"short_side": self.short_side}

    def frame_numbers(self, start_sec, end_sec, num_frames_at_30fps):
        first, last = 30 * start_sec, min(30 * end_sec, num_frames_at_30fps)
        middles = first + (np.arange(max(1, int((last - first) / self.stride_frames))) + 0.5) * self.stride_frames
        inside = ((np.arange(self.num_frames) + 0.5) / self.num_frames - 0.5) * self.window_frames
        numbers = np.floor(middles[:, None] + inside).astype(np.int64)
        return numbers.clip(int(first), max(int(first), int(np.ceil(last)) - 1))

    def encode(self, frames):
        self.calls.append(frames.shape)
        pixels = frames.float().flatten(0, 1).permute(0, 3, 1, 2)
        return torch.nn.functional.adaptive_avg_pool2d(pixels, self.fields).reshape(len(frames), -1)


def egovlp_file(folder: Path) -> Path:
    """Random weights of a small network in the published layout."""
    torch.manual_seed(0)
    model = SpaceTimeTransformer(width=64, depth=2, num_heads=1, grid=2, patch=16, max_frames=4, output_width=8)
    state = {key: torch.randn(value.shape) * 0.3 for key, value in model.state_dict().items()}
    renamed = {key if key.startswith("vid_proj") else f"video_model.{key}": value for key, value in state.items()}
    weights = {key.replace("vid_proj.", "vid_proj.0."): value for key, value in renamed.items()}
    torch.save({"state_dict": weights}, folder / "egovlp.pth")
    return folder / "egovlp.pth"
