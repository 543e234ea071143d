"""How fast features of a video are extracted: seconds for a clip of eight minutes, its frames in memory."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import gpu_site  # noqa: F401  (first: the import path)
import torch
from gpu_setting import Setting
from gpu_timing import count_tflop, kernel_times, longest, milliseconds, peak_gib, rates
from timing import STEP_SEC

CLIP_SEC = 480.0
# of VideoMAE-L; its weights are random, since the time does not depend on them
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def check_video(setting: Setting) -> None:
    """All checks, or one line that says why there are none."""
    if importlib.util.find_spec("groundnlq.video") is None:
        setting.report.skip("extraction", "this version of the package has no groundnlq.video")
        return
    specs = [*setting.encoders, str(setting.folder / "videomae")]
    setting.report.check("(an encoder is written)", lambda: _write_videomae(setting, Path(specs[-1])), 15)
    for spec in specs:
        for precision in ("bfloat16", "float32"):
            name = f"extraction, {Path(spec).name}, {precision}"
            setting.report.check(name, lambda s=spec, p=precision: extraction(setting, s, p), 10)


def _write_videomae(setting: Setting, folder: Path) -> str:
    """A network of VideoMAE-L's shape in a folder, as `load_encoder` takes it."""
    from transformers import VideoMAEConfig, VideoMAEImageProcessor, VideoMAEModel

    torch.manual_seed(0)
    with setting.device:
        VideoMAEModel(VideoMAEConfig(**(SMALL if setting.is_quick else LARGE))).save_pretrained(folder)
    VideoMAEImageProcessor().save_pretrained(folder)
    return "VideoMAE-L's shape, random weights" + ", small" * setting.is_quick


def extraction(setting: Setting, spec: str, precision: Any) -> dict[str, Any]:
    """Batches of steps from uint8 frames in memory; decoding of the film is not in it."""
    from groundnlq.video.encoders import load_encoder

    encoder, found = load_encoder(spec, device=setting.device, precision=precision), {}
    side = encoder.short_side
    for size in (1, 2) if setting.is_quick else (8, 32):
        frames = torch.randint(256, (size, encoder.num_frames, side, side * 4 // 3, 3), dtype=torch.uint8)
        act = lambda frames=frames: encoder.encode(frames)  # noqa: E731
        taken, gib = peak_gib(lambda act=act: milliseconds(act, setting.device, 3, 1), setting.device)
        kernels = kernel_times(act, setting.device, 1)
        row = rates(taken, kernels, count_tflop(act), 0.0) | {"GiB": gib}
        found[f"{size} steps at once"] = {"s for a clip of 480 s": taken / size * CLIP_SEC / STEP_SEC / 1e3, **row}
    return found | longest(kernels)
